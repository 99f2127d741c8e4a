"""How a machine computes a run changes its numbers by rounding alone, is kept in recipe.json, and is decided for the device where it was left open."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from foveal.lab.training import Optim, fit, loop, read_json
from foveal.lab.training.checkpoint import fingerprint
from foveal.lab.training.optimizing import make_optimizer
from foveal.lab.training.speed import channels_last, channels_last_, matmul_precision, settled
from tests.tasks.test_segmentation import RECIPE as CONVOLUTIONAL
from tests.training.helpers import assert_same_weights, tiny, weights

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def assert_close_weights(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4)


def test_what_is_left_open_is_yes_on_cuda_and_stays_open_elsewhere() -> None:
    recipe = tiny()
    on_cuda, notes = settled(recipe, CUDA)
    assert (on_cuda.tf32, on_cuda.fused, notes) == (True, True, [])
    assert settled(recipe, CPU) == (recipe, [])
    assert settled(replace(recipe, optim=Optim(optimizer="lamb")), CUDA)[0].fused is False
    said, notes = settled(replace(recipe, tf32=False, fused=False), CUDA)
    assert (said.tf32, said.fused, notes) == (False, False, [])


def test_what_a_device_does_not_know_is_said(tmp_path) -> None:
    (note,) = settled(tiny(tf32=True), CPU)[1]
    assert "tf32 is of CUDA" in note
    before = torch.get_float32_matmul_precision()
    with matmul_precision(tiny(tf32=True), CPU):
        assert torch.get_float32_matmul_precision() == before
    with matmul_precision(tiny(tf32=True), CUDA):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_lamb_has_no_fused_form() -> None:
    with pytest.raises(ValueError, match="LAMB has no fused form"):
        tiny(fused=True, optim=Optim(optimizer="lamb"))


def test_the_same_run_on_another_machine_is_the_same_run() -> None:
    own = fingerprint(tiny().to_dict())
    assert own == fingerprint(tiny(compile=True, channels_last=True, tf32=True, fused=True).to_dict())
    assert own != fingerprint(tiny(precision="bf16").to_dict())


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_fused_optimizer_is_asked_for_by_name(optimizer) -> None:
    made = make_optimizer(nn.Linear(2, 2), tiny(fused=True, optim=Optim(optimizer=optimizer)))
    assert all(group["fused"] for group in made.param_groups)
    assert not any(group["fused"] for group in make_optimizer(nn.Linear(2, 2), tiny(optim=Optim(optimizer=optimizer))).param_groups)


def test_a_fused_run_is_the_run_but_for_rounding_and_resumes_bit_for_bit(tmp_path) -> None:
    recipe = tiny(fused=True)
    fit(recipe, tmp_path / "fused", quiet=True)
    fit(tiny(), tmp_path / "plain", quiet=True)
    assert_close_weights(weights(tmp_path / "fused"), weights(tmp_path / "plain"))
    assert read_json(tmp_path / "fused" / "recipe.json")["fused"] is True
    fit(replace(recipe, steps=8), tmp_path / "again", quiet=True)
    assert_same_weights(weights(tmp_path / "again"), weights(tmp_path / "fused"))


def test_a_stopped_fused_run_goes_on_bit_for_bit(tmp_path, monkeypatch) -> None:
    recipe, real = tiny(fused=True), loop._step

    def stopping(run: Any, step: int) -> Any:
        if step == 6:
            raise KeyboardInterrupt
        return real(run, step)

    fit(recipe, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, tmp_path / "cut", quiet=True)
    fit(recipe, tmp_path / "cut", resume=True, quiet=True)
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize(("first", "then"), [({}, {"fused": True, "channels_last": True}), ({"fused": True, "channels_last": True}, {})])
def test_a_run_goes_on_as_the_machine_computes_that_goes_on(first, then, tmp_path, monkeypatch) -> None:
    """Not as the one did that saved; what the optimizer keeps lies as weights lie now."""
    recipe, real = replace(CONVOLUTIONAL, steps=4, eval_every=2, checkpoint_every=2, optim=Optim(optimizer="sgd", lr=0.05)), loop._step
    fit(recipe, tmp_path / "plain", quiet=True)

    def stopping(run: Any, step: int) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return real(run, step)

    def looking(run: Any, step: int) -> Any:
        (phase,) = run.phases
        assert all(bool(group["fused"]) is ("fused" in then) for group in phase.optimizer.param_groups)
        kept = [(state["momentum_buffer"], value) for value, state in phase.optimizer.state.items()]
        assert any(value.ndim == 4 for _, value in kept)
        assert all(buffer.stride() == value.stride() for buffer, value in kept)
        return real(run, step)

    monkeypatch.setattr(loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(replace(recipe, **first), tmp_path / "cut", quiet=True)
    monkeypatch.setattr(loop, "_step", looking)
    fit(replace(recipe, **then), tmp_path / "cut", resume=True, quiet=True)
    assert_close_weights(weights(tmp_path / "cut"), weights(tmp_path / "plain"))


def test_weights_of_volumes_have_no_channels_last_and_stay() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    channels_last_(net)
    assert net[0].weight.stride(1) == 1
    assert net[1].weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_images_and_convolutions_lie_with_their_channels_last(tmp_path, monkeypatch) -> None:
    # Adam makes steps of the noise in what has no gradient, as a bias before a norm
    recipe = replace(CONVOLUTIONAL, steps=2, eval_every=2, checkpoint_every=2, optim=Optim(optimizer="sgd", lr=0.05))
    fit(recipe, tmp_path / "plain", quiet=True)
    seen: list[tuple[bool, bool]] = []
    real = loop._micro_step

    def looking(run: Any, phase: Any, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        kernels = [value for value in run.model.parameters() if value.ndim == 4 and value[0, 0].numel() > 1 and value.shape[1] > 1]
        assert kernels
        seen.append((inputs.is_contiguous(memory_format=torch.channels_last), all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)))
        real(run, phase, inputs, targets)

    monkeypatch.setattr(loop, "_micro_step", looking)
    fit(replace(recipe, channels_last=True), tmp_path / "last", quiet=True)
    assert seen == [(True, True)] * 2
    assert_close_weights(weights(tmp_path / "last"), weights(tmp_path / "plain"))
    assert all(value.is_contiguous() for value in weights(tmp_path / "last").values())


def test_only_images_are_moved_and_none_is_changed() -> None:
    batch = {
        "image": torch.randn(2, 3, 4, 5),
        "clip": torch.randn(2, 3, 2, 4, 5),
        "mask": torch.ones(2, 1, 4, 5, dtype=torch.bool),
        "labels": [torch.arange(3)],
    }
    got = channels_last(batch)
    assert got["image"].stride(1) == 1
    assert all(got[name] is batch[name] for name in ("clip", "mask"))
    assert got["labels"][0] is batch["labels"][0]
    assert torch.equal(got["image"], batch["image"])


def test_steps_are_compiled_and_evaluation_is_not(tmp_path, monkeypatch) -> None:
    compiled: list[str] = []

    class Recorded(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any, **options: Any) -> Any:
            compiled.append("step" if torch.is_grad_enabled() else "evaluation")
            return self.inner(*inputs, **options)

    monkeypatch.setattr(torch, "compile", lambda module, **options: Recorded(module))
    fit(tiny(compile=True, steps=3), tmp_path / "run", quiet=True)
    assert compiled == ["step"] * 3


@pytest.mark.slow
def test_a_compiled_run_is_the_run_but_for_rounding(tmp_path) -> None:
    fit(tiny(), tmp_path / "plain", quiet=True)
    fit(tiny(compile=True), tmp_path / "compiled", quiet=True)
    assert_close_weights(weights(tmp_path / "compiled"), weights(tmp_path / "plain"))
    assert read_json(tmp_path / "compiled" / "recipe.json")["compile"] is True
    assert all("_orig_mod" not in name for name in weights(tmp_path / "compiled"))
