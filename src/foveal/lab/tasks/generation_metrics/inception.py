"""Inception v3's features, in which a Fréchet distance is an FID: torch-fidelity's network, with weights out of a file that you bring.

Which tool and which weights made it belongs to every FID: torch-fidelity has its own port of the TensorFlow weights, pytorch-fid another, and clean-fid resizes
images in another way.
"""

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ...._errors import InputError, require
from ...._weights import read_saved
from ...data import DataBundle
from ._network import FeatureNetwork, register_features

__all__ = ["InceptionFeatures"]

_FILE = "weights-inception-2015-12-05-6726825d.pth"


class InceptionFeatures(FeatureNetwork):
    """The 2,048 pooled features, and the logits without bias of which the Inception score is made."""

    distance_name: ClassVar[str] = "FID (torch-fidelity's Inception v3)"
    num_features: ClassVar[int] = 2048

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        tensors = _read(weights)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        names = ["2048", "logits_unbiased"]
        try:
            with tempfile.TemporaryDirectory() as folder:
                # it reads a file in a way that lets the file run code; this one holds the tensors alone
                path = Path(folder) / "weights.pth"
                torch.save(tensors, path)
                self.network: Any = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=str(path))
        except RuntimeError as error:
            said = " ".join(str(error).split())[:500]
            raise InputError(f"{weights} holds other weights than those of Inception v3 as torch-fidelity has it ({_FILE}): {said}") from error

    @classmethod
    def check(cls, bundle: DataBundle, weights: Path | None) -> None:
        _read(weights)

    @classmethod
    def made_for(cls, bundle: DataBundle, folder: Path, weights: Path | None) -> Self:
        return cls(weights)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = ((images.float().expand(-1, 3, -1, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = self.network(pixels)
        return features, logits


def _read(weights: Path | None) -> dict[str, Tensor]:
    require("features of Inception v3", ("torch_fidelity",))
    if weights is None:
        raise InputError(
            f"features of Inception v3 need its weights, which are in no package: give a file with inception_weights, such as torch-fidelity's {_FILE}; "
            "without one take the metric lite0 or, where there are classes, classifier"
        )
    if not weights.is_file():
        raise InputError(f"there is no file {weights}; expected the weights of Inception v3 as torch-fidelity has them ({_FILE})")
    found = read_saved(weights)
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise InputError(f"{weights} holds no weights by name; expected those of Inception v3 as torch-fidelity has them ({_FILE})")
    return found


register_features("inception", InceptionFeatures)
