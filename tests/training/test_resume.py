"""A run that is stopped or killed, at any moment, ends with the weights of a run that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveal.lab.training import Recipe, latest_checkpoint, read_weights
from tests.training.helpers import assert_same_weights, everything, weights


class Forker:
    """See forker.py."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("forker.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def ask(self, **request: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, recipe: Recipe, run: Path, **options: Any) -> int:
        return self.ask(recipe=recipe.to_dict(), run=str(run), **options)

    def wait(self, pid: int) -> int:
        return self.ask(pid=pid)

    def train(self, recipe: Recipe, run: Path, **options: Any) -> int:
        return self.wait(self.start(recipe, run, **options))


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def whole(forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert forker.train(everything(), run) == 0
    return run


@pytest.fixture(scope="module")
def events(whole: Path) -> list[str]:
    return json.loads(whole.with_suffix(".events").read_text())


def history(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "images_per_second"} for entry in entries]


def assert_equal_runs(run: Path, whole: Path) -> None:
    assert_same_weights(weights(run), weights(whole))
    assert_same_weights(*(read_weights(one / "unaveraged.safetensors") for one in (run, whole)))
    assert json.loads((run / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    assert history(run) == history(whole)
    assert latest_checkpoint(run) == run / "checkpoints" / "step-00000008"


def test_the_same_recipe_twice_gives_the_same_weights(forker, whole, tmp_path) -> None:
    read_back = Recipe.from_dict(json.loads((whole / "recipe.json").read_text()))
    assert forker.train(read_back, tmp_path / "run") == 0
    assert_equal_runs(tmp_path / "run", whole)


def test_another_seed_gives_other_weights(forker, whole, tmp_path) -> None:
    """Else every test here would pass on runs that never change."""
    assert forker.train(replace(everything(), seed=1), tmp_path / "run") == 0
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_weights(weights(tmp_path / "run"), weights(whole))


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 5), (signal.SIGTERM, 2)])
def test_stopping_saves_at_that_step_and_resuming_goes_on(forker, whole, tmp_path, number, step) -> None:
    run = tmp_path / "run"
    assert forker.train(everything(), run, signals=[(step, number)]) == 130
    assert latest_checkpoint(run) == run / "checkpoints" / f"step-{step:08d}"
    assert not (run / "model.safetensors").exists()
    assert forker.train(everything(), run) == 0
    assert_equal_runs(run, whole)
    before = "step-00000005" if step == 5 else "step-00000004"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {before, "step-00000008"}, "older checkpoints are cleared away"


def test_a_second_interrupt_stops_at_once(forker, whole, tmp_path) -> None:
    run = tmp_path / "run"
    assert forker.train(everything(), run, signals=[(5, signal.SIGINT), (5, signal.SIGINT)]) == 131
    assert latest_checkpoint(run) == run / "checkpoints" / "step-00000004", "the step under way is not saved"
    assert forker.train(everything(), run) == 0
    assert_equal_runs(run, whole)


def test_a_signal_in_the_last_step_ends_a_finished_run(forker, whole, tmp_path) -> None:
    assert forker.train(everything(), tmp_path / "run", signals=[(8, signal.SIGINT)]) == 0
    assert_equal_runs(tmp_path / "run", whole)


def test_a_finished_run_can_be_resumed_and_stays_what_it_is(forker, whole, tmp_path) -> None:
    run = tmp_path / "run"
    assert forker.train(everything(), run) == 0
    assert forker.train(everything(), run) == 0
    assert_equal_runs(run, whole)


def kill_before(event: int, forker: Forker, whole: Path, run: Path) -> None:
    assert forker.train(everything(), run, die_before=event) == -signal.SIGKILL
    assert forker.train(everything(), run) == 0
    assert_equal_runs(run, whole)


def moments(events: list[str]) -> list[int]:
    """One of each kind: what is done to which sort of file, without step and process."""
    kinds: dict[str, int] = {}
    for number, event in enumerate(events, 1):
        what, _, path = event.partition(" ")
        kinds[f"{what} {Path(path).name.split('-')[0]}"] = number
    return sorted(kinds.values())


def test_killed_while_writing(forker, whole, events, tmp_path) -> None:
    """A handful of moments out of those below, chosen to lie around the files of a checkpoint."""
    chosen = [n for n in moments(events) if "partial" in events[n - 1] or "model.safetensors" in events[n - 1]]
    assert len(chosen) > 8, f"the events are not what this test was written for: {events}"
    for event in chosen[::3]:
        kill_before(event, forker, whole, tmp_path / str(event) / "run")


def test_killed_around_the_weights_beside_the_average(forker, whole, events, tmp_path) -> None:
    """They are in place before model.safetensors is begun, which says that a run has finished."""
    places = [number for number, event in enumerate(events, 1) if "unaveraged.safetensors" in event]
    begun = next(number for number, event in enumerate(events, 1) if Path(event.partition(" ")[2]).name.startswith(".model.safetensors"))
    assert places
    assert max(places) < begun, events
    for event in {places[-1], begun}:
        kill_before(event, forker, whole, tmp_path / str(event) / "run")


@pytest.mark.slow
def test_killed_before_every_change_of_its_folder(forker, whole, events, tmp_path) -> None:
    for event in range(1, len(events) + 1):
        kill_before(event, forker, whole, tmp_path / str(event) / "run")


def test_killed_from_outside_again_and_again(forker, whole, tmp_path) -> None:
    run, rng = tmp_path / "run", random.Random(0)
    for _ in range(4):
        pid = forker.start(everything(), run)
        time.sleep(rng.uniform(0.1, 1.0))
        os.kill(pid, signal.SIGKILL)
        assert forker.wait(pid) in (0, -signal.SIGKILL)
    assert forker.train(everything(), run) == 0
    assert_equal_runs(run, whole)
