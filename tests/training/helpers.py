"""What the tests of training share: a recipe that takes seconds, and reading what a run left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.lab.data import ClutteredDigits
from foveal.lab.tasks import Classification
from foveal.lab.training import Optim, Recipe, read_weights
from foveal.models import ViT

__all__ = ["SCENES", "assert_same_weights", "everything", "tiny", "weights"]

SCENES = ClutteredDigits(source="digits", cells=2, digit=8, distractors=2, train_scenes=70, val_scenes=20, test_scenes=30)


def tiny(**changes: Any) -> Recipe:
    """Eight steps on 70 scenes of 16×16, so that a run sees more than one epoch."""
    recipe = Recipe(
        data=SCENES,
        model=ViT(attention="denoising", drop_path=0.1),
        optim=Optim(lr=2e-3, ema=0.9),
        steps=8,
        batch_size=12,
        eval_every=3,
        checkpoint_every=4,
        trackers=(),
    )
    return replace(recipe, **changes)


def everything() -> Recipe:
    """With everything that draws random numbers or keeps a state."""
    return tiny(task=Classification(label_smoothing=0.1, mixup=0.3, cutmix=0.5, overlap_weight=0.1), optim=Optim(lr=2e-3, ema=0.9, accumulate=2))


def weights(run: Path) -> dict[str, Tensor]:
    return read_weights(run / "model.safetensors")


def assert_same_weights(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert got.keys() == want.keys()
    different = [name for name in want if not torch.equal(got[name], want[name])]
    assert not different, f"{len(different)} of {len(want)} tensors differ, such as {different[0]}"
