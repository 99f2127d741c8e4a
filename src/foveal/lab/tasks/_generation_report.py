"""Pictures of a finished run that draws images: what it draws of each class, which training images lie nearest, how the losses fell."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._files import replace_file
from ..data import DataBundle, Split
from ._image_grid import GAP, mosaic
from ._task import PrimaryMetric

__all__ = ["draw_curves", "draw_nearest", "draw_samples"]

_COLUMNS, _MOST_ROWS = 10, 20
_NEAR = 8
"""Drawn images beside their nearest."""
_JUDGED, _SEARCHED = 60, 20_000
"""Images whose nearest is sought, and training images that it is sought among."""
_INK, _GRAY, _DRAWN, _TEST = "#24292f", "#57606a", "#d1495b", "#30638e"
_DPI = 110

Draw = Callable[[Sequence[int]], Tensor]


def draw_samples(draw: Draw, bundle: DataBundle, folder: Path, *, about: str) -> Path:
    """``samples.png``: drawn images, a row for each class, and beside them real ones of the training."""
    kinds = list(range(max(len(bundle.classes), 1)))[:_MOST_ROWS]
    rows = kinds if bundle.classes else kinds * 6
    drawn = draw([kind for kind in rows for _ in range(_COLUMNS)]).unflatten(0, (len(rows), _COLUMNS))
    real = _of_classes(bundle.train, kinds, _COLUMNS // 2 * (len(rows) // len(kinds)))
    beside = [real[kind] for kind in kinds] if bundle.classes else [real[0][row * _COLUMNS // 2 : (row + 1) * _COLUMNS // 2] for row in range(len(rows))]
    height, width = drawn.shape[-2:]
    scale = _scale(height)
    left, right = (mosaic([list(row) for row in grid], columns, scale=scale) for grid, columns in ((drawn, _COLUMNS), (beside, _COLUMNS // 2)))
    cell = 0.42 * max(1.0, width / height)
    figure = _figure((cell * (1.5 * _COLUMNS + 2), 0.42 * len(rows) + 1.0))
    axes = figure.subplots(1, 2, width_ratios=(left.shape[1], right.shape[1]))
    for place, picture, title in zip(axes, (left, right), ("drawn", "training images"), strict=True):
        place.imshow(picture, interpolation="nearest", aspect="equal")
        place.set_title(title, fontsize=10, color=_INK, loc="left")
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    if bundle.classes:
        middles = [(scale * height + GAP) * row + scale * height / 2 for row in range(len(rows))]
        axes[0].set_yticks(middles, [bundle.classes[kind] for kind in kinds], fontsize=9)
        axes[0].tick_params(length=0)
    left_out = f"; the first {len(kinds)} of {len(bundle.classes)} classes" if len(kinds) < len(bundle.classes) else ""
    figure.suptitle(f"What the network draws ({about}{left_out})", fontsize=11, color=_INK)
    return _put(figure, folder / "samples.png")


def draw_nearest(draw: Draw, bundle: DataBundle, folder: Path) -> Path:
    """``nearest.png``: drawn images above the training images nearest to them in their pixels, and these distances beside those of test images."""
    train = torch.stack([bundle.train[place][0] for place in range(min(_SEARCHED, len(bundle.train)))])
    test = torch.stack([bundle.test[place][0] for place in range(min(_JUDGED, len(bundle.test)))])
    kinds = max(len(bundle.classes), 1)
    drawn = draw([place % kinds for place in range(_JUDGED)])
    (own, places), (others, _) = nearest(drawn, train), nearest(test, train)
    limit = float(np.quantile(others.numpy(), 0.01))
    near = int((own < limit).sum())
    chosen = list(range(min(_NEAR, len(drawn))))
    figure = _figure((11, 3.2))
    axes = figure.subplots(1, 2, width_ratios=(3, 2))
    scale = _scale(drawn.shape[-2])
    height, width = (scale * side for side in drawn.shape[-2:])
    axes[0].imshow(mosaic([[drawn[n] for n in chosen], [train[int(places[n])] for n in chosen]], len(chosen), scale=scale), interpolation="nearest")
    axes[0].set_yticks([height / 2, 1.5 * height + GAP], ["drawn", "nearest"], fontsize=9)
    axes[0].set_xticks([(width + GAP) * n + width / 2 for n in chosen], [f"{own[n]:.2f}" for n in chosen], fontsize=9, color=_GRAY)
    axes[0].tick_params(length=0)
    axes[0].spines[:].set_visible(False)
    axes[0].set_title("and the distance", fontsize=9, color=_GRAY, y=-0.28)
    bins = np.linspace(0, 1.05 * float(torch.cat([own, others]).max()) + 1e-6, 25)
    for distances, color, name in ((own, _DRAWN, "drawn"), (others, _TEST, "test images")):
        axes[1].hist(distances.numpy(), bins, color=color, alpha=0.55, label=name)
    axes[1].axvline(limit, color=_GRAY, linestyle=":", linewidth=1)
    axes[1].set_xlabel("RMS distance to the nearest training image", fontsize=9)
    axes[1].set_ylabel("images", fontsize=9)
    axes[1].tick_params(labelsize=8)
    axes[1].spines[["top", "right"]].set_visible(False)
    axes[1].legend(fontsize=9, frameon=False, loc="upper left")
    found = f"{near} of {len(own)} drawn images lie nearer to one of {len(train):,} training images than 99 of 100 test images do"
    figure.suptitle(found, fontsize=11, color=_INK)
    return _put(figure, folder / "nearest.png")


def nearest(images: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The least root-mean-square difference of pixels to one of ``among``, and which one that is, ``(n,)`` each."""
    distances = torch.cdist(images.flatten(1).double(), among.flatten(1).double()) / images[0].numel() ** 0.5
    found = distances.min(1)
    return found.values, found.indices


def draw_curves(folder: Path, judged_by: PrimaryMetric) -> list[Path]:
    """``curves.png`` out of the history that lies beside ``folder``; none where there is none, or a single evaluation."""
    path = folder.parent / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    if len(lines) < 2:
        return []
    steps = [line["step"] for line in lines]
    figure = _figure((9, 3.4))
    axes = figure.subplots(1, 2)
    name = f"val_{judged_by.name}"
    axes[0].plot(steps, [line["train_loss"] for line in lines], color=_GRAY, marker=".", linewidth=1, label="training loss, since the last")
    axes[0].plot(steps, [line[name] for line in lines], color=_DRAWN, marker=".", label="validation, at fixed noise")
    parts = sorted(key for key in lines[0] if key.startswith(f"{name}_"))
    from matplotlib import colormaps

    for place, key in enumerate(parts):
        label = {0: "least noise", len(parts) - 1: "most noise"}.get(place, f"quarter {place + 1}")
        color = colormaps["viridis"](0.85 * place / max(len(parts) - 1, 1))
        axes[1].plot(steps, [line[key] for line in lines], color=color, marker=".", label=label)
    for place, title in zip(axes, (judged_by.label.capitalize(), "Validation, by quarters of the timesteps"), strict=True):
        place.set_yscale("log")
        place.set_title(title, fontsize=10, color=_INK, loc="left")
        place.set_xlabel("step", fontsize=9)
        place.tick_params(labelsize=8, which="both")
        place.grid(alpha=0.25, which="both")
        place.spines[["top", "right"]].set_visible(False)
        place.legend(fontsize=8, frameon=False)
    return [_put(figure, folder / "curves.png")]


def _of_classes(split: Split, kinds: Sequence[int], count: int) -> dict[int, list[Tensor]]:
    """The first so many images of each class, as far as they go."""
    found: dict[int, list[Tensor]] = {kind: [] for kind in kinds}
    for place in range(len(split)):
        image, label = split[place]
        if len(found.get(int(label), [None] * count)) < count:
            found[int(label)].append(image)
        if all(len(images) == count for images in found.values()):
            break
    return found


def _scale(height: int) -> int:
    """Of small images, so that the gaps between them are narrow beside them."""
    return max(1, 32 // height)


def _figure(inches: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _put(figure: Any, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    replace_file(path, content.getvalue())
    return path
