"""Pictures of a finished run that draws images: what it draws of each class, and how the losses fell."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ..._files import parse_json
from ..data import DataBundle, Split
from ._figures import DRAWN, GRAY, INK, new_figure, put, scale_of
from ._image_grid import GAP, mosaic
from ._task import PrimaryMetric

__all__ = ["draw_curves", "draw_samples"]

_COLUMNS, _MOST_ROWS = 10, 20

Draw = Callable[[Sequence[int]], Tensor]


def draw_samples(draw: Draw, bundle: DataBundle, folder: Path, *, about: str) -> Path:
    """``samples.png``: drawn images, a row for each class, and beside them real ones of the training."""
    kinds = list(range(max(len(bundle.classes), 1)))[:_MOST_ROWS]
    rows = kinds if bundle.classes else kinds * 6
    drawn = draw([kind for kind in rows for _ in range(_COLUMNS)]).unflatten(0, (len(rows), _COLUMNS))
    real = _of_classes(bundle.train, kinds, _COLUMNS // 2 * (len(rows) // len(kinds)))
    beside = [real[kind] for kind in kinds] if bundle.classes else [real[0][row * _COLUMNS // 2 : (row + 1) * _COLUMNS // 2] for row in range(len(rows))]
    height, width = drawn.shape[-2:]
    scale = scale_of(height)
    left, right = (mosaic([list(row) for row in grid], columns, scale=scale) for grid, columns in ((drawn, _COLUMNS), (beside, _COLUMNS // 2)))
    cell = 0.42 * max(1.0, width / height)
    figure = new_figure((cell * (1.5 * _COLUMNS + 2), 0.42 * len(rows) + 1.0))
    axes = figure.subplots(1, 2, width_ratios=(left.shape[1], right.shape[1]))
    for place, picture, title in zip(axes, (left, right), ("drawn", "training images"), strict=True):
        place.imshow(picture, interpolation="nearest", aspect="equal")
        place.set_title(title, fontsize=10, color=INK, loc="left")
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    if bundle.classes:
        middles = [(scale * height + GAP) * row + scale * height / 2 for row in range(len(rows))]
        axes[0].set_yticks(middles, [bundle.classes[kind] for kind in kinds], fontsize=9)
        axes[0].tick_params(length=0)
    left_out = f"; the first {len(kinds)} of {len(bundle.classes)} classes" if len(kinds) < len(bundle.classes) else ""
    figure.suptitle(f"What the network draws ({about}{left_out})", fontsize=11, color=INK)
    return put(figure, folder / "samples.png")


def draw_curves(folder: Path, judged_by: PrimaryMetric) -> list[Path]:
    """``curves.png`` out of the history that lies beside ``folder``; none where there is none, or a single evaluation."""
    path = folder.parent / "history.jsonl"
    lines = [parse_json(line, str(path)) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    if len(lines) < 2:
        return []
    steps = [line["step"] for line in lines]
    figure = new_figure((9, 3.4))
    axes = figure.subplots(1, 2)
    name = f"val_{judged_by.name}"
    axes[0].plot(steps, [line["train_loss"] for line in lines], color=GRAY, marker=".", linewidth=1, label="training loss, since the last")
    axes[0].plot(steps, [line[name] for line in lines], color=DRAWN, marker=".", label="validation, at fixed noise")
    parts = sorted(key for key in lines[0] if key.startswith(f"{name}_"))
    from matplotlib import colormaps

    for place, key in enumerate(parts):
        label = {0: "least noise", len(parts) - 1: "most noise"}.get(place, f"quarter {place + 1}")
        color = colormaps["viridis"](0.85 * place / max(len(parts) - 1, 1))
        axes[1].plot(steps, [line[key] for line in lines], color=color, marker=".", label=label)
    for place, title in zip(axes, (judged_by.label.capitalize(), "Validation, by quarters of the timesteps"), strict=True):
        place.set_yscale("log")
        place.set_title(title, fontsize=10, color=INK, loc="left")
        place.set_xlabel("step", fontsize=9)
        place.tick_params(labelsize=8, which="both")
        place.grid(alpha=0.25, which="both")
        place.spines[["top", "right"]].set_visible(False)
        place.legend(fontsize=8, frameon=False)
    return [put(figure, folder / "curves.png")]


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
