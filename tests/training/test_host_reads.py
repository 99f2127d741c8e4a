"""A training step of every kind of task reads no tensor's value: on an accelerator each read would make the host wait."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.lab.recipes import get_recipe, list_recipes
from foveal.lab.training import Recipe, loop
from foveal.lab.training.opening import make_accelerator, open_run
from foveal.testing import HostRead, no_host_reads
from tests.recipes.smoked import smoked
from tests.recipes.test_smoke import SMOKED
from tests.training.helpers import tiny

READERS = {
    "clip-questions": "the language model counts places and what is put into them, which would be put in wrongly if they differed",
    "coco-cascade-rcnn": "torchvision's detectors choose anchors and regions by what they find",
    "scene-captions": "which of a scene's captions is learned is drawn on the host, which is no wait",
    "scene-captions-reward": "captions are drawn word by word until all have ended",
    "viscop": "transformers' tower lays out its positions by the sizes of the clips",
}
"""Recipes that read values, and what for."""
KINDS: dict[tuple[type, type], str] = {}
for _name in SMOKED:
    KINDS.setdefault((type(get_recipe(_name).task), type(get_recipe(_name).model)), _name)


def steps_without_reads(recipe: Recipe, folder: Path, count: int = 2) -> None:
    """The first step sets up what later ones use; those behind it are watched. Data are read by the host, before."""
    accelerator = make_accelerator(recipe, folder)
    run = open_run(recipe, folder, accelerator)
    each = sum(phase.phase.batches for phase in run.phases) * recipe.optim.accumulate
    drawn = [batch for step in range(count + 1) for batch in itertools.islice(run.batches.batches(step), each)]

    class Drawn:
        def batches(self, step: int) -> Iterator[Any]:
            return waiting

    waiting = iter(drawn)
    run.batches = Drawn()  # type: ignore[assignment]
    loop._step(run, 0)
    with no_host_reads(accelerator.device):
        for step in range(1, count + 1):
            loop._step(run, step)
    assert next(waiting, None) is None


@pytest.mark.parametrize("name", [name for name in KINDS.values() if name not in READERS])
def test_a_step_of_every_task_and_network(name, tmp_path) -> None:
    recipe = smoked(name, steps=4)
    # the plain optimizers count steps on the host; the fused ones, which are those of CUDA, read nothing
    steps_without_reads(Recipe.from_dict(recipe.to_dict() | {"fused": recipe.optim.optimizer != "lamb", "trackers": []}), tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_those_that_read_still_do(name, tmp_path) -> None:
    """So that the list says no more than is true."""
    recipe = smoked(name, steps=4)
    with pytest.raises(HostRead):
        steps_without_reads(Recipe.from_dict(recipe.to_dict() | {"fused": True, "trackers": []}), tmp_path)


def test_a_read_is_found(tmp_path, monkeypatch) -> None:
    real = loop._micro_step

    def reading(run: Any, *rest: Any) -> None:
        real(run, *rest)
        run.window["loss"].item()

    monkeypatch.setattr(loop, "_micro_step", reading)
    with pytest.raises(HostRead, match="item"):
        steps_without_reads(tiny(fused=True), tmp_path)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, some, places: x.sum().item(),
        lambda x, some, places: 1 if some.any() else 0,
        lambda x, some, places: [1, 2, 3][places[0]],
        lambda x, some, places: x.tolist(),
        lambda x, some, places: x.numpy(),
        lambda x, some, places: x[some],
        lambda x, some, places: some.nonzero(),
        lambda x, some, places: places.unique(),
        lambda x, some, places: torch.equal(x, x),
        lambda x, some, places: torch.allclose(x, x),
        lambda x, some, places: x.repeat_interleave(places, 0),
        lambda x, some, places: torch.tensor([1.0, 2.0]),
        lambda x, some, places: x.new_tensor([1.0, 2.0]),
        lambda x, some, places: x.cpu(),
        lambda x, some, places: x.__setitem__(some, x.sum()),
    ],
)
def test_what_reads(call) -> None:
    with pytest.raises(HostRead), no_host_reads():
        call(torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 1]))


def test_what_does_not() -> None:
    x, some, places = torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 1])
    with no_host_reads():
        x[some] = 0.0
        torch.where(some, x, 1.0)
        x[places]
        torch.nn.functional.one_hot(places, 3)
        x.repeat_interleave(places, 0, output_size=2)


def test_every_task_has_a_recipe_that_is_watched() -> None:
    watched = {type(get_recipe(name).task) for name in KINDS.values()}
    assert {type(get_recipe(name).task) for name in list_recipes()} - watched == set()
