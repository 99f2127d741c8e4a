"""How tokens lie in a host, as the host says it itself: what stands in front of the grid and behind it, the grid, and what the head reads.

Nothing is guessed. As many tokens in other rows have the right shape, so that a wrong guess would never be seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["TEXT", "Pooling", "Tokens", "above", "causal_mask_above", "pair_of", "patch_convolution", "said_by", "tokens_of"]

Pooling = Literal["token", "mean", "detection"]
"""What a head reads: the class token, the mean of all patches (or a pooling attention over them), or detection tokens."""

TEXT = "among the words of a text"
_DROPPED = "where patches are dropped at random in training"


@dataclass(frozen=True)
class Tokens:
    """What a tower says of its tokens; None where it says nothing."""

    prefix: int | None = None
    """Class tokens, registers and whatever else stands in front."""
    grid: tuple[int, int] | None = None
    """Rows and columns, of images of the size that the tower was built for; None where any size will do."""
    suffix: int = 0
    """Tokens behind the grid, as those of YOLOS for detection."""
    patch: tuple[float, float] | None = None
    """Pixels of an image to a row, and to a column."""
    pooling: Pooling | None = None
    no_grid: str = ""
    """Where the tokens lie that are no whole grid of one image; empty where they are one."""
    owner: nn.Module | None = None


def above(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules that a module lies in, the nearest first, the model last."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        yield model.get_submodule(".".join(parts[:depth]))


def tokens_of(model: nn.Module, name: str) -> Tokens:
    """What the nearest tower above a module says: a tower may be part of a larger model."""
    for owner in above(model, name):
        if (said := _said(owner)) is not None:
            return said
    return Tokens()


def said_by(model: nn.Module) -> Tokens:
    """What the first tower in a model says that knows what stands in front of its grid."""
    found = [said for module in model.modules() if (said := _said(module)) is not None]
    return next((said for said in found if said.prefix is not None), found[0] if found else Tokens())


def causal_mask_above(model: nn.Module, name: str) -> str:
    """Why only pairs will do, where the tower keeps a mask of pairs for its attentions, as the text towers of CLIP; empty where none does."""
    for owner in above(model, name):
        mask = getattr(owner, "attn_mask", None)
        if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) > 1:
            return (
                "it is given a mask of pairs, as text towers have, which are causal; leave text out of `where`, for example with where='visual.*' or "
                "where='vision_model.*'"
            )
        if _said(owner) is not None or patch_convolution(owner) is not None:
            # images: what stands above has its mask for somebody else
            return ""
    return ""


def patch_convolution(owner: nn.Module) -> nn.Conv2d | None:
    """The one convolution in a module that cuts patches."""
    found = [module for module in owner.modules() if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size != (1, 1)]
    return found[0] if len(found) == 1 else None


def pair_of(value: Any) -> tuple[int, int] | None:
    """Height and width, from a number or two."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list | torch.Size) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    return None


# -- who says what ----------------------------------------------------------------------------------------------------------------------------------


def _said(owner: nn.Module) -> Tokens | None:
    return next((said for reader in _READERS if (said := reader(owner)) is not None), None)


def _grid_of(image: tuple[int, int] | None, patch: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if image is None or patch is None else (image[0] // patch[0], image[1] // patch[1])


def _drops(module: Any) -> str:
    """Of timm and open_clip, which put an identity, or nothing, where no patch is dropped."""
    return "" if module is None or isinstance(module, nn.Identity) else _DROPPED


def _timm(owner: Any) -> Tokens | None:
    """timm, and ours, which are built on it."""
    embed, prefix = getattr(owner, "patch_embed", None), getattr(owner, "num_prefix_tokens", None)
    if not isinstance(embed, nn.Module) or not (isinstance(prefix, int) or hasattr(embed, "grid_size")):
        return None
    grid, image = pair_of(getattr(embed, "grid_size", None)), pair_of(getattr(embed, "img_size", None))
    patch: tuple[float, float] | None = pair_of(getattr(embed, "patch_size", None))
    if grid is not None and image is not None:
        patch = (image[0] / grid[0], image[1] / grid[1])
    pool, class_token = getattr(owner, "global_pool", None), isinstance(getattr(owner, "cls_token", None), Tensor)
    pooling: Pooling = "token" if class_token and pool in ("token", "", None) else "mean"
    return Tokens(prefix, grid, 0, patch, pooling, _drops(getattr(owner, "patch_drop", None)), owner)


def _torchvision(owner: Any) -> Tokens | None:
    """One class token, and images of one size."""
    image, patch = pair_of(getattr(owner, "image_size", None)), pair_of(getattr(owner, "patch_size", None))
    if not hasattr(owner, "class_token") or image is None or patch is None:
        return None
    return Tokens(1, _grid_of(image, patch), 0, patch, "token", owner=owner)


def _clip(owner: Any) -> Tokens | None:
    """open_clip's vision transformer, and OpenAI's, which knows a square alone."""
    first, convolution = getattr(owner, "class_embedding", None), getattr(owner, "conv1", None)
    if not isinstance(first, Tensor) or not isinstance(convolution, nn.Conv2d):
        return None
    patch = pair_of(convolution.stride)
    grid = pair_of(getattr(owner, "grid_size", None)) or _grid_of(pair_of(getattr(owner, "input_resolution", None)), patch)
    pooling: Pooling = "token" if getattr(owner, "attn_pool", None) is None and getattr(owner, "pool_type", "tok") != "avg" else "mean"
    return Tokens(1, grid, 0, patch, pooling, _drops(getattr(owner, "patch_dropout", None)), owner)


_FIRST = ("cls_token", "class_embedding", "distillation_token", "register_tokens")
_ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "dpt", "pixio", "yolos")
"""Families of transformers, by ``config.model_type``, that take images of any size without being told."""
_PYRAMIDS = ("swin", "swinv2")
_NO_GRID = {
    "vit_mae": "among the patches that a mask left over",
    "videomae": "among the patches of all frames of a video",
    "siglip2_vision_model": "among the patches of images of any proportions",
}
"""Families whose patches are no grid, though their configuration may say an ``image_size``."""


def _transformers(owner: Any) -> Tokens | None:
    """A tower of transformers: its configuration says the sizes, its embeddings hold the tokens that stand in front and behind."""
    config: Any = getattr(owner, "config", None)
    embeddings = getattr(owner, "embeddings", None)
    kind = getattr(config, "model_type", None)
    if kind is None or not isinstance(embeddings, nn.Module):
        return None
    if not hasattr(config, "patch_size"):
        return Tokens(no_grid=TEXT, owner=owner) if hasattr(config, "vocab_size") else None
    patch = pair_of(config.patch_size)
    if kind in _PYRAMIDS:
        return Tokens(0, None, 0, patch, "mean", owner=owner)
    prefix, suffix = sum(_count(embeddings, name) for name in _FIRST), _count(embeddings, "detection_tokens")
    grid = None if kind in _ANY_SIZE or kind in _NO_GRID else _grid_of(pair_of(getattr(config, "image_size", None)), patch)
    no_grid = "in front of detection tokens" if suffix else _NO_GRID.get(kind, "")
    reads_patches = getattr(config, "use_mean_pooling", False) or not prefix
    return Tokens(prefix, grid, suffix, patch, "detection" if suffix else "mean" if reads_patches else "token", no_grid, owner)


def _count(embeddings: nn.Module, name: str) -> int:
    value = getattr(embeddings, name, None)
    return 0 if not isinstance(value, Tensor) else 1 if value.ndim == 1 else value.shape[-2]


_READERS: list[Callable[[Any], Tokens | None]] = [_timm, _torchvision, _clip, _transformers]
