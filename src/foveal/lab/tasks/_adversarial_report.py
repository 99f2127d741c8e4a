"""Pictures of a finished adversarial run that the other tasks that draw have not: what lies between two images, and two losses that pull against each other."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data import DataBundle, seed_of
from ._figures import DRAWN, GRAY, INK, REAL, new_figure, put, scale_of
from ._image_grid import mosaic

__all__ = ["draw_interpolation", "draw_losses", "slerp"]

_STEPS, _ROWS = 9, 4

Decode = Callable[[Tensor, Sequence[int]], Tensor]


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Along the great circle from a to b, ``(Z,)`` each: what lies on a straight line between two Gaussian draws is shorter than any draw."""
    angle = torch.arccos((a / a.norm() @ (b / b.norm())).clamp(-1, 1))
    if angle < 1e-6:
        return a
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def draw_interpolation(decode: Decode, bundle: DataBundle, width: int, folder: Path) -> Path:
    """``interpolation.png``: rows from one latent to another within a class, and where there are classes rows of one latent in each."""
    ends = torch.stack([torch.randn(width, generator=torch.Generator().manual_seed(seed_of("interpolation", place))) for place in range(2 * _ROWS)])
    kinds = max(len(bundle.classes), 1)
    between = torch.cat([torch.stack([slerp(ends[2 * row], ends[2 * row + 1], n / (_STEPS - 1)) for n in range(_STEPS)]) for row in range(_ROWS)])
    parts = [
        (
            "between two latents, in one class" if bundle.classes else "between two latents",
            decode(between, [row % kinds for row in range(_ROWS) for _ in range(_STEPS)]),
            _STEPS,
        )
    ]
    if bundle.classes:
        shown = min(kinds, 10)
        parts.append(("one latent, in each class", decode(ends[:_ROWS].repeat_interleave(shown, 0), list(range(shown)) * _ROWS), shown))
    scale = scale_of(parts[0][1].shape[-2])
    figure = new_figure((11, 2.6))
    axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for place, (title, images, columns) in zip(axes, parts, strict=True):
        place.imshow(mosaic([list(row) for row in images.split(columns)], columns, scale=scale), interpolation="nearest")
        place.set_title(title, fontsize=10, color=INK, loc="left")
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    return put(figure, folder / "interpolation.png")


def draw_losses(folder: Path) -> list[Path]:
    """``curves.png`` out of the history that lies beside ``folder``; none where there is none, or a single evaluation."""
    path = folder.parent / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    if len(lines) < 2:
        return []
    steps = [line["step"] for line in lines]
    figure = new_figure((9, 3.4))
    axes = figure.subplots(1, 2)
    for key, color, label in (
        ("train_d_loss", DRAWN, "discriminator"),
        ("train_g_loss", REAL, "generator"),
        ("val_hinge", GRAY, "discriminator, validation"),
    ):
        axes[0].plot(steps, [line[key] for line in lines], color=color, marker=".", linewidth=1, label=label)
    for key, color, label in (
        ("train_d_real", REAL, "real"),
        ("train_d_fake", DRAWN, "drawn"),
        ("val_d_real", GRAY, "real, validation"),
    ):
        axes[1].plot(steps, [line[key] for line in lines], color=color, marker=".", linewidth=1, label=label)
    axes[0].axhline(2, color=GRAY, linestyle=":", linewidth=1)
    for place, title in zip(axes, ("Losses; 2 tells nothing apart", "Mean scores"), strict=True):
        place.set_title(title, fontsize=10, color=INK, loc="left")
        place.set_xlabel("step", fontsize=9)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
        place.legend(fontsize=8, frameon=False)
    return [put(figure, folder / "curves.png")]
