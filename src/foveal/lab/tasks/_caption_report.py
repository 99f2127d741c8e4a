"""Pictures of a run that says captions or answers questions: what it says, and where it looks."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data import CaptionBundle, ImageAnswerBundle
from ._figures import DRAWN, GRAY, INK, bare, new_figure, put

__all__ = ["draw_captions", "draw_questions", "draw_words", "shade"]

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
    wide = 1.25 * columns + 0.2
    # short captions make a narrow figure
    title = textwrap.wrap("What each word took from which region when it was found, last layer, mean over heads: the brighter, the more", int(14 * wide))
    figure = new_figure((wide, 1.55 * shown + 0.3 + 0.2 * len(title)))
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
    figure.suptitle("\n".join(title), fontsize=9, color=INK)
    return put(figure, path)


def draw_questions(
    inputs: Mapping[str, Tensor],
    targets: Tensor,
    said: Tensor,
    looks: tuple[Tensor | None, Tensor],
    bundle: ImageAnswerBundle,
    metrics: Mapping[str, Any],
    path: Path,
) -> Path:
    """Pictures, lit where regions are taken from, with question and answer; below, what is taken of each word, and the answer where it was another.

    Args:
        inputs: of the samples, with ``picture``, ``boxes`` and ``question``.
        targets: kinds, and how right each answer is.
        said: numbers of answers, ``(B,)``.
        looks: of regions ``(B, R)``, where any are looked at, and of words ``(B, L)``.
        bundle: of the words and answers.
        metrics: of the test.
        path: where to.
    """
    columns, (regions, words) = 4, looks
    rows = -(-len(said) // columns)
    figure = new_figure((3.1 * columns, 2.9 * rows + 0.6))
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for row, (place, target, answer) in enumerate(zip(axes.flat, targets, said.tolist(), strict=False)):
        picture = inputs["picture"][row].permute(1, 2, 0).numpy()
        place.imshow(picture if regions is None else shade(picture, inputs["boxes"][row].numpy(), regions[row].numpy()), interpolation="nearest")
        right = bool(target[1 + answer])
        question = inputs["question"][row]
        place.set_title(f"{bundle.asked(question)} {bundle.answers[answer]}", fontsize=8.5, color=INK if right else DRAWN)
        taken = [f"{bundle.lexicon.words[word]} {100 * share:.0f}" for word, share in zip(question.tolist(), words[row].tolist(), strict=True) if word > 3]
        truth = "" if right else f"it is {bundle.answers[int(target[1:].argmax())]}; "
        below = textwrap.fill(truth + "% of words: " + ", ".join(taken), 48)
        place.text(0.5, -0.04, below, transform=place.transAxes, ha="center", va="top", fontsize=6.5, color=GRAY)
    chances = dict(zip(bundle.kinds, bundle.chances, strict=True)) if bundle.chances else {}
    found = {kind: metrics[bundle.metric_of(kind)] for kind in bundle.kinds if bundle.metric_of(kind) in metrics}
    shares = [f"{kind} {share:.3f}" + (f" (chance {chances[kind]:.2f})" if kind in chances else "") for kind, share in found.items()]
    figure.suptitle(f"Accuracy: {', '.join(shares)}; lit: what is taken of regions", fontsize=9.5, color=INK)
    return put(figure, path)


def shade(picture: Any, boxes: Any, shares: Any) -> Any:
    """The picture, dark where nothing is taken from and fully lit where most is; regions that lie over one another add up."""
    height, width = picture.shape[:2]
    light = np.zeros((height, width))
    for (left, top, right, bottom), share in zip(boxes, shares, strict=True):
        light[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] += share
    return (picture * (0.22 + 0.78 * (light / max(light.max(), 1e-6))[..., None])).astype(np.uint8)
