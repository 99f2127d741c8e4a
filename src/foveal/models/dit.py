"""A diffusion transformer, DiT, with any token attention.

Paper      Peebles and Xie, "Scalable Diffusion Models with Transformers", 2022 (arXiv 2212.09748), Sec. 3, adaLN-Zero.
Official   facebookresearch/DiT, ``models.py``; names of parameters are its names.
Formula    x ← x + g₁ · attention(a₁ · LN(x) + b₁);   x ← x + g₂ · mlp(a₂ · LN(x) + b₂);   a − 1, b and g linear in SiLU(time + class), 0 at the start
Differs    It predicts the noise and no variance. The attention starts as it does everywhere here, which for softmax is a linear layer's own start, where the
           official text draws it by Xavier's rule.

Shapes     B batch, C channels of the image, D width, N patches, K classes
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra
from .._ranges import Range
from ..attention import CORES, FAMILIES, AttentionConfig, CrossSampleDictionary, TokenAttention, attention_class, config_from_dict, list_attentions
from ..attention._grid import set_grid
from ._built import Remembers
from ._conditioned import checked_inputs
from ._config import NAMED_OPTIONS, Arm, ModelConfig, register_model
from ._mlp import Mlp
from .vit import pair

try:
    from timm.layers import PatchEmbed
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["DiT", "DiffusionTransformer"]

NONE = "none"
"""In the place of an attention's name: patches do not meet."""
_FREQUENCIES, _LONGEST = 256, 10_000.0


class DiffusionTransformer(nn.Module, Remembers):
    """The network.

    Args:
        img_size: side of the images, or height and width.
        patch_size: side of a patch; must divide both.
        in_chans: C.
        num_classes: K; 0 for images without classes.
        dim: D, divisible by 4.
        depth: blocks.
        num_heads: of each attention.
        mlp_ratio: width of the MLP over D.
        attention: name of an attention on tokens, or none: then a block has its MLP alone, and no patch knows of another.
        options: of the attention, as in its ``Config``.

    Shape:
        images ``(B, C, H, W)``, timesteps ``(B,)``, classes ``(B,)`` -> predicted noise ``(B, C, H, W)``. Class K means none, and so does leaving it out.

    Raises:
        ValueError: patches that do not tile the image, an unknown attention or option, heads that do not fit. In ``forward``: inputs of another shape.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int],
        patch_size: int = 4,
        in_chans: int = 1,
        num_classes: int = 0,
        dim: int = 96,
        depth: int = 4,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        attention: str = "softmax",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        size = pair(img_size)
        if patch_size < 1 or any(side % patch_size for side in size):
            raise InputError(f"patches of side {patch_size} do not tile an image of {size[0]}×{size[1]}; give a patch_size that divides both")
        if dim % 4:
            raise InputError(f"positions take a quarter of the width for each sine and cosine, so it must be divisible by 4, got {dim}")
        if attention == NONE and options:
            raise InputError(f"without attention there are no options, got {options}; leave them out")
        self.img_size, self.patch_size, self.in_chans, self.num_classes = size, patch_size, in_chans, num_classes
        grid = (size[0] // patch_size, size[1] // patch_size)
        config = None if attention == NONE else set_grid(config_from_dict({"attention": attention, **(options or {})}), 0, grid)
        self.x_embedder = PatchEmbed(size, patch_size, in_chans, dim)
        self.t_embedder = _TimestepEmbedder(dim)
        self.y_embedder = _LabelEmbedder(num_classes, dim)
        self.register_buffer("pos_embed", _positions(grid, dim))
        self.blocks = nn.ModuleList(_Block(dim, num_heads, config, mlp_ratio) for _ in range(depth))
        for place, block in enumerate(self.blocks):
            if isinstance(block.attn, TokenAttention):
                block.attn.set_depth(place)
        if any(isinstance(module, CrossSampleDictionary) and not module.fitted for module in self.blocks.modules()):
            raise InputError("dictionaries that are fitted to images beforehand have no timestep to be fitted at; choose another init")
        self.final_layer = _FinalLayer(dim, patch_size**2 * in_chans)
        self._start_()

    def _start_(self) -> None:
        """As officially, but for the attentions."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".attn." not in name:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        if self.x_embedder.proj.bias is not None:
            nn.init.zeros_(self.x_embedder.proj.bias)
        for weight in (self.y_embedder.embedding_table.weight, *(layer.weight for layer in self.t_embedder.maps())):
            nn.init.normal_(weight, std=0.02)
        for block in self.modules():
            if isinstance(block, _Modulated):
                nn.init.zeros_(block.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = checked_inputs("diffusion transformer", x, t, y, in_chans=self.in_chans, size=self.img_size, num_classes=self.num_classes)
        condition = self.t_embedder(t) + self.y_embedder(y)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        return self._unpatched(self.final_layer(x, condition))

    def _unpatched(self, x: Tensor) -> Tensor:
        rows, columns = (side // self.patch_size for side in self.img_size)
        x = x.view(len(x), rows, columns, self.patch_size, self.patch_size, self.in_chans)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), self.in_chans, *self.img_size)

    def no_weight_decay(self) -> set[str]:
        """Parameters that the attentions say should not decay."""
        return {f"{prefix}.{name}" for prefix, module in self.named_modules() if isinstance(module, TokenAttention) for name in module.no_weight_decay()}


class _Modulated(nn.Module):
    """What of a block the timestep and the class decide."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.adaLN_modulation: Any = nn.Sequential(nn.SiLU(), nn.Linear(dim, parts * dim))
        self._parts = parts

    def modulation(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.adaLN_modulation(condition).unsqueeze(1).chunk(self._parts, dim=-1)


class _TanhGELU(nn.GELU):
    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class _Block(_Modulated):
    def __init__(self, dim: int, num_heads: int, config: AttentionConfig | None, mlp_ratio: float) -> None:
        # without an attention nothing would read its part of the modulation
        super().__init__(dim, 3 if config is None else 6)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn: Any = None if config is None else config.build(dim, num_heads=num_heads, qkv_bias=True)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=_TanhGELU)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        *first, shift, scale, gate = self.modulation(condition)
        if self.attn is not None:
            x = x + first[2] * self.attn(_moved(self.norm(x), first[0], first[1]))
        return x + gate * self.mlp(_moved(self.norm(x), shift, scale))


class _FinalLayer(_Modulated):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, 2)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)
        return self.linear(_moved(self.norm(x), shift, scale))


def _moved(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


class _TimestepEmbedder(nn.Module):
    """``(B,) -> (B, D)``: cosines and sines of 128 frequencies, and an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def maps(self) -> list[nn.Linear]:
        return [layer for layer in self.mlp if isinstance(layer, nn.Linear)]

    def forward(self, t: Tensor) -> Tensor:
        half = _FREQUENCIES // 2
        frequencies = torch.exp(-math.log(_LONGEST) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t.float()[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.maps()[0].weight.dtype))


class _LabelEmbedder(nn.Module):
    """``(B,) -> (B, D)``; the last row is that of no class."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


def _positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines of the column, then of the row, ``(1, N, D)``; not learned."""
    frequencies = _LONGEST ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=-1)[None].float()


@register_model
@dataclass(frozen=True, kw_only=True)
class DiT(ModelConfig):
    """A small diffusion transformer that predicts noise."""

    targets: ClassVar[str] = "images"
    trained_as: ClassVar[str] = "a denoiser"
    about: ClassVar[str] = "a small diffusion transformer"
    baseline: ClassVar[str] = "softmax"
    default_arms: ClassVar[tuple[str, ...]] = ("softmax", "softmax-wide", "denoising", "denoising-shared", "external", "none")
    rivals: ClassVar[dict[str, str]] = {"denoising": "softmax-wide"}
    ranges: ClassVar[dict[str, Range]] = {"mlp_ratio": Range(above=0)}

    attention: str = "softmax"
    """Name of an attention on tokens, out of foveal list; or none (patches do not meet)."""
    options: dict[str, Any] | None = None
    """Options of the attention, as in its ``Config``."""
    width: int = 96
    """Channels of a token; divisible by 4 and, unless the options say how wide heads are, by num_heads."""
    depth: int = 4
    """Blocks."""
    num_heads: int = 6
    """Of each attention."""
    patch_size: int = 4
    """Side of a patch in pixels."""
    mlp_ratio: float = 4.0
    """Width of the MLPs over that of tokens."""

    def build(self, *, img_size: int | tuple[int, int], in_chans: int, num_classes: int) -> DiffusionTransformer:
        """The network.

        Raises:
            ValueError: see :class:`DiffusionTransformer`.
        """
        return DiffusionTransformer(
            img_size=img_size,
            patch_size=self.patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            dim=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            attention=self.attention,
            options=self.options,
        )

    def smoke_model(self) -> "DiT":
        return replace(self, width=24, depth=2)

    def arms(self) -> dict[str, Arm]:
        """None, every attention on tokens, denoising over every core, and arms whose attentions have as many weights as another's, where heads divide so."""
        found = {NONE: self._arm(NONE, "no attention: the blocks map each patch by itself", NONE)}
        found |= {name: self._arm(name, FAMILIES[attention_class(name).family], name) for name in list_attentions(form="tokens")}
        found |= {
            f"denoising-{core}": self._arm(f"denoising-{core}", f"denoising over {core} attention", "denoising", {"core": core})
            for core in CORES
            if core != self.baseline
        }
        found |= {name: self._arm(name, about, attention, options) for name, (attention, about, options) in NAMED_OPTIONS.items()}
        heads = {"attn_head_dim": self.width // self.num_heads}
        if self.num_heads % 2 == 0:
            about = "softmax with 1.5 × the heads: as many weights as denoising"
            found["softmax-wide"] = self._arm("softmax-wide", about, "softmax", heads, self.num_heads * 3 // 2)
        if self.num_heads % 3 == 0:
            about = "denoising with 2/3 of the heads: as many weights as softmax"
            found["denoising-equal"] = self._arm("denoising-equal", about, "denoising", heads, self.num_heads * 2 // 3)
        return found

    def _arm(self, name: str, about: str, attention: str, options: dict[str, Any] | None = None, num_heads: int | None = None) -> Arm:
        return Arm(name, about, replace(self, attention=attention, options=options, num_heads=num_heads or self.num_heads))
