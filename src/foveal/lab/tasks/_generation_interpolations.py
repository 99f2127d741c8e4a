"""The picture of ways between drawn images: from one noise to another, and one noise through all classes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ._figures import INK, bare, new_figure, put, scale_of
from ._image_grid import GAP, mosaic

__all__ = ["draw_interpolations", "slerp"]

_COLUMNS, _MOST = 8, 10


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between two noises along the sphere, so that what lies between is as long as noise is; a at 0 and b at 1."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, share)
    return (((1 - share) * angle).sin() / angle.sin()).to(a.dtype) * a + ((share * angle).sin() / angle.sin()).to(a.dtype) * b


def draw_interpolations(draw: Callable[[Tensor, Sequence[int]], Tensor], latents: Tensor, classes: Sequence[str], folder: Path) -> Path:
    """``interpolations.png``.

    Args:
        draw: images out of noises and classes.
        latents: noises ``(n, …)``, n even: each row goes from one of the first half to one of the second.
        classes: names; where there are none, there is no second part.
        folder: where to.
    """
    half = len(latents) // 2
    kinds = [row * len(classes) // half if classes else 0 for row in range(half)]
    between = [slerp(latents[row], latents[half + row], column / (_COLUMNS - 1)) for row in range(half) for column in range(_COLUMNS)]
    grids = [draw(torch.stack(between), [kind for kind in kinds for _ in range(_COLUMNS)]).unflatten(0, (half, _COLUMNS))]
    titles = ["from one noise to another, class by class" if classes else "from one noise to another"]
    if classes:
        shown = list(range(len(classes)))[:_MOST]
        every = latents[:half].repeat_interleave(len(shown), 0)
        grids.append(draw(every, shown * half).unflatten(0, (half, len(shown))))
        titles.append("one noise a row, through the classes")
    height, width = grids[0].shape[-2:]
    scale = scale_of(height)
    columns = [grid.shape[1] for grid in grids]
    cell = 0.42 * max(1.0, width / height)
    figure = new_figure((cell * (sum(columns) + 2), 0.42 * half + 1.0))
    axes = figure.subplots(1, len(grids), width_ratios=columns, squeeze=False)[0]
    for place, grid, title in zip(axes, grids, titles, strict=True):
        place.imshow(mosaic([list(row) for row in grid], grid.shape[1], scale=scale), interpolation="nearest")
        bare(place)
        place.set_title(title, fontsize=10, color=INK, loc="left")
    if classes:
        axes[0].set_yticks([(scale * height + GAP) * row + scale * height / 2 for row in range(half)], [classes[kind] for kind in kinds], fontsize=9)
    return put(figure, folder / "interpolations.png")
