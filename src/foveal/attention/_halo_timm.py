"""The geometry of timm's ``HaloAttn`` in our layer: no masked border, queries of stride 2 counted as neighbors, long tables. Its state dict fits as it is."""

from typing import Any

from ..functional.halo import HaloPath
from .halo_2d import HaloAttention2d

__all__ = ["halo_as_timm", "make_divisible"]


def halo_as_timm(
    dim: int,
    dim_out: int | None = None,
    feat_size: Any = None,
    stride: int = 1,
    num_heads: int = 8,
    dim_head: int | None = None,
    block_size: int = 8,
    halo_size: int = 3,
    qk_ratio: float = 1.0,
    qkv_bias: bool = False,
    avg_down: bool = False,
    scale_pos_embed: bool = False,
    mask_border: bool = False,
    strided_offsets: bool = False,
    path: HaloPath = "auto",
    device: Any = None,
    dtype: Any = None,
) -> HaloAttention2d:
    """Our layer under timm's constructor, whose ``feat_size`` is taken for timm's sake: no size is fixed.

    ``mask_border`` and ``strided_offsets`` mend its geometry.
    """
    dim_out = dim_out or dim
    return HaloAttention2d(
        dim,
        dim_out,
        num_heads,
        block_size,
        halo_size,
        stride,
        dim_head=dim_head or make_divisible(dim_out * qk_ratio) // num_heads,
        qkv_bias=qkv_bias,
        avg_down=avg_down,
        scale_pos_embed=scale_pos_embed,
        mask_border=mask_border,
        strided_offsets=strided_offsets,
        tight_tables=False,
        path=path,
        device=device,
        dtype=dtype,
    )


def make_divisible(width: float, divisor: int = 8) -> int:
    """timm's rounding of widths: to a multiple of the divisor, not more than a tenth down."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded
