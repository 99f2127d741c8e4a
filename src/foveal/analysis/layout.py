"""Where tokens lie in the image: how many stand in front, and the grid of the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import InputError
from ..convert import find_host, originals_of

__all__ = ["Layout", "fold_to_grid", "look_from", "token_layout", "upsample"]


_ALL_PATCHES = ("swin", "swinv2")
"""Families of transformers without tokens in front, by ``config.model_type``."""


@dataclass(frozen=True)
class Layout:
    """``num_prefix_tokens`` tokens that lie nowhere (class, registers, distillation), then the rows of ``grid``."""

    num_prefix_tokens: int
    grid: tuple[int, int]


def token_layout(model: nn.Module, num_tokens: int, image_size: Sequence[int], *, num_prefix_tokens: int | None = None) -> Layout:
    """How the tokens of a model lie, from what the model says of itself.

    Args:
        model: plain, converted, or ours.
        num_tokens: of the sequence, prefix and all; the last side of a map.
        image_size: ``(H, W)`` of the image; patches are taken to be as high for its height as they are wide for its width.
        num_prefix_tokens: where the model does not say, or is wrong.

    Raises:
        ValueError: nobody says how many tokens stand in front; the others are no grid of the image's proportions.
    """
    prefix = _prefix(model) if num_prefix_tokens is None else num_prefix_tokens
    if prefix is None:
        raise InputError(f"{type(model).__name__} does not say how many of its {num_tokens} tokens stand in front of the grid; give num_prefix_tokens")
    high, wide = image_size
    patches = num_tokens - prefix
    rows = round(math.sqrt(max(patches, 0) * high / wide))
    columns = patches // rows if rows else 0
    if rows * columns != patches or patches < 1 or abs(rows * wide - columns * high) >= max(high, wide):
        raise InputError(f"{num_tokens} tokens with {prefix} in front are no grid of the proportions of an image of {high}×{wide}; give num_prefix_tokens")
    return Layout(prefix, (rows, columns))


def _prefix(model: nn.Module) -> int | None:
    """As a vision transformer in timm's manner says it of itself; else what conversion reads of the first attention that it knows; none in front of a map."""
    for module in model.modules():
        if isinstance(getattr(module, "num_prefix_tokens", None), int) and hasattr(module, "patch_embed"):
            return module.num_prefix_tokens  # type: ignore[return-value]
        if getattr(getattr(module, "config", None), "model_type", None) in _ALL_PATCHES:
            return 0
    originals = originals_of(model)
    for name, module in model.named_modules():
        module = originals.get(name, module)
        host = find_host(module)
        if host is None:
            continue
        try:
            place = host.read(module, model, name)
        except InputError:
            # it cannot be converted, which nobody asks here
            continue
        if place is not None and place.num_prefix_tokens is not None:
            return place.num_prefix_tokens
    return 0 if any(getattr(module, "form", None) == "maps" for module in model.modules()) else None


def fold_to_grid(
    rows: Tensor,
    layout: nn.Module | Layout | tuple[int, int],
    num_prefix_tokens: int | None = None,
    image_size: Sequence[int] | None = None,
) -> Tensor:
    """Rows over tokens as pictures over the grid, prefix tokens left out.

    Args:
        rows: ``(…, N)``, such as the row of the class token of every map, ``maps[:, :, 0]``.
        layout: the grid, its :class:`Layout`, or the model. A model needs ``image_size`` as well.
        num_prefix_tokens: tokens in front of a grid that is given as such; all that are too many if None.
        image_size: ``(H, W)``, for a model.

    Returns:
        ``(…, grid_h, grid_w)``.

    Raises:
        ValueError: tokens and grid do not fit; the model does not say how its tokens lie.

    Example:
        >>> fold_to_grid(torch.randn(2, 12, 197), (14, 14), 1).shape
        torch.Size([2, 12, 14, 14])
    """
    tokens = rows.shape[-1]
    if isinstance(layout, nn.Module):
        if image_size is None:
            raise InputError("folding by a model needs image_size=(H, W): the grid changes with the image")
        layout = token_layout(layout, tokens, image_size, num_prefix_tokens=num_prefix_tokens)
    elif not isinstance(layout, Layout):
        high, wide = layout
        layout = Layout(tokens - high * wide if num_prefix_tokens is None else num_prefix_tokens, (high, wide))
    first, (high, wide) = layout.num_prefix_tokens, layout.grid
    if first < 0 or tokens - first != high * wide:
        raise InputError(f"{tokens} tokens with {max(first, 0)} in front do not fill a grid of {high}×{wide}")
    return rows[..., first:].unflatten(-1, (high, wide))


def look_from(maps: Tensor, layout: Layout, query: tuple[int, int] | None = None) -> Tensor:
    """Where one looks from, over the grid: ``(…, Nq, Nk)`` to ``(…, grid_h, grid_w)``.

    Args:
        maps: of all tokens, or a rollout.
        layout: as :func:`token_layout` gives it.
        query: row and column of the patch that looks. If None, the first prefix token does, which is the class token where there is one, and without prefix
            tokens the mean over all patches, as pooling sees them.
    """
    if query is not None:
        row = maps[..., layout.num_prefix_tokens + query[0] * layout.grid[1] + query[1], :]
    else:
        row = maps[..., 0, :] if layout.num_prefix_tokens or maps.shape[-2] == 1 else maps.mean(-2)
    return fold_to_grid(row, layout)


def upsample(pictures: Tensor, image_size: Sequence[int]) -> Tensor:
    """Pictures over the grid, ``(…, grid_h, grid_w)``, to pictures over the pixels, ``(…, H, W)``, bilinear."""
    flat = pictures.reshape(1, -1, *pictures.shape[-2:])
    return F.interpolate(flat, size=tuple(image_size), mode="bilinear", align_corners=False).reshape(*pictures.shape[:-2], *image_size)
