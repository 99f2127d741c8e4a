"""Flag swap as detection: boxes and masks of a square or a ring in each half, whose two labels a far flag exchanges."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._bundle import Data, register_data
from ..segmentation import FlagSwap
from ._bundle import DetectionBundle, Instances

__all__ = ["FlagSwapBoxes"]


@register_data
@dataclass(frozen=True, kw_only=True)
class FlagSwapBoxes(Data):
    """The scenes of :class:`~foveal.lab.data.FlagSwap`, two objects in each. A detector that sees only what is near finds both and guesses their labels.

    Raises:
        ValueError: the numbers make no scene.
    """

    targets: ClassVar[str] = "boxes"

    side: int = 24
    """Side of a scene in pixels."""
    noise: float = 0.1
    """Standard deviation of the noise, where full brightness is 1."""
    train_scenes: int = 4_000
    """Number of training scenes."""
    val_scenes: int = 300
    """Number of validation scenes."""
    test_scenes: int = 1_000
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        self._scenes()

    def _scenes(self) -> FlagSwap:
        return FlagSwap(**{name: getattr(self, name) for name in ("side", "noise", "train_scenes", "val_scenes", "test_scenes", "seed")})

    def load(self) -> DetectionBundle:
        """Make the scenes."""
        made = self._scenes().load()
        numbered = [_Numbered(split) for split in (made.train, made.val, made.test)]
        train, val, test = (Instances(split, split.labels) for split in numbered)
        return DetectionBundle(
            train=train,
            val=val,
            test=test,
            classes=made.classes[1:],
            img_size=made.img_size,
            in_chans=made.in_chans,
            prepare=made.prepare,
        )


class _Numbered:
    """A split of scenes and masks of classes, as one of instance numbers: each half holds one object."""

    augments = False

    def __init__(self, split: Any) -> None:
        images, masks = zip(*(split[index] for index in range(len(split))), strict=True)
        self._images = torch.stack(images)
        halves = torch.stack(masks).byte().tensor_split(2, dim=2)
        self.labels = torch.stack([half.amax((1, 2)).long() - 1 for half in halves], 1).tolist()
        self._numbers = torch.cat([(half > 0).byte() * number for number, half in enumerate(halves, 1)], 2)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._images[index], self._numbers[index]
