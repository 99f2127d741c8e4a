"""Where tokens lie in the image: how many stand in front of the grid and behind it, the grid itself, and which of them the head reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import InputError
from ..convert import find_host, originals_of
from ..convert._layouts import Pooling, Tokens, pair_of, patch_convolution, said_by

__all__ = ["Layout", "fold_to_grid", "look_from", "token_layout", "upsample"]

_LOOKS: dict[Pooling, str] = {"token": "the class token", "mean": "the mean of all patches", "detection": "the mean of the detection tokens"}


@dataclass(frozen=True)
class Layout:
    """``num_prefix_tokens`` tokens that lie nowhere (class, registers, distillation), the rows of ``grid``, and ``num_suffix_tokens`` that lie nowhere."""

    num_prefix_tokens: int
    grid: tuple[int, int]
    num_suffix_tokens: int = 0
    pooling: Pooling | None = None
    """What the head reads: the class ``"token"``, which is the first, the ``"mean"`` of all patches, or ``"detection"`` tokens; None where nobody said."""

    @property
    def looks(self) -> str:
        """Who looks, unless a patch is named; in words."""
        return _LOOKS[self.pooling or ("token" if self.num_prefix_tokens else "mean")]


def token_layout(
    model: nn.Module,
    num_tokens: int,
    image_size: Sequence[int],
    *,
    num_prefix_tokens: int | None = None,
    grid_size: tuple[int, int] | None = None,
) -> Layout:
    """How the tokens of a model lie, from what the model says of itself: prefix tokens, size of the patches, and what its head reads.

    Args:
        model: plain, converted, or ours; it may be wrapped in another.
        num_tokens: of the sequence, prefix and all; the last side of a map.
        image_size: ``(H, W)`` of the image.
        num_prefix_tokens: where the model does not say, or is wrong. Of a model that says nothing of its patches either, they are then taken to be as high for
            the height of the image as they are wide for its width.
        grid_size: rows and columns, where the model does not say.

    Raises:
        ValueError: nobody says how many tokens stand in front, or how large patches are; the others are no grid of the image.
    """
    said, (high, wide) = said_by(model), image_size
    known, prefix = _prefix(model, said), num_prefix_tokens
    if prefix is None:
        prefix = known
    if prefix is None and grid_size is not None:
        prefix = num_tokens - grid_size[0] * grid_size[1] - said.suffix
    if prefix is None:
        raise InputError(
            f"{type(model).__name__} does not say how many of its {num_tokens} tokens stand in front of the grid; give num_prefix_tokens, "
            "and if patches are no squares grid_size=(rows, columns)"
        )
    patches = num_tokens - prefix - said.suffix
    if grid_size is not None:
        grids = [(grid_size[0], grid_size[1])]
    elif said.no_grid and num_prefix_tokens is None and not said.suffix:
        raise InputError(f"{type(model).__name__} has no grid of one image {said.no_grid}; give grid_size=(rows, columns) if you know better")
    else:
        grids = _grids(model, said, prefix, patches, (high, wide), num_prefix_tokens is not None)
    for grid in grids:
        if patches == grid[0] * grid[1] > 0:
            return Layout(prefix, grid, said.suffix, said.pooling)
        # class tokens may join in later layers, as in CaiT
        if num_tokens == grid[0] * grid[1] > 0 and num_prefix_tokens is None:
            return Layout(0, grid, 0, "mean")
    expected = " or ".join(dict.fromkeys(f"{rows}×{columns}" for rows, columns in grids[:2])) or "none that is known"
    raise InputError(
        f"{num_tokens} tokens with {prefix} in front are no grid of the proportions of an image of {high}×{wide}, which would be {expected}; give "
        "num_prefix_tokens or grid_size=(rows, columns)"
    )


def _grids(model: nn.Module, said: Tokens, prefix: int, patches: int, image: tuple[int, int], told: bool) -> list[tuple[int, int]]:
    """Grids that the image makes, the likeliest first; a pyramid makes several, each half the one before."""
    sizes = said.patch
    if sizes is None:
        convolution = patch_convolution(model)
        sizes = None if convolution is None else pair_of(tuple(convolution.stride))
    if sizes is not None:
        down, up = ([rounded(side / pixels) for side, pixels in zip(image, sizes, strict=True)] for rounded in (int, ceil))
        grids = [(down[0], down[1]), (up[0], up[1])]
        while prefix == 0 and min(grids[-1]) > 1 and _even(model, besides=patch_convolution(model)):
            grids.append((ceil(grids[-1][0] / 2), ceil(grids[-1][1] / 2)))
        return grids
    if said.grid is not None:
        return [said.grid]
    if not told and not _isotropic(model):
        raise InputError(
            f"{type(model).__name__} does not say how large its patches are, and that their number is a square says nothing: give grid_size=(rows, columns)"
        )
    rows = round((max(patches, 0) * image[0] / image[1]) ** 0.5)
    columns = patches // rows if rows else 0
    return [(rows, columns)] if abs(rows * image[1] - columns * image[0]) < max(image) else []


def _isotropic(model: nn.Module) -> bool:
    """Whether a network goes down step by step on feature maps, as fast in height as in width, so that its maps have the proportions of the image."""
    return _even(model) and (any(step != (1, 1) for step in _steps(model)) or _on_maps(model))


def _even(model: nn.Module, besides: nn.Module | None = None) -> bool:
    """Whether rows become fewer as columns do, in all of it but one part."""
    pooled = [pair_of(module.output_size) for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)]
    return all(step is not None and step[0] == step[1] for step in _steps(model, besides)) and all(size == (1, 1) for size in pooled)


def _steps(model: nn.Module, besides: nn.Module | None = None) -> list[tuple[int, int] | None]:
    kinds = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.Unfold
    return [pair_of(module.stride) for module in model.modules() if isinstance(module, kinds) and module is not besides]


def _on_maps(model: nn.Module) -> bool:
    return any(getattr(module, "form", None) == "2d" for module in model.modules())


def _prefix(model: nn.Module, said: Tokens) -> int | None:
    """As a tower says it of itself; else what conversion reads of the first attention that it knows; none in front of a map."""
    if said.prefix is not None:
        return said.prefix
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
    return 0 if _on_maps(model) else None


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
    if first < 0 or tokens - first - layout.num_suffix_tokens != high * wide:
        raise InputError(f"{tokens} tokens with {max(first, 0)} in front do not fill a grid of {high}×{wide}")
    return rows[..., first : tokens - layout.num_suffix_tokens].unflatten(-1, (high, wide))


def look_from(maps: Tensor, layout: Layout, query: tuple[int, int] | None = None) -> Tensor:
    """Where one looks from, over the grid: ``(…, Nq, Nk)`` to ``(…, grid_h, grid_w)``.

    Args:
        maps: of all tokens, or a rollout.
        layout: as :func:`token_layout` gives it.
        query: row and column of the patch that looks. If None, what the head reads does, see :attr:`Layout.looks`: the class token, or the mean over all
            patches, registers left out, where the head takes that mean. Where nobody said, the first prefix token, and without prefix tokens the mean.

    Raises:
        ValueError: a patch is to look, and those who look lie on another grid than those who are looked at, as where keys are pooled.
    """
    first = layout.num_prefix_tokens
    pooling = layout.pooling or ("token" if first else "mean")
    if query is not None:
        if maps.shape[-2] != maps.shape[-1]:
            raise InputError(f"{maps.shape[-2]} tokens look at {maps.shape[-1]} in this map, so that the grid of {layout.grid} is not theirs; leave query out")
        row = maps[..., first + query[0] * layout.grid[1] + query[1], :]
    elif maps.shape[-2] == 1 or pooling == "token":
        row = maps[..., 0, :]
    else:
        # keys may be pooled where queries are not: of those who look all but the first and last are patches
        last = maps.shape[-2] - layout.num_suffix_tokens
        row = (maps[..., first:last, :] if pooling == "mean" else maps[..., last:, :]).mean(-2)
    return fold_to_grid(row, layout)


def upsample(pictures: Tensor, image_size: Sequence[int]) -> Tensor:
    """Pictures over the grid, ``(…, grid_h, grid_w)``, to pictures over the pixels, ``(…, H, W)``, bilinear."""
    flat = pictures.reshape(1, -1, *pictures.shape[-2:])
    return F.interpolate(flat, size=tuple(image_size), mode="bilinear", align_corners=False).reshape(*pictures.shape[:-2], *image_size)
