"""A vision transformer with any token attention: timm's ``VisionTransformer``, sized by one dial.

Equal budgets by construction. Per layer, in units of C² weights: softmax 4, centered 4 and a λ a head, denoising 6, with shared values 5, external 2 and its
memories. So

===================  ==================================================  =======
arm                  attention                                           weights
===================  ==================================================  =======
``softmax-wide``     softmax with 1.5 × the heads, of equal width        6 C²
``softmax-many``     softmax with twice the heads, of 3/4 of the width   6 C²
``softmax-2H``       softmax with twice the heads: denoising without     8 C²
                     its ties
``denoising-equal``  denoising with 2/3 of the heads, of equal width     4 C²
===================  ==================================================  =======
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from ..attention import CORES, FAMILIES, AttentionConfig, TokenAttention, attention_class, config_from_dict, list_attentions
from ..attention._grid import check_grid, has_windows, set_grid, set_grid_
from ._built import Remembers
from ._config import NAMED_OPTIONS, Arm, ModelConfig, register_model
from ._mlp import Mlp

try:
    from timm.models import VisionTransformer as _VisionTransformer
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["SIZES", "Size", "ViT", "VisionTransformer", "scaled_heads", "share_initial_weights_"]

Size = Literal["tiny", "small", "base"]


def pair(side: Any) -> Any:
    """A number as height and width; a pair, or None, as it is."""
    return (side, side) if isinstance(side, int) else side


def patch_grid(vit: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches, from the options of timm's ``VisionTransformer``."""
    size, patch = pair(vit.get("img_size", 224)), pair(vit.get("patch_size", 16))
    return size[0] // patch[0], size[1] // patch[1]


@dataclass(frozen=True)
class _Dial:
    dim: int
    depth: int
    num_heads: int


# heads are divisible by 6, so that 1.5 × and 2/3 of them are whole
SIZES: dict[str, _Dial] = {"tiny": _Dial(48, 3, 6), "small": _Dial(192, 6, 6), "base": _Dial(384, 12, 6)}


class VisionTransformer(_VisionTransformer, Remembers):
    """timm's, which asks each attention what should not decay and tells it how deep it lies.

    Args:
        attention: name of an attention; timm's ``attn_layer`` decides if None.
        options: its options, as in its ``Config``.
        vit: the options of timm's ``VisionTransformer``.

    Raises:
        ValueError: an unknown attention or option; both ``attention`` and ``attn_layer``; an attention in windows and ``patch_drop_rate``. In ``forward``:
            an image whose patches are another grid than an attention in windows was told of.
    """

    def __init__(self, *, attention: str | None = None, options: dict[str, Any] | None = None, **vit: Any) -> None:
        if attention is not None:
            if "attn_layer" in vit:
                raise InputError(f"expected attention or attn_layer, got both: {attention!r} and {vit['attn_layer']}; leave one out")
            prefix = int(vit.get("class_token", True)) + int(vit.get("reg_tokens", 0))
            config = config_from_dict({"attention": attention, **(options or {})})
            vit["attn_layer"] = set_grid(config, prefix, None if vit.get("dynamic_img_size") else patch_grid(vit)).layer()
        super().__init__(**{"mlp_layer": Mlp, **vit})
        for depth, block in enumerate(self.blocks):
            if isinstance(block.attn, TokenAttention):
                block.attn.set_depth(depth)
        if vit.get("patch_drop_rate") and any(has_windows(getattr(block, "attn", None)) for block in self.blocks):
            raise InputError("patch_drop_rate leaves no grid for attention in windows; leave it at 0, or choose an attention without windows")

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None) -> None:
        """timm's, and attentions with windows are told of the grid."""
        super().set_input_size(img_size=pair(img_size), patch_size=pair(patch_size))
        set_grid_(self.blocks, self.patch_embed.grid_size)

    def _pos_embed(self, x: Tensor) -> Tensor:
        # with dynamic_img_size patches come on their grid
        grid = (x.shape[1], x.shape[2]) if self.dynamic_img_size else self.patch_embed.grid_size
        for block in self.blocks:
            if has_windows(attn := getattr(block, "attn", None)):
                check_grid(attn, grid)
        return super()._pos_embed(x)

    def no_weight_decay(self) -> set[str]:
        own = {f"{prefix}.{name}" for prefix, module in self.named_modules() if isinstance(module, TokenAttention) for name in module.no_weight_decay()}
        return set(super().no_weight_decay()) | own


@register_model
@dataclass(frozen=True, kw_only=True)
class ViT(ModelConfig):
    """What to build. Unless ``patch_size`` says otherwise, images of any size are cut in 8×8 patches, or 6×6 where 8 does not divide the side."""

    targets: ClassVar[str] = "labels"
    about: ClassVar[str] = "a small vision transformer"
    baseline: ClassVar[str] = "softmax"
    default_arms: ClassVar[tuple[str, ...]] = ("softmax", "softmax-wide", "denoising", "denoising-shared", "external")
    rivals: ClassVar[dict[str, str]] = {"denoising": "softmax-wide"}

    attention: str = "softmax"
    """Name of an attention on tokens, out of foveal list."""
    options: dict[str, Any] | None = None
    """Options of the attention, as in its ``Config``."""
    size: Size = "tiny"
    """tiny, small and base are 48, 192 and 384 wide and 3, 6 and 12 blocks deep."""
    num_heads: int | None = None
    """Of the dial if None. Heads keep the width they have there, so other numbers make a wider or a narrower attention."""
    depth: int | None = None
    """Blocks; of the dial if None."""
    patch_size: int | None = None
    """Side of a patch in pixels; from the image's side if None."""
    drop_path: float = 0.0
    """Stochastic depth, which grows from 0 to this."""
    global_pool: Literal["token", "avg"] = "token"
    """What the head reads: a class token, or the mean of the patches of a network without one."""

    def config(self) -> AttentionConfig:
        return config_from_dict({"attention": self.attention, **(self.options or {})})

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> VisionTransformer:
        """The model.

        Raises:
            ValueError: an unknown size or attention, an image that patches do not tile, heads that do not fit.
        """
        if self.size not in SIZES:
            raise unknown("size", self.size, SIZES)
        dial = SIZES[self.size]
        patch_size = self.patch_size or next((img_size // n for n in (8, 6) if img_size % n == 0), 0)
        if patch_size < 1 or img_size % patch_size:
            what = f"patches of side {self.patch_size}" if self.patch_size else "8 × 8 patches, and 6 × 6,"
            raise InputError(f"{what} do not tile an image of side {img_size}; give patch_size, or an image side divisible by 8")
        config, num_heads = self.config(), self.num_heads or dial.num_heads
        if num_heads != dial.num_heads and getattr(config, "attn_head_dim", None) is None:
            if not hasattr(config, "attn_head_dim"):
                raise InputError(f"{self.attention} attention cannot have {num_heads} heads of a width apart from dim / num_heads; leave num_heads out")
            config = config_from_dict(config.to_dict() | {"attn_head_dim": dial.dim // dial.num_heads})
        return VisionTransformer(
            attention=config.attention,
            options=config.options(),
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=dial.dim,
            depth=self.depth or dial.depth,
            num_heads=num_heads,
            drop_path_rate=self.drop_path,
            global_pool=self.global_pool,
            class_token=self.global_pool == "token",
        )

    def arms(self) -> dict[str, Arm]:
        """Every attention on tokens, denoising over every core, and arms whose parameters equal those of another, by construction."""
        found = {name: self._arm(name, FAMILIES[attention_class(name).family], name) for name in list_attentions(form="tokens")}
        found |= {
            f"denoising-{core}": self._arm(f"denoising-{core}", f"denoising over {core} attention", "denoising", options={"core": core})
            for core in CORES
            if core != self.baseline
        }
        found |= {name: self._arm(name, about, attention, options=options) for name, (attention, about, options) in NAMED_OPTIONS.items()}
        about = "softmax with 1.5 × the heads: as many weights as denoising"
        found["softmax-wide"] = self._arm("softmax-wide", about, "softmax", num_heads=scaled_heads(self.size, 3, 2))
        twice, width = scaled_heads(self.size, 2, 1), SIZES[self.size].dim // SIZES[self.size].num_heads
        about = "softmax with twice the heads, of three quarters of the width: as many weights as denoising, and as many maps"
        found["softmax-many"] = self._arm("softmax-many", about, "softmax", options={"attn_head_dim": width * 3 // 4}, num_heads=twice)
        about = "softmax with twice the heads: denoising without its ties, and a third more weights"
        found["softmax-2H"] = self._arm("softmax-2H", about, "softmax", num_heads=twice)
        about = "denoising with 2/3 of the heads: as many weights as softmax"
        found["denoising-equal"] = self._arm("denoising-equal", about, "denoising", num_heads=scaled_heads(self.size, 2, 3))
        return found

    def _arm(self, name: str, about: str, attention: str, *, options: dict[str, Any] | None = None, num_heads: int | None = None) -> Arm:
        return Arm(name, about, replace(self, attention=attention, options=options, num_heads=num_heads))


def scaled_heads(size: Size, numerator: int, denominator: int) -> int:
    """The dial's number of heads times a fraction, which must come out whole."""
    heads = SIZES[size].num_heads * numerator
    assert heads % denominator == 0, f"{numerator}/{denominator} of {SIZES[size].num_heads} heads is no whole number"
    return heads // denominator


@torch.no_grad()
def share_initial_weights_(model: nn.Module, source: nn.Module) -> list[str]:
    """Copy every parameter that ``source`` has under the same name and shape; return their names.

    Two mechanisms then start from the same patch embedding, norms, MLPs and head, and from the same projections as far as they have the same.
    """
    wanted = dict(source.named_parameters())
    shared = [name for name, value in model.named_parameters() if name in wanted and wanted[name].shape == value.shape]
    own = dict(model.named_parameters())
    for name in shared:
        own[name].copy_(wanted[name])
    return shared
