"""HaloNet, a residual network whose 3×3 convolutions are halo attention; and timm's hybrids of both, on our layer.

Paper      Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021 (arXiv 2103.12731), tables 2 and 4.
Official   none. Settings of H0 to H7 as two independent ports have them (keras_cv_attention_models, OpenGVLab/STM-Evaluation); hybrids are timm's ``byoanet``.
Formula    stem 7×7 stride 2, pool 3×3 stride 2; four stages of width w = 64 · 2^stage with 3, 3, l3, 3 blocks; 1×1 to d_f, mean, linear
           block   1×1 → w, norm, act;  halo attention, values r_v · w, norm, act;  1×1 → r_b · w, norm;  + shortcut, act
Differs    Queries and keys stay w wide, only values widen with r_v: with all three wider H5 to H7 would be far larger than published.
           Blocks need not tile the map, so any image goes; H7 at its 600 pixels has overhanging ones, masked and cropped.
           A stage of convolutions has 3×3 convolutions w wide in place of the attention, the r_v of their values is not used; the paper's own choice is
           unknown, as is its activation (ReLU here, as timm has it; ``act_layer="silu"`` as the keras port).
           Relative tables are as long as those that the published counts hold; ``tight_tables=True`` leaves their dead rows out.
Status     parameter counts equal to the published ones; hybrids: timm's state dicts load, outputs and gradients equal

Shapes     (B, 3, height, width) -> (B, classes)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .._errors import InputError, missing_extra, unknown
from ..attention import HaloAttention2d
from ..attention._halo_timm import halo_as_timm

try:
    from timm.models import byoanet, named_apply
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, SelfAttnBlock, _init_weights
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["HALONETS", "HaloBlock", "HaloNet", "HaloNetSize", "build_halonet", "build_timm_halonet"]


@dataclass(frozen=True, kw_only=True)
class HaloNetSize:
    """A row of the paper's table."""

    block_size: int
    halo_size: int
    r_v: float
    """Width of values over that of queries and keys."""
    r_b: float
    """Width of a block's output over that of its queries."""
    depths: tuple[int, ...]
    img_size: int
    num_features: int
    """d_f, width before the classifier; 0 for none of its own."""
    num_heads: tuple[int, ...] = (4, 8, 8, 8)
    width: int = 64


def _size(block_size: int, halo_size: int, r_v: float, r_b: float, l3: int, img_size: int, num_features: int) -> HaloNetSize:
    return HaloNetSize(block_size=block_size, halo_size=halo_size, r_v=r_v, r_b=r_b, depths=(3, 3, l3, 3), img_size=img_size, num_features=num_features)


HALONETS: dict[str, HaloNetSize] = {
    "h0": _size(8, 3, 1.0, 0.5, 7, 256, 0),
    "h1": _size(8, 3, 1.0, 1.0, 10, 256, 0),
    "h2": _size(8, 3, 1.0, 1.25, 11, 256, 0),
    "h3": _size(10, 3, 1.0, 1.5, 12, 320, 1024),
    "h4": _size(12, 2, 1.0, 3.0, 12, 384, 1280),
    "h5": _size(14, 2, 2.5, 2.0, 23, 448, 1536),
    "h6": _size(8, 4, 3.0, 2.75, 24, 512, 1536),
    "h7": _size(10, 3, 4.0, 3.5, 26, 600, 2048),
    "test": HaloNetSize(block_size=4, halo_size=1, r_v=2.0, r_b=1.5, depths=(1, 1, 1, 1), img_size=64, num_features=96, num_heads=(2, 4, 4, 4), width=16),
}
"""By name; ``test`` is a tiny one."""


class HaloNet(ByobNet):
    """timm's network of blocks, which asks halo attention what should not decay, and can start again."""

    def __init__(self, cfg: ByoModelCfg, *, zero_init_last: bool = True, **options: Any) -> None:
        super().__init__(cfg, zero_init_last=zero_init_last, **options)
        self.zero_init_last = zero_init_last

    def init_weights(self) -> None:
        """As at construction, running statistics too: for a model that was made on the meta device."""
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        named_apply(partial(_init_weights, zero_init_last=self.zero_init_last), self)

    def no_weight_decay(self) -> set[str]:
        """The tables of relative positions."""
        return {f"{prefix}.{name}" for prefix, module in self.named_modules() if isinstance(module, HaloAttention2d) for name in module.no_weight_decay()}


class HaloBlock(SelfAttnBlock):
    """timm's residual block around an attention, for one whose values are wider than its queries."""

    def __init__(self, in_chs: int, out_chs: int, *, layers: Any, device: Any = None, dtype: Any = None, **options: Any) -> None:
        super().__init__(in_chs, out_chs, layers=layers, device=device, dtype=dtype, **options)
        inner = self.self_attn.out_channels
        if inner != self.self_attn.channels:
            self.post_attn = layers.norm_act(inner, device=device, dtype=dtype)
            self.conv3_1x1 = layers.conv_norm_act(inner, out_chs, 1, apply_act=False, device=device, dtype=dtype)


def build_halonet(
    size: str | HaloNetSize = "h0", *, attention_stages: Sequence[int] | None = None, halo: Mapping[str, Any] | None = None, **options: Any
) -> HaloNet:
    """A HaloNet of the paper's family, or of your own size.

    Args:
        size: a name in :data:`HALONETS`, or what it stands for.
        attention_stages: stages that attend, counted from 1; the others convolve. All if None; ``(3, 4)`` is the paper's trade of a
            little accuracy for half of the time.
        halo: options of :class:`~foveal.HaloAttention2d`, such as ``{"tight_tables": True}``.
        options: of timm's ``ByobNet``: ``num_classes``, ``in_chans``, ``act_layer``, ``drop_path_rate``, ``output_stride=32`` …

    Raises:
        ValueError: an unknown size; a stage that there is not; a width that does not come out in whole channels; a dilated stage.

    Example:
        >>> build_halonet("test", num_classes=10)(torch.randn(1, 3, 50, 70)).shape
        torch.Size([1, 10])
    """
    if isinstance(size, str):
        if size not in HALONETS:
            raise unknown("size of HaloNet", size, HALONETS)
        size = HALONETS[size]
    return HaloNet(cfg=_family(size, attention_stages, halo or {}), **_checked(options))


def build_timm_halonet(network: str, *, halo: Mapping[str, Any] | None = None, **options: Any) -> HaloNet:
    """One of timm's networks with halo attention, on our layer: the same function, weights and names, and any image size.

    Args:
        network: its name in timm's ``byoanet``, such as ``"halonet26t"``.
        halo: ``{"mask_border": True, "strided_offsets": True}`` mends timm's geometry; weights load, the function is another.
        options: of timm's ``ByobNet``.

    Raises:
        ValueError: timm has no such model, or it has no halo attention.

    Example:
        >>> build_timm_halonet("halonet26t", num_classes=10, device="meta").num_features
        2048
    """
    known = {key: cfg for key, cfg in byoanet.model_cfgs.items() if any(_attends(block, cfg) for block in _blocks(cfg))}
    if network not in known:
        raise unknown("network of timm's with halo attention", network, known)
    layer, cfg = partial(halo_as_timm, **(halo or {})), known[network]

    def ours(block: ByoBlockCfg) -> ByoBlockCfg:
        return replace(block, self_attn_layer=layer) if block.self_attn_layer == "halo" else block  # type: ignore[arg-type]

    cfg = replace(cfg, blocks=tuple(ours(stage) if isinstance(stage, ByoBlockCfg) else tuple(map(ours, stage)) for stage in cfg.blocks))
    if cfg.self_attn_layer == "halo":
        cfg = replace(cfg, self_attn_layer=layer)  # type: ignore[arg-type]
    return HaloNet(cfg=cfg, **_checked(options))


def _family(size: HaloNetSize, attention_stages: Sequence[int] | None, halo: Mapping[str, Any]) -> ByoModelCfg:
    stages = range(1, len(size.depths) + 1)
    attention_stages = stages if attention_stages is None else attention_stages
    if not set(attention_stages) <= set(stages):
        raise InputError(f"attention_stages must be among {list(stages)}, got {list(attention_stages)}")
    config = {"block_size": size.block_size, "halo_size": size.halo_size, "value_ratio": size.r_v, "tight_tables": False} | dict(halo)
    layer = HaloAttention2d.Config(**config).layer()
    blocks = []
    for stage, depth, heads in zip(stages, size.depths, size.num_heads, strict=True):
        out = size.width * 2 ** (stage - 1) * size.r_b
        if out % 8:
            raise InputError(f"width · r_b must be a multiple of 8, to which timm rounds, got {out:g} in stage {stage}")
        common: dict[str, Any] = {"d": depth, "c": int(out), "s": 1 if stage == 1 else 2, "gs": 0, "br": 1 / size.r_b}
        if stage in attention_stages:
            blocks.append(ByoBlockCfg(partial(HaloBlock), **common, self_attn_layer=layer, self_attn_kwargs={"num_heads": heads}))  # type: ignore[arg-type]
        else:
            blocks.append(ByoBlockCfg("bottle", **common))
    return ByoModelCfg(tuple(blocks), downsample="conv1x1", stem_type="7x7", stem_pool="maxpool", stem_chs=size.width, num_features=size.num_features)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("output_stride", 32) != 32:
        raise InputError(f"halo attention has no dilated form, so output_stride must be 32, got {options['output_stride']}; give larger images")
    return options


def _blocks(cfg: ByoModelCfg) -> list[ByoBlockCfg]:
    return [block for stage in cfg.blocks for block in ((stage,) if isinstance(stage, ByoBlockCfg) else stage)]


def _attends(block: ByoBlockCfg, cfg: ByoModelCfg) -> bool:
    return block.type == "self_attn" and (block.self_attn_layer or cfg.self_attn_layer) == "halo"
