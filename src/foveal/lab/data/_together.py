"""Transforms of an image together with its boxes and masks, by torchvision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._errors import missing_extra
from .folder import _MEAN, _STD

__all__ = ["Together", "vision"]


def vision(purpose: str) -> tuple[Any, Any]:
    """torchvision's ``transforms.v2`` and ``tv_tensors``.

    Raises:
        ValueError: torchvision is not installed.
    """
    try:
        from torchvision import tv_tensors
        from torchvision.transforms import v2
    except ImportError as error:
        raise missing_extra("torchvision", "train", purpose) from error
    return v2, tv_tensors


class Together:
    """What changes an image and its target, and standardizes the image then. It can be sent to another process.

    Args:
        steps: of torchvision's transforms, or functions of an image and a target.
        jitter: strength of random changes of brightness, contrast and saturation, behind the steps.
    """

    def __init__(self, steps: Sequence[Callable[..., Any]] = (), jitter: float = 0.0) -> None:
        v2, tv_tensors = vision("a set of image files")
        colors = [v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter)] if jitter else []
        finish = [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.Normalize(_MEAN, _STD)]
        self._transform = v2.Compose([*steps, *colors, *finish])

    def __call__(self, image: Any, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a PIL image and what lies on it: ``boxes`` as corners, ``masks`` (…, H, W), and whatever else, which stays as it is."""
        v2, tv_tensors = vision("a set of image files")
        pixels = tv_tensors.Image(v2.functional.pil_to_tensor(image))
        wrapped: dict[str, Any] = dict(target or {})
        if "boxes" in wrapped:
            wrapped["boxes"] = tv_tensors.BoundingBoxes(wrapped["boxes"], format="XYXY", canvas_size=tuple(pixels.shape[-2:]))
        if "masks" in wrapped:
            wrapped["masks"] = tv_tensors.Mask(wrapped["masks"])
        pixels, wrapped = self._transform(pixels, wrapped)
        return pixels.as_subclass(Tensor), {name: value.as_subclass(Tensor) for name, value in wrapped.items()}
