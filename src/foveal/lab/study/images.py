"""The study's runs on images: the default job of a comparison, read off the mean of tokens, with data of its own for every seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...models import ViT
from ..data import ClutteredDigits
from ..recipes import get_recipe
from ..training import Recipe, fit
from ..training.reading import read_history
from .registration import Part

__all__ = ["image_recipe", "train_images"]


def image_recipe(part: Part, arm: str, rate: float, seed: int) -> Recipe:
    """The recipe of one run: that of cluttered digits but for what the part says."""
    recipe = get_recipe("cluttered-digits")
    scenes: dict[str, Any] = {"seed": seed, "test_scenes": part.test_scenes}
    if part.train_scenes is not None:
        scenes |= {"train_scenes": part.train_scenes, "val_scenes": part.test_scenes}
    assert isinstance(recipe.data, ClutteredDigits), "cluttered digits are of ClutteredDigits"
    return replace(
        recipe,
        data=replace(recipe.data, **scenes),
        model=ViT(global_pool="avg").arms()[arm].model,
        optim=replace(recipe.optim, lr=rate),
        steps=part.steps,
        batch_size=part.batch,
        eval_every=part.steps,
        seed=seed,
        share_initial_weights=True,
        trackers=(),
    )


def train_images(part: Part, arm: str, rate: float, seed: int, folder: Path) -> dict[str, float]:
    """Accuracy on the test scenes, and on the validation scenes, by which rates are chosen. A run that was stopped goes on."""
    metrics = fit(image_recipe(part, arm, rate, seed), folder, resume=True, quiet=True)
    return {"accuracy": float(metrics["accuracy"]), "val_accuracy": float(read_history(folder / "history.jsonl", ("val_accuracy",))[-1]["val_accuracy"])}
