"""What makes the host wait for the device, and processes for each other: nothing at every step."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foveal.lab.training import Optim, build_model, fit, load_data, loop, opening, stopping
from foveal.lab.training.resuming import restore_state
from tests.training.helpers import tiny

LONG = tiny(steps=8, eval_every=100, checkpoint_every=4, optim=Optim(lr=2e-3, ema=0.9))


class Counted(TorchDispatchMode):
    """Reads of a tensor's value, by whether it has left the host: on a device each would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def reads_by_step(run: Any, monkeypatch: pytest.MonkeyPatch, resume: bool) -> list[int]:
    counted, seen = Counted(), []
    real = loop.Progress.advance

    def advance(self: Any, *arguments: Any) -> None:
        seen.append(counted.reads)
        real(self, *arguments)

    with monkeypatch.context() as patch, counted:
        patch.setattr(loop.Progress, "advance", advance)
        fit(LONG, run, resume=resume, quiet=True)
    return [after - before for before, after in pairwise(seen)]


@pytest.mark.case("R13")
def test_a_step_reads_nothing_but_the_optimizers_own_count(tmp_path, monkeypatch) -> None:
    """AdamW reads its count of steps, which lies on the host: at most twice a parameter. Nothing else is read between checkpoints, fresh or resumed."""
    reads = reads_by_step(tmp_path / "run", monkeypatch, resume=False)
    own = min(reads)
    model = build_model(LONG, load_data(LONG.data))
    assert own <= 2 * len(list(model.parameters()))
    assert reads.count(own) >= len(reads) - 1, "but for the step after which a checkpoint was written"


@pytest.mark.case("R13")
def test_the_optimizers_state_is_loaded_after_it_is_prepared(tmp_path, monkeypatch) -> None:
    """What prepare finds in an optimizer it moves to the device, and AdamW's count of steps belongs on the host."""
    fit(tiny(steps=2), tmp_path / "run", quiet=True)
    prepared: list[int] = []
    after: list[int] = []

    class Watching(opening.Accelerator):
        def prepare(self, *parts: Any) -> Any:
            prepared.append(len(parts[1].state))
            return super().prepare(*parts)

    def restored(phases: Any, *rest: Any) -> Any:
        found, optimizer = restore_state(phases, *rest), phases[0].optimizer
        after.append(len(optimizer.state))
        assert all(value["step"].device.type == "cpu" for value in optimizer.state.values())
        return found

    monkeypatch.setattr(opening, "Accelerator", Watching)
    monkeypatch.setattr(opening, "restore_state", restored)
    fit(tiny(steps=2), tmp_path / "run", resume=True, quiet=True)
    assert prepared == [0]
    assert after[0] > 0


class Others:
    """A process of two; the other's flag goes up at a time."""

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, other: Callable[[], bool]) -> None:
        self.other, self.asked = other, 0

    def reduce(self, said: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        self.asked += 1
        return said + torch.tensor([float(self.other()), said[1].item()])


@pytest.mark.case("R13")
@pytest.mark.parametrize(("each", "most"), [(0.001, 12), (0.1, 52), (5.0, 1000)])
def test_processes_ask_each_other_about_every_two_seconds(each, most, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    others = Others(lambda: False)
    ask = stopping.Stopping(others)  # type: ignore[arg-type]
    for step in range(1, 1001):
        now[0] += each
        assert not ask.agreed(False, step, due=False)
    assert min(1000, 1000 * each / 4) <= others.asked <= most


@pytest.mark.case("R13")
def test_both_leave_at_the_step_at_which_they_ask(monkeypatch) -> None:
    now, raised = [0.0], [False]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    ask = stopping.Stopping(Others(lambda: raised[0]))  # type: ignore[arg-type]
    now[0] = 0.5
    assert not ask.agreed(False, 1, due=False)
    raised[0] = True
    answers = []
    for step in range(2, 7):
        now[0] += 0.5
        answers.append(ask.agreed(False, step, due=step == 6))
    assert answers == [False, False, False, True, True], "four steps of half a second later, and wherever it is due"
    alone = stopping.Stopping(type("One", (), {"num_processes": 1})())
    assert [alone.agreed(flag, 1, due=False) for flag in (True, False)] == [True, False]
