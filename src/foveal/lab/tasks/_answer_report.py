"""Pictures of a run that answers questions about clips: what it answers, and where its probes look."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._files import replace_file
from ..data import AnswerBundle
from ._task import Metrics

__all__ = ["draw_answers", "draw_looks"]

_INK, _GRAY, _WRONG = "#24292f", "#57606a", "#d1495b"
_SHOWN = 2
"""Clips of which it is shown where probes look."""


def draw_answers(clips: Tensor, questions: Sequence[str], answers: Tensor, said: Tensor, bundle: AnswerBundle, metrics: Metrics, folder: Path) -> Path:
    """``answers.png``: clips with their frames side by side, the question, the answer, and what was said where it is wrong."""
    columns = 3
    rows = -(-len(clips) // columns)
    figure = _figure((4.2 * columns, 1.95 * rows + 0.7))
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, clip, question, answer, words in zip(axes.flat, clips, questions, answers, said, strict=False):
        place.imshow(_film(clip), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        right = bool((answer == words).all())
        place.set_title(f"{question} {bundle.said(words) or 'nothing'}", fontsize=9, color=_INK if right else _WRONG)
        if not right:
            place.text(0.5, -0.12, f"it is {bundle.said(answer)}", transform=place.transAxes, ha="center", fontsize=8, color=_GRAY)
    shares = ", ".join(f"{kind} {metrics[kind.replace(' ', '_')]:.3f} (chance {chance:.2f})" for kind, chance in zip(bundle.kinds, bundle.chances, strict=True))
    alike = f"; cosine between two probes of a clip {metrics['similarity']:.3f}" if "similarity" in metrics else ""
    figure.suptitle(f"Exact match: {shares}{alike}", fontsize=10, color=_INK)
    return _put(figure, folder / "answers.png")


def draw_looks(clips: Tensor, maps: Mapping[int, Mapping[str, Tensor]], questions: Sequence[str], bundle: AnswerBundle, folder: Path) -> Path:
    """``probes.png``: of the first clips, by layer and probe, what each takes from every cell of every frame, a mean over heads; less than nothing is red.

    Args:
        clips: ``(B, T, 1, H, W)``.
        maps: by layer, ``(B, H, P, T, N)`` each; tokens in front of the grid are left out and their share is written.
        questions: of the clips.
        bundle: their set.
        folder: where to.
    """
    layers, shown = list(maps), min(_SHOWN, len(clips))
    probes = next(iter(maps.values()))["combined"].shape[2]
    figure = _figure((2.7 * max(probes, 2), 1.25 * (len(layers) + 1) * shown + 0.9))
    axes = figure.subplots((len(layers) + 1) * shown, probes, squeeze=False)
    for place in axes.flat:
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    grid = int(bundle.tower.patch_embed.grid_size[0])
    for sample in range(shown):
        top = sample * (len(layers) + 1)
        for probe in range(probes):
            axes[top, probe].imshow(_film(clips[sample]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes[top, probe].set_title(f"probe {probe}", fontsize=8, color=_GRAY)
            for row, layer in enumerate(layers, start=1):
                taken = maps[layer]["combined"][sample, :, probe].mean(0).float().cpu()
                cells = taken[:, -grid * grid :].unflatten(1, (grid, grid))
                place = axes[top + row, probe]
                place.imshow(_film(cells[:, None]), cmap="RdBu", vmin=-0.35, vmax=0.35, interpolation="nearest")
                in_front = float(taken[:, : -grid * grid].sum()) if taken.shape[1] > grid * grid else 0.0
                place.set_xlabel(f"class tokens {in_front:.2f}", fontsize=7, color=_GRAY)
                if not probe:
                    place.set_ylabel(f"layer {layer}", fontsize=8, color=_GRAY)
        axes[top, 0].set_ylabel(questions[sample].replace(" is", "\nis").replace(" move", "\nmove"), fontsize=7, color=_INK)
    figure.suptitle("What each probe takes from the cells of the frames (blue; red is taken off), by layer", fontsize=10, color=_INK)
    return _put(figure, folder / "probes.png")


def _film(frames: Tensor) -> Any:
    """Frames ``(T, 1, H, W)`` side by side, with a gap between."""
    gap = torch.full((*frames.shape[1:3], max(1, frames.shape[-1] // 8)), torch.nan)
    parts = [part for frame in frames for part in (frame, gap)][:-1]
    return np.asarray(torch.cat(parts, dim=-1)[0])


def _figure(size: tuple[float, float]) -> Any:
    # not pyplot, which would want a display and keep every figure
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _put(figure: Any, path: Path) -> Path:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, written.getvalue())
    return path
