"""Boxes and masks over pictures, and which of those found are right."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...analysis.pictures import to_pixels
from ..data import DataBundle
from .segmentation import voc_color

__all__ = ["drawn", "matched"]

_SIDE = 240
"""Small images are enlarged to about so much, so that boxes and names can be read."""
_MISSED, _WRONG = (70, 120, 235), (235, 50, 40)


def drawn(image: Tensor, objects: dict[str, Tensor] | None, bundle: DataBundle, *, errors: bool = False) -> NDArray[np.uint8]:
    """The image, and over it boxes with class and score, and masks as a tint.

    Args:
        image: ``(C, H, W)`` as the network takes it.
        objects: ``boxes`` and ``labels``, and where there are ``masks``, ``scores``, ``iscrowd`` (dashed by nothing but a gray line); None for the image alone.
        bundle: names of classes.
        errors: objects have ``right``: blue for what is there and was missed, red for what was found and is wrong.
    """
    from PIL import Image, ImageDraw

    pixels = np.broadcast_to(to_pixels(image), (*image.shape[1:], 3))
    scale = max(1, round(_SIDE / max(pixels.shape[:2])))
    if objects is not None and "masks" in objects:
        pixels = pixels.astype(np.float64)
        for place, (mask, label) in enumerate(zip(objects["masks"].numpy(), objects["labels"].tolist(), strict=True)):
            pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(_color(label, place, bundle))
    large: NDArray[np.uint8] = pixels.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    if objects is None:
        return large
    picture = Image.fromarray(large)
    pen = ImageDraw.Draw(picture)
    for place, (box, label) in enumerate(zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True)):
        color = _color(label, place, bundle)
        if errors:
            color = _WRONG if objects["right"][place] else _MISSED
        if "iscrowd" in objects and objects["iscrowd"][place]:
            color = (150, 150, 150)
        left, top, right, bottom = (value * scale for value in box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        name = bundle.classes[label]
        if "scores" in objects:
            name += f" {objects['scores'][place]:.0%}"
        if len(bundle.classes) > 1 or "scores" in objects:
            low = min(max(top - 11, 0), large.shape[0] - 11)
            pen.rectangle((left, low, left + 6 * len(name) + 2, low + 11), fill=color)
            pen.text((left + 2, low), name, fill=(255, 255, 255) if sum(color) < 450 else (0, 0, 0))
    return np.asarray(picture)


def _color(label: int, place: int, bundle: DataBundle) -> tuple[int, int, int]:
    """Of its class; of its own where there is only one class."""
    return voc_color(1 + (label if len(bundle.classes) > 1 else place) % 254)


def matched(found: dict[str, Tensor], target: dict[str, Tensor], overlap: float = 0.5) -> tuple[Tensor, Tensor]:
    """Which objects were missed and which finds are wrong, each find taken in order of its score with the object of its class that it overlaps most.

    Finds that lie in a crowd of their class are not wrong, and crowds are not missed.

    Args:
        found: ``boxes``, ``labels``, ``scores``.
        target: ``boxes``, ``labels``, and where there are ``iscrowd``.
        overlap: least IoU of a match.

    Returns:
        ``(objects,)`` and ``(finds,)`` bool.
    """
    from torchvision.ops import box_area, box_iou

    crowd = target["iscrowd"].bool() if "iscrowd" in target else torch.zeros(len(target["labels"]), dtype=torch.bool)
    missed, wrong = ~crowd, torch.ones(len(found["labels"]), dtype=torch.bool)
    shared = box_iou(found["boxes"], target["boxes"]) * (found["labels"][:, None] == target["labels"])
    for find in found["scores"].argsort(descending=True).tolist():
        if not len(missed):
            break
        offers = shared[find] * missed
        best = int(offers.argmax())
        if offers[best] >= overlap:
            missed[best] = wrong[find] = False
    for find in wrong.nonzero().flatten().tolist():
        here = crowd & (target["labels"] == found["labels"][find])
        if here.any():
            own = found["boxes"][find]
            corners = torch.cat([own[:2].maximum(target["boxes"][here][:, :2]), own[2:].minimum(target["boxes"][here][:, 2:])], 1)
            within = (corners[:, 2:] - corners[:, :2]).clamp_min(0).prod(1)
            wrong[find] = bool((within < overlap * box_area(own[None])).all())
    return missed, wrong
