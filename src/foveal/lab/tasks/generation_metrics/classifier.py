"""Features of a small classifier of the run's own training images: trained once, from a fixed seed, and kept in the folder of the run.

It sees what the classes differ in and little else. The same images give the same network, so that runs on the same data are judged by the same.
"""

import hashlib
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...._errors import InputError
from ...._files import replace_file
from ...._weights import fill, read_weights
from ...data import DataBundle
from ._network import FeatureNetwork, register_features
from ._real import real_images

__all__ = ["ClassifierFeatures", "DigitFeatures"]

_WIDTHS, _FEATURES = (32, 64, 64), 64
_BATCH, _LR, _SEED = 64, 3e-3, 0
_EPOCHS, _LEAST, _MOST_STEPS = 12, 60, 400
_MOST = 20_000
"""Training images that it sees."""
_NAME = "classifier.safetensors"


class ClassifierFeatures(FeatureNetwork):
    """Three convolutions of stride 2, a linear layer whose 64 outputs before its ReLU are the features, and one more to the classes.

    Args:
        size: height and width of the images.
        in_chans: their channels.
        num_classes: K.
    """

    distance_name: ClassVar[str] = "Fréchet distance in a classifier's features"
    of_classes: ClassVar[bool] = True
    num_features: ClassVar[int] = _FEATURES

    def __init__(self, size: tuple[int, int], in_chans: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, sides = in_chans, size
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before, sides = width, (-(-sides[0] // 2), -(-sides[1] // 2))
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * sides[0] * sides[1], _FEATURES))
        self.head = nn.Linear(_FEATURES, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.trunk(images.float())
        return features, self.head(F.relu(features))

    @classmethod
    def check(cls, bundle: DataBundle, weights: Path | None) -> None:
        if len(bundle.classes) < 2:
            raise InputError(f"features of a classifier need data with classes, and these have {len(bundle.classes) or 'none'}; take the metric lite0")

    @classmethod
    def made_for(cls, bundle: DataBundle, folder: Path, weights: Path | None) -> Self:
        cls.check(bundle, weights)
        images, classes = real_images(bundle.train, _MOST)
        labels = torch.tensor(classes)
        digest = hashlib.sha256(np.ascontiguousarray(images.numpy()).tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = cls((images.shape[2], images.shape[3]), images.shape[1], len(bundle.classes))
            path = folder / _NAME
            if path.exists():
                kept = read_weights(path)
                if kept.pop("of", torch.empty(0)).tolist() != _numbers(digest):
                    raise InputError(f"{path} was trained on other images than these; remove it, and a new one is trained")
                fill(network, kept, path, "images must be those of its run")
            else:
                _train_(network, images, labels)
        network.eval()
        if not path.exists():
            from safetensors.torch import save

            replace_file(path, save({**network.state_dict(), "of": torch.tensor(_numbers(digest))}))
        return network


class DigitFeatures(ClassifierFeatures):
    """The same, of digits."""

    distance_name: ClassVar[str] = "Fréchet distance in a digit classifier's features"

    @classmethod
    def check(cls, bundle: DataBundle, weights: Path | None) -> None:
        if sorted(bundle.classes) != [str(n) for n in range(10)]:
            known = ", ".join(bundle.classes[:5]) or "none"
            raise InputError(f"features of a digit classifier are of the classes 0 to 9, and these data have: {known}; take the metric classifier or lite0")


def _numbers(digest: str) -> list[int]:
    return [int(letter, 16) for letter in digest]


def _train_(network: ClassifierFeatures, images: Tensor, labels: Tensor) -> None:
    """On the CPU, whatever the run is on; images are moved at random by up to a sixteenth of their side."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR)
    steps = max(_LEAST, min(_MOST_STEPS, _EPOCHS * len(images) // _BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps)
    height, width = images.shape[2:]
    shift = min(height, width) // 16
    padded = F.pad(images, (shift,) * 4, mode="replicate")
    network.train()
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randint(len(images), (_BATCH,))
            top, left = torch.randint(2 * shift + 1, (2,)).tolist()
            _, logits = network(padded[chosen, :, top : top + height, left : left + width])
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[chosen]).backward()
            optimizer.step()
            schedule.step()


register_features("classifier", ClassifierFeatures)
register_features("digits", DigitFeatures)
