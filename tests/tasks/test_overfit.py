"""Every small network learns a few samples by heart, through the training loop's own loss, optimizer and metrics: whatever stands in the way is a defect.

Numbers on the samples themselves say nothing of others.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from foveal.lab.data import Data, DataBundle
from foveal.lab.recipes import get_recipe
from foveal.lab.training import fit
from foveal.lab.training.order import Seeded


@dataclass(frozen=True, kw_only=True)
class Few(Data):
    """The first samples of a set, as they are drawn first, for training and for judging."""

    of: Data
    count: int

    @property
    def targets(self) -> str:  # type: ignore[override]
        return self.of.targets

    def load(self) -> DataBundle:
        bundle = self.of.load()
        few = _Kept([Seeded(bundle.train, 0)[0, index] for index in range(self.count)])
        return replace(bundle, train=few, val=few, test=few)


class _Kept(list[Any]):
    augments = False


def learn(name: str, folder: Any, *, count: int, steps: int, lr: float, **data: Any) -> dict[str, Any]:
    recipe = get_recipe(name)
    few = Few(of=replace(recipe.data, **data), count=count)
    return fit(
        replace(
            recipe,
            data=few,
            optim=replace(recipe.optim, lr=lr),
            steps=steps,
            batch_size=count,
            eval_every=steps,
            checkpoint_every=steps,
            trackers=(),
        ),
        folder / "run",
        quiet=True,
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nuclei", {"count": 4, "steps": 200, "lr": 1e-2}),
        ("flag-swap", {"count": 8, "steps": 250, "lr": 5e-3, "train_scenes": 8, "val_scenes": 1, "test_scenes": 1}),
        pytest.param("brain", {"count": 4, "steps": 600, "lr": 1e-2}, marks=pytest.mark.slow),
    ],
)
def test_masks(name, settings, tmp_path) -> None:
    assert learn(name, tmp_path, **settings)["miou"] > 0.95


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("digit-detection", {"count": 6, "steps": 150, "lr": 5e-3, "train_scenes": 6, "val_scenes": 1, "test_scenes": 1}),
        ("nuclei-detection", {"count": 4, "steps": 150, "lr": 5e-3}),
        ("flag-detection", {"count": 8, "steps": 150, "lr": 5e-3, "train_scenes": 8, "val_scenes": 1, "test_scenes": 1}),
    ],
)
def test_boxes(name, settings, tmp_path) -> None:
    metrics = learn(name, tmp_path, **settings)
    assert metrics["ap50"] > 0.9
    if "mask_ap50" in metrics:
        assert metrics["mask_ap50"] > 0.9


def test_disparities(tmp_path) -> None:
    metrics = learn("shift-stereo", tmp_path, count=4, steps=150, lr=5e-3, crop=(32, 64), val_pairs=1)
    assert metrics["epe"] < 0.5
