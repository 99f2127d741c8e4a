"""A folder of photographs as a pretrained network wants them: its own size, mean, deviation, interpolation and crop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..._errors import InputError, missing_extra
from ._bundle import DataBundle, register_data
from .folder import ImageFolder

__all__ = ["Photographs"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@register_data
@dataclass(frozen=True, kw_only=True)
class Photographs(ImageFolder):
    """An image folder, made ready as a pretrained network saw its images.

    Evaluation goes through timm's transform. Augmentation is torchvision's, whose random numbers are torch's alone, so that a run can be gone on with.
    """

    img_size: int = 224
    """Side of the images as the network takes them, in pixels."""
    mean: tuple[float, float, float] = _MEAN
    """Of the colors, 0 to 1."""
    std: tuple[float, float, float] = _STD
    """Deviation of the colors."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """How images are resized."""
    crop_pct: float = 0.875
    """Share of the resized image's side that evaluation cuts out of its middle."""
    squash: bool = False
    """Stretch the whole image to a square in evaluation."""
    augment: Literal["none", "light", "medium", "strong"] = "medium"
    """How much training images vary. With light, crops of half the image and more, and flips; with medium, smaller crops and colors too; with strong,
    RandAugment and erased parts in addition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_pct <= 1 or min(self.std) <= 0:
            raise InputError(f"expected 0 < crop_pct ≤ 1 and std above 0, got {self.crop_pct} and {self.std}")

    def load(self) -> DataBundle:
        bundle = super().load()
        if self.augment == "none":
            bundle.train.augments = False
        made = not any(note.startswith("there is no validation split") for note in bundle.notes) and bundle.test is bundle.val
        counts = f"{len(bundle.train)} images train, {len(bundle.val)} validate"
        if made and self._split_here:
            bundle.notes.append(f"no val folder: {counts}, {self.val_fraction:.0%} of each class, drawn by the run's seed")
        return bundle

    @property
    def _split_here(self) -> bool:
        from ._splits import splits_in
        from ._walk import Passed

        return "val" not in splits_in(self.root, Passed(), "class folders").splits

    def _transforms(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        try:
            from timm.data import create_transform
            from torchvision.transforms import v2
        except ImportError as error:
            raise missing_extra("torchvision", "train", "photographs") from error
        way = v2.InterpolationMode(self.interpolation)
        evaluate = create_transform(
            (3, self.img_size, self.img_size),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=1.0 if self.squash else self.crop_pct,
            crop_mode="squash" if self.squash else "center",
        )
        if self.augment == "none":
            return evaluate, evaluate
        least = {"light": 0.5, "medium": self.min_scale, "strong": min(self.min_scale, 0.2)}[self.augment]
        shape = [v2.RandomResizedCrop(self.img_size, scale=(least, 1.0), interpolation=way, antialias=True), v2.RandomHorizontalFlip()]
        color = {"light": [], "medium": [v2.ColorJitter(0.3, 0.3, 0.3)], "strong": [v2.RandAugment(interpolation=way)]}[self.augment]
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]
        erased = [v2.RandomErasing(0.25)] if self.augment == "strong" else []
        return v2.Compose([*shape, *color, *finish, *erased]), evaluate
