"""Losses between two evaluations belong to a process each, so that several go on with what they had, to the last bit."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from foveal import InputError
from foveal.lab.training.resuming import restore_state

EMPTY = {"loss": 0.0, "seen": 0}
STATE = {"phases": {}, "window": {"loss": 3.0, "seen": 4.0}, "windows": [{"loss": 1.25, "seen": 2.0}, {"loss": 1.75, "seen": 2.0}]}


def restored(state: dict, rank: int, world: int) -> dict:
    accelerator = SimpleNamespace(process_index=rank, num_processes=world, is_main_process=rank == 0)
    return restore_state([], accelerator, state, EMPTY, Path("step-00000004"), nn.Module())[0]


def test_each_process_gets_its_own_back() -> None:
    assert [restored(STATE, rank, 2) for rank in range(2)] == STATE["windows"]


@pytest.mark.parametrize("world", [1, 3])
def test_other_numbers_of_processes_and_old_checkpoints_go_on_with_the_sum(world) -> None:
    old = {name: value for name, value in STATE.items() if name != "windows"}
    for state, count in ((STATE, world), (old, 2)):
        assert [restored(state, rank, count) for rank in range(count)] == [STATE["window"], *[EMPTY] * (count - 1)]


@pytest.mark.parametrize("windows", [[1, 2], [{}, {}], [{"loss": "x", "seen": 1}] * 2])
def test_windows_of_something_else_are_refused(windows, tmp_path) -> None:
    accelerator = SimpleNamespace(process_index=0, num_processes=2, is_main_process=True)
    with pytest.raises(InputError, match=r"state\.pt does not fit this run"):
        restore_state([], accelerator, {**STATE, "windows": windows}, EMPTY, tmp_path, nn.Module())
