"""Phases of a step against a loop by hand; schedules and eps; a run whose checkpoints are of before there were phases."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from foveal import InputError
from foveal.lab.data import DataBundle, seed_of
from foveal.lab.tasks import Classification, Phase
from foveal.lab.training import Optim, build_model, fit, latest_checkpoint, load_data, optimizing
from foveal.lab.training.order import Order, Seeded
from foveal.lab.training.phases import open_phases
from tests.training.helpers import assert_same_weights, tiny, weights
from tests.training.test_faults import seal


@dataclass(frozen=True, kw_only=True)
class ByParts(Classification):
    """The head learns on two batches, then the rest on the last of these, at a rate of its own."""

    def phases(self) -> tuple[Phase, ...]:
        rest = ("patch", "blocks", "norm", "pos", "cls")
        return (Phase(name="head", parameters=("head.",), batches=2, optim={"lr": 5e-3}), Phase(name="rest", parameters=rest, batches=0))

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle, phase: str) -> Any:  # type: ignore[override]
        loss, reported = super().step(model, forward, inputs, targets, bundle)
        return (2 if phase == "rest" else 1) * loss, reported


OPTIM = Optim(optimizer="adam", lr=1e-3, eps=1e-4, schedule="constant", warmup=0.0, weight_decay=0.0, clip_grad=None)


def test_each_phase_moves_its_part_on_its_batches_and_the_others_stay(tmp_path) -> None:
    recipe = tiny(task=ByParts(), optim=OPTIM, steps=3, eval_every=3, checkpoint_every=3)
    recipe = replace(recipe, model=replace(recipe.model, drop_path=0.0))
    fit(recipe, tmp_path / "run", quiet=True)

    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle).train()
    head, rest = list(model.head.parameters()), [value for name, value in model.named_parameters() if not name.startswith("head.")]
    optimizers = [torch.optim.Adam(part, lr=lr, eps=1e-4) for part, lr in ((head, 5e-3), (rest, 1e-3))]
    order, samples = Order(len(bundle.train), recipe.batch_size, recipe.seed), Seeded(bundle.train, recipe.seed)
    for step in range(3):
        torch.manual_seed(seed_of(recipe.seed, "step", step, 0))
        for draw in (0, 1):
            images, labels = recipe.task.collate([samples[position] for position in order.batch(2 * step + draw)])
            _move(optimizers[0], recipe.task.step(model, model, images, labels, bundle, phase="head")[0], head)
        _move(optimizers[1], recipe.task.step(model, model, images, labels, bundle, phase="rest")[0], rest)
    wanted = {name: value.detach() for name, value in model.state_dict().items()}
    got = weights(tmp_path / "run")
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6, msg=name)


def _move(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad()
    for value, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        value.grad = gradient
    optimizer.step()


def test_a_run_of_before_there_were_phases_goes_on(tmp_path) -> None:
    recipe = tiny(steps=6, checkpoint_every=3)
    fit(recipe, tmp_path / "whole", quiet=True)
    fit(recipe, tmp_path / "run", quiet=True)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if path.name != "step-00000003":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (tmp_path / "run" / "model.safetensors").unlink()
    old = latest_checkpoint(tmp_path / "run")
    state = torch.load(old / "state.pt", weights_only=True)
    torch.save({**state.pop("phases")["all"], **state}, old / "state.pt")
    seal(old)
    fit(recipe, tmp_path / "run", resume=True, quiet=True)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_constant_rate_is_constant_behind_its_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    recipe = tiny(optim=replace(OPTIM, lr=0.3, warmup=0.2, warmup_lr=0.1), steps=10)
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    schedule, got = optimizing.make_schedule(optimizer, recipe), []
    for step in range(10):
        schedule.step_update(step)
        got.append(optimizer.param_groups[0]["lr"])
    assert got == pytest.approx([0.1, 0.2, *[0.3] * 8])
    schedule = optimizing.make_schedule(optimizer, replace(recipe, optim=replace(OPTIM, lr=0.3)))
    for step in range(10):
        schedule.step_update(step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


def test_eps_reaches_the_optimizer_and_is_none_of_sgds() -> None:
    model = nn.Linear(2, 2)
    for optimizer in ("adam", "adamw", "lamb"):
        made = optimizing.make_optimizer(model, tiny(optim=replace(OPTIM, optimizer=optimizer)))
        assert {group["eps"] for group in made.param_groups} == {1e-4}
    with pytest.raises(InputError, match="eps is of adamw, adam and lamb"):
        tiny(optim=replace(OPTIM, optimizer="sgd"))
    with pytest.raises(InputError, match="eps of Optim must be above 0"):
        replace(OPTIM, eps=0.0)


def test_rates_by_name_are_of_the_phase_that_has_the_name(tmp_path) -> None:
    """One that no phase has is a mistake; one that the first phase has not is not."""
    recipe = tiny(task=ByParts(), optim=replace(OPTIM, lr_of={"blocks.*": 1e-5, "head.bias": 3e-3}), steps=1, eval_every=1, checkpoint_every=1)
    model = build_model(recipe, load_data(recipe.data))
    phases = open_phases(model, recipe, Accelerator(cpu=True))
    names = {id(value): name for name, value in model.named_parameters()}
    rates = {}
    for phase in phases:
        for group in phase.optimizer.param_groups:
            rates |= {names[id(value)]: phase.recipe.optim.lr * group.get("lr_scale", 1.0) for value in group["params"]}
    assert rates["head.bias"] == pytest.approx(3e-3)
    assert rates["head.weight"] == pytest.approx(5e-3)
    assert [rate for name, rate in rates.items() if name.startswith("blocks.")] == pytest.approx([1e-5] * sum(name.startswith("blocks.") for name in rates))
    with pytest.raises(InputError, match="no parameter that is trained is named so"):
        open_phases(model, replace(recipe, optim=replace(recipe.optim, lr_of={"heads.*": 1e-5})), Accelerator(cpu=True))
