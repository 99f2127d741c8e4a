"""Softmax attention as a layer; see :mod:`foveal.functional.softmax`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..functional import softmax_attention, softmax_attention_map
from ._base import NormLayer, QKVAttention, timm_half
from ._core import Core, register_core
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new

__all__ = ["SoftmaxAttention", "SoftmaxCore"]


@register_core("softmax")
class SoftmaxCore(Core):
    """Every pair of tokens once, through PyTorch's fused kernel."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        return softmax_attention(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return softmax_attention_map(q, k, mask=mask, is_causal=is_causal)

    def macs(self, num_tokens: int, num_heads: int) -> int:
        return 2 * num_tokens**2 * num_heads * self.head_dim


@register("softmax", family="pairs")
class SoftmaxAttention(QKVAttention):
    """Multi-head softmax attention, equal to timm's ``Attention`` weight for weight. The baseline.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalise queries and keys per head.
        scale_norm: normalise before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on the map, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None. More makes a wider attention, the matched baseline of mechanisms with more parameters.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given.

    Example:
        >>> SoftmaxAttention(dim=64, num_heads=4)(torch.randn(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    takes_warm_start = "exact"
    takes_other_width = True
    has_one_stream = True

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: NormLayer | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        attn_head_dim: int | None = None,
    ) -> None:
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core="softmax",
        )

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        out = rest_is_new(self, adopt_layers(self, place))
        out.function = "kept"
        return out
