"""Pictures of a finished run on clouds: what it answers, where one point looks, which class it takes for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._files import replace_file
from ...analysis.clouds import CloudView, cloud_sheet, confusion_picture, weight_colors
from ...models.points.maps import point_attention
from ..data import PointBundle

__all__ = ["WRONG_COLOR", "draw_attention", "draw_confusion", "draw_parts", "draw_shapes", "first_of_each", "part_colors"]

_SHOWN, _SOUGHT = 6, 256
"""Clouds on a sheet, and how many are looked at for wrong answers."""
_QUERIES = 3
"""Clouds of which a point's attention is drawn."""
_SLOTS = 6
_MOST_NAMES = 40
WRONG_COLOR, _RIGHT_COLOR = (214, 40, 40), (200, 200, 200)


def first_of_each(labels: Sequence[int], count: int = _SHOWN) -> list[int]:
    """Places of the first of every label, and where there are fewer labels, of others."""
    first = [place for place, label in enumerate(labels) if label not in labels[:place]]
    return sorted((first + [place for place in range(len(labels)) if place not in first])[:count])


def draw_shapes(predict: Any, bundle: PointBundle, folder: Path) -> Path:
    """``clouds.png``: clouds of the test with the answers, and wrong answers of the first ones."""
    samples = [bundle.test[place] for place in range(min(_SOUGHT, len(bundle.test)))]
    labels = [int(label) for _, label in samples]
    found = torch.cat([predict(torch.stack([points for points, _ in some])).float().softmax(-1).cpu() for some in _pieces(samples)])
    best = found.argmax(-1).tolist()

    def views(places: Sequence[int]) -> list[CloudView]:
        shown = []
        for place in places:
            wrong = best[place] != labels[place]
            caption = f"{bundle.classes[best[place]]} {found[place, best[place]]:.0%}" + (f" (is {bundle.classes[labels[place]]})" if wrong else "")
            shown.append(CloudView(samples[place][0], caption=caption, wrong=wrong))
        return shown

    rows = [("test clouds and the answers", views(first_of_each(labels)))]
    wrong = [place for place in range(len(labels)) if best[place] != labels[place]]
    if wrong:
        rows.append((f"wrong answers: {len(wrong)} of the first {len(labels)} clouds", views(wrong[:_SHOWN])))
    about = "each cloud from two sides, colored by height; answers with their probability, wrong ones in red"
    return _put(folder / "clouds.png", cloud_sheet(rows, title="What was answered", up=bundle.up_axis, about=about))


def draw_parts(choose: Any, bundle: PointBundle, folder: Path) -> Path:
    """``clouds.png``: clouds of the test, the truth, the answers and the errors."""
    shapes = [int(bundle.test[place][0][1]) for place in range(min(_SOUGHT, len(bundle.test)))]
    samples = [bundle.test[place] for place in first_of_each(shapes)]
    found = choose(torch.stack([points for (points, _), _ in samples]), torch.tensor([shape for (_, shape), _ in samples])).cpu()
    colors = part_colors(len(bundle.classes))
    truth, answers, errors = [], [], []
    present: set[int] = set()
    for ((points, shape), parts), own in zip(samples, found, strict=True):
        right = own == parts
        present |= {*parts.tolist(), *own.tolist()}
        truth.append(CloudView(points, colors[parts.numpy()], bundle.shapes[shape] if len(bundle.shapes) else ""))
        answers.append(CloudView(points, colors[own.numpy()], f"{right.float().mean():.0%} of points"))
        errors.append(CloudView(points, np.where(right.numpy()[:, None], _RIGHT_COLOR, WRONG_COLOR)))
    legend = [(bundle.classes[part], colors[part]) for part in sorted(present)]
    rows = [("truth", truth), ("answers", answers), ("wrong points in red", errors)]
    about = "each cloud from two sides; a color for each part"
    return _put(folder / "clouds.png", cloud_sheet(rows, title="What was answered", up=bundle.up_axis, legend=legend, about=about))


def draw_attention(model: nn.Module, inputs: Sequence[tuple[Tensor, tuple[Any, ...]]], bundle: PointBundle, folder: Path) -> list[Path]:
    """``attention.png``, how much one point takes from each of its cloud, layer by layer; ``slots.png`` where there are slots. None if points do not meet.

    Args:
        model: of ours.
        inputs: points ``(N, C)``, and what else the network is called with, each with a batch of one.
        bundle: the data.
        folder: where to.
    """
    device = next(model.parameters()).device
    attention, slots = [], []
    for number, (points, rest) in enumerate(inputs[:_QUERIES]):
        looks = point_attention(model, points[None].to(device), *(value.to(device) for value in rest))
        views, last = [], None
        for place, look in enumerate(looks, 1):
            if "combined" not in look.maps:
                continue
            xyz = look.xyz[0].cpu()
            # the outermost point: whom it asks is a question that one near the middle hardly has
            query = int((xyz - xyz.mean(0)).norm(dim=-1).argmax())
            weights = look.maps["combined"][0, :, query].mean(0).double().cpu().numpy() * len(xyz)
            others = np.delete(weights, query)
            low = f" ({others.min():.1f} ×)" if others.min() < 0 else ""
            caption = f"layer {place}: itself {weights[query]:.1f} ×, others up to {others.max():.1f} ×{low}"
            # by the others alone: most points take most of themselves
            views.append(CloudView(xyz, weight_colors(weights, np.abs(others).max()), caption, star=query))
            if "slots" in look.maps:
                last = (place, xyz, look.maps["slots"][0].flatten(0, 1) if look.maps["slots"].shape[1] == 1 else look.maps["slots"][0].mean(0))
        if views:
            attention.append((f"cloud {number + 1}", views))
        if last is not None:
            slots.append((f"cloud {number + 1}, layer {last[0]}", _slot_views(last[1], last[2].double().cpu().numpy())))
    if not attention:
        return []
    about = "star: the point that asks. Colors: how much it takes of each other (mean over heads), gray none, red most, blue against. 1 × is an even share"
    files = [_put(folder / "attention.png", cloud_sheet(attention, title="Where one point looks", up=bundle.up_axis, about=about))]
    if slots:
        about = f"how much each point takes of a slot: the {_SLOTS} that vary most over the cloud, gray none, red most"
        files.append(_put(folder / "slots.png", cloud_sheet(slots, title="Slots of the memory", up=bundle.up_axis, about=about)))
    return files


def draw_confusion(counts: Sequence[Sequence[float]], names: Sequence[str], folder: Path, *, what: str) -> Path:
    """``confusion.png``, of classes that occur in truth or answers. Of many, those that are confused most."""
    table = np.asarray(counts, np.int64)
    title = "Which class was taken for which"
    there = np.flatnonzero(table.sum(0) + table.sum(1))
    table, names = table[np.ix_(there, there)], [names[place] for place in there.tolist()]
    if len(names) > _MOST_NAMES:
        wrong = table.sum(0) + table.sum(1) - 2 * table.diagonal()
        kept = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_NAMES])
        table, names = table[np.ix_(kept, kept)], [names[place] for place in kept.tolist()]
        title += f", the {_MOST_NAMES} classes with most errors"
    return _put(folder / "confusion.png", confusion_picture(table, names, title=title, what=what))


def part_colors(number: int) -> NDArray[Any]:
    """Hues as far apart as they go, ``(number, 3)`` of 0 to 255."""
    from matplotlib import colormaps

    palette = colormaps["tab20" if number > 10 else "tab10"]
    return np.array([palette(part % palette.N)[:3] for part in range(number)]) * 255


def _slot_views(xyz: Tensor, slots: NDArray[Any]) -> list[CloudView]:
    spread = slots.std(0) / np.maximum(np.abs(slots).mean(0), 1e-12)
    chosen = np.argsort(-spread, kind="stable")[:_SLOTS]
    return [CloudView(xyz, weight_colors(slots[:, slot]), f"slot {slot}") for slot in chosen.tolist()]


def _pieces(samples: Sequence[Any], size: int = 32) -> list[Sequence[Any]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _put(path: Path, content: bytes) -> Path:
    replace_file(path, content)
    return path
