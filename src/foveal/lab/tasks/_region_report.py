"""Pictures of questions about regions: boxes where they lie, in their own color where the set knows it, and what an answer looked at."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._files import replace_file
from ...analysis import attention_maps
from ..data import RegionBundle
from ._task import Metrics

__all__ = ["draw_regions", "write_regions_report"]

_SIDE = 120
_INK, _GRAY, _WRONG = "#24292f", "#57606a", "#d1495b"


def draw_regions(inputs: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The boxes of one sample on white, images side by side, ``(H, W, 3)``; those of a set without tints in gray, darker where they overlap."""
    canvases = []
    for image, boxes in enumerate(inputs["boxes"]):
        canvas = np.full((_SIDE, _SIDE, 3), 1.0)
        for number, box in enumerate((boxes.clamp(0, 1) * (_SIDE - 1)).round().int().tolist()):
            left, top, right, bottom = box
            tint = inputs["tints"][image][number].numpy() if "tints" in inputs else np.array([0.5, 0.5, 0.5])
            part = canvas[top : bottom + 1, left : right + 1]
            part[:] = 0.75 * tint + 0.25 * part if "tints" in inputs else 0.85 * part
            for edge in (part[:1], part[-1:], part[:, :1], part[:, -1:]):
                edge[:] = 0.6 * tint
        canvases += [canvas, np.full((_SIDE, 2, 3), 0.6)]
    out: NDArray[np.uint8] = (np.concatenate(canvases[:-1], axis=1) * 255).round().astype(np.uint8)
    return out


def write_regions_report(
    model: nn.Module, samples: Sequence[tuple[Any, Any]], inputs: Mapping[str, Tensor], bundle: RegionBundle, metrics: Metrics, folder: Path
) -> Path:
    """``answers.png``: each sample's regions; a region is framed as strongly as the last cross layer takes from it, a mean over heads and words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    logits, taken = model(inputs), _taken(model, inputs)
    columns = 4
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.9 * rows + 0.7), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, (sample, scores), answer, weights in zip(axes.flat, samples, logits.argmax(-1).tolist(), taken, strict=False):
        place.imshow(draw_regions(sample), interpolation="nearest")
        for image, boxes in enumerate(sample["boxes"]):
            for box, weight in zip((boxes * _SIDE).tolist(), weights[image].tolist(), strict=False):
                left, top, right, bottom = box
                corner = (left + image * (_SIDE + 2), top)
                place.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=_WRONG, linewidth=0.2 + 7 * weight))
        place.set_title(f"{bundle.said(sample['input_ids'])}\n{bundle.classes[answer]}", fontsize=8, color=_INK if scores[answer] > 0 else _WRONG)
        if not scores[answer] > 0 and scores.max() > 0:
            place.text(0.5, -0.06, f"it is {bundle.classes[int(scores.argmax())]}", transform=place.transAxes, ha="center", fontsize=8, color=_GRAY)
    guess = "" if bundle.guessing is None else f" (guessing {bundle.guessing:.3f})"
    figure.suptitle(f"Score {metrics['score']:.3f}{guess}; frames: what the last cross layer takes from a region", fontsize=10, color=_INK)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_file(folder / "answers.png", buffer.getvalue())
    return folder / "answers.png"


def _taken(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """What words take from each region in the last cross layer of the first stream, ``(B, images, M)``."""
    name = f"encoder.x_layers.{len(model.lxmert.encoder.x_layers) - 1}.visual_attention.att"
    # a sentence about two images is read once with each
    words = inputs["attention_mask"].repeat_interleave(model.images, 0)
    given = {"input_ids": inputs["input_ids"].repeat_interleave(model.images, 0), "attention_mask": words}
    regions = {key: value for key, value in inputs.items() if key.startswith("visual")}
    given |= regions if model.images == 1 else {key: value.flatten(0, 1) for key, value in regions.items()}
    # by language first, and by vision after it
    seen = attention_maps(model.lxmert, given, where=name)[name]["combined"].mean(1)
    mean = (seen * words[..., None]).sum(1) / words.sum(1, keepdim=True)
    return mean.unflatten(0, (-1, model.images)).cpu()
