"""``attention.html`` of a run that says captions or answers questions: choose a word, and see where in the picture it takes from.

Shapes     R regions, T words, H heads
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...analysis.layout import Layout
from ...analysis.viewer import ViewedLayer, ViewedModel, write_page

__all__ = ["over_picture", "view_answer", "view_caption", "write_word_page"]

_GRID = 24
"""Cells a side, over which the shares of regions are spread."""
_NOTE = "a region's share is spread evenly over its box, and those of regions that overlap add up; shares are means over heads"


def over_picture(shares: Tensor, boxes: Tensor, grid: int = _GRID) -> Tensor:
    """Shares of regions as shares of the cells of a picture, whose sum is the same.

    Args:
        shares: ``(…, R)``.
        boxes: ``(R, 4)`` from 0 to 1: left, top, right, bottom. One without an area gives to the cell that it lies in.

    Returns:
        ``(…, grid²)``, row by row.
    """
    edges = torch.arange(grid + 1, dtype=torch.float64) / grid
    left, top, right, bottom = (side.clamp(0, 1) for side in boxes.double().unbind(-1))
    # a box that is a line or a point, or lies outside, is widened to a thousandth
    right, bottom = torch.maximum(right, left.clamp(max=0.999) + 1e-3), torch.maximum(bottom, top.clamp(max=0.999) + 1e-3)
    left, top = left.clamp(max=0.999), top.clamp(max=0.999)

    def covered(low: Tensor, high: Tensor) -> Tensor:
        both = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
        inside = both.clamp(min=0)
        return inside / inside.sum(-1, keepdim=True)

    cells = covered(top, bottom)[:, :, None] * covered(left, right)[:, None, :]
    return (shares.double() @ cells.flatten(1)).float()


def view_caption(words: Sequence[str], looks: Tensor, boxes: Tensor) -> ViewedModel:
    """What the viewer shows of a caption.

    Args:
        words: T of them.
        looks: what each word took of each region when it was found, ``(T, R)``.
        boxes: ``(R, 4)`` from 0 to 1.
    """
    asking, cells = Layout(len(words), (0, 0), 0, "token"), Layout(0, (_GRID, _GRID), 0, "mean")
    named = [f"{place}: {word}" for place, word in enumerate(words, 1)]
    layer = ViewedLayer("last layer", {"combined": over_picture(looks.cpu(), boxes.cpu())[None]}, asking, cells, heads=["mean over heads"])
    return ViewedModel(" ".join(words), [layer], notes=[_NOTE], prefix=named, looks=f"the {named[0]}")


def view_answer(question: Sequence[str], regions: Tensor | None, words: Tensor, boxes: Tensor, answers: Sequence[tuple[str, float]]) -> ViewedModel:
    """What the viewer shows of an answer: what it took of the regions, where any are looked at, and of each word.

    Args:
        question: L words.
        regions: ``(R,)``.
        words: ``(L,)``.
        boxes: ``(R, 4)`` from 0 to 1.
        answers: the likeliest, with their probabilities.
    """
    cells = Layout(0, (_GRID, _GRID), 0, "mean")
    layers = [ViewedLayer("words of the question", {"combined": words.cpu().float()[None, None]}, None, None, heads=["mean over heads"], names=list(question))]
    if regions is not None:
        spread = over_picture(regions.cpu(), boxes.cpu())[None, None]
        layers.append(ViewedLayer("regions of the picture", {"combined": spread}, None, cells, heads=["mean over heads"]))
    return ViewedModel(" ".join(question), layers, notes=[_NOTE], looks="the answer", answers=list(answers))


def write_word_page(viewed: ViewedModel, picture: Tensor, folder: Path, *, title: str, name: str = "attention.html") -> Path:
    """The page over a picture, bytes ``(3, H, W)``."""
    return write_page([viewed], [picture.cpu().float() / 255], title=title).save(folder / name)
