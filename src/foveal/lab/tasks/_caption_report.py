"""Pictures of a run that says captions: what it says, and where each word looks."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data import CaptionBundle
from ._figures import DRAWN, GRAY, INK, bare, new_figure, put

__all__ = ["draw_captions", "draw_words", "shade"]

_SHOWN = 4
"""Captions of which it is shown where their words look."""
_ALIKE = 16
"""Words of a row of pictures."""


def draw_captions(
    pictures: Sequence[Any], said: Tensor, targets: Sequence[Mapping[str, Tensor]], bundle: CaptionBundle, metrics: Mapping[str, float], path: Path
) -> Path:
    """Pictures, what is said of them, and below it a reference; what names a class that is not there stands in red."""
    columns = 3
    rows = -(-len(pictures) // columns)
    figure = new_figure((3.9 * columns, 3.0 * rows + 0.6))
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, picture, words, target in zip(axes.flat, pictures, said, targets, strict=False):
        place.imshow(picture, interpolation="nearest")
        text, references = bundle.said(words), [bundle.said(row) for row in target["references"]]
        there = set(target["classes"].nonzero().flatten().tolist())
        absent = [word for word in text.split() if word in bundle.class_of_word and bundle.class_of_word[word] not in there]
        place.set_title(textwrap.fill(text or "nothing", 44), fontsize=9, color=DRAWN if absent else INK)
        # that which has most words in common
        near = max(references, key=lambda each: len(set(each.split()) & set(text.split())))
        place.text(0.5, -0.04, textwrap.fill(near, 50), transform=place.transAxes, ha="center", va="top", fontsize=7.5, color=GRAY)
    names = {"cider": "CIDEr-D", "hallucinated": "share of named classes that are not there (red)"}
    figure.suptitle("; ".join(f"{names[key]} {value:.3f}" for key, value in metrics.items()) + "; gray: the nearest reference", fontsize=10, color=INK)
    return put(figure, path)


def draw_words(pictures: Sequence[Any], boxes: Tensor, looks: Tensor, said: Tensor, bundle: CaptionBundle, path: Path) -> Path:
    """Each word of some captions over the picture, lit where the word took from when it was found: the regions' shares, a mean over heads.

    Args:
        pictures: bytes ``(H, W, 3)``.
        boxes: ``(B, R, 4)`` from 0 to 1.
        looks: ``(B, T, R)``.
        said: ``(B, T)``, −100 behind the end.
        bundle: of the words.
        path: where to.
    """
    shown = min(_SHOWN, len(pictures))
    columns = min(_ALIKE, int((said[:shown] != -100).sum(1).max()))
    figure = new_figure((1.25 * columns + 0.2, 1.55 * shown + 0.5))
    axes = figure.subplots(shown, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for row in range(shown):
        for column, word in enumerate(said[row, :columns].tolist()):
            if word == -100:
                break
            place = axes[row, column]
            place.axis("on")
            bare(place)
            place.imshow(shade(pictures[row], boxes[row].numpy(), looks[row, column].numpy()), interpolation="nearest")
            place.set_title("(end)" if bundle.lexicon.words[word] == "<end>" else bundle.lexicon.words[word], fontsize=8, color=INK)
    figure.suptitle("What each word took from which region when it was found, last layer, mean over heads: lit", fontsize=9, color=INK)
    return put(figure, path)


def shade(picture: Any, boxes: Any, shares: Any) -> Any:
    """The picture, dark where nothing is taken from; regions that lie over one another add up."""
    height, width = picture.shape[:2]
    light = np.zeros((height, width))
    for (left, top, right, bottom), share in zip(boxes, shares, strict=True):
        light[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] += share
    return (picture * (0.22 + 0.78 * np.clip(light, 0, 1)[..., None])).astype(np.uint8)
