"""Runs on a Ray cluster: what they leave is what they leave without, also where a machine is lost or the command is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from foveal import InputError
from foveal.cli import main
from foveal.cli._ray import with_address
from foveal.lab.compare import Plan, make_plan
from foveal.lab.compare.cluster import Cluster
from foveal.lab.training import Optim, fit, latest_checkpoint, write_json
from foveal.models import ViT
from tests.training.helpers import assert_same_weights, tiny, weights

ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason='needs Ray: pip install "foveal[ray]"')
GO = """
import sys
from pathlib import Path
from foveal.lab.compare import Plan, run_plan
from foveal.lab.compare.cluster import Cluster
from foveal.lab.training import Interrupted, read_json
if __name__ == "__main__":
    try:
        run_plan(Plan.from_dict(read_json(Path(sys.argv[1]))), Path(sys.argv[2]), cluster=Cluster(sys.argv[3]))
    except Interrupted:
        sys.exit(130)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[Callable[[], str]]:
    """The cluster's; called once more it takes the second machine away."""
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    command = [sys.executable, "-m", "tests.compare.ray_cluster"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        name = cluster.stdout.readline().strip()

        def kill() -> str:
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            assert cluster.stdout.readline() == "killed\n"
            return name

        kill.name = name  # type: ignore[attr-defined]
        yield kill
        cluster.stdin.close()
        cluster.wait(timeout=60)


def plan(steps: int) -> Plan:
    recipe = replace(tiny(model=ViT(), optim=Optim(lr=2e-2), eval_every=3, checkpoint_every=3), steps=steps)
    return make_plan(recipe, ("denoising",), seeds=1)


def start(plan: Plan, folder: Path, address: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    write_json(folder / "given.json", plan.to_dict())
    (folder / "go.py").write_text(GO)
    for arm in plan.arms:
        # what costs are is not the affair of these tests
        write_json(folder / "out" / arm.name / "memory.json", {"bytes": 1})
    write_json(folder / "out" / "costs.json", {})
    return subprocess.Popen([sys.executable, "go.py", "given.json", "out", address], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})


def wait_until(fulfilled: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while not fulfilled():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < until
        time.sleep(0.02)


@needs_ray
def test_a_machine_that_is_lost_costs_nothing(address, tmp_path) -> None:
    """Two runs, one on each machine, and the second machine is killed while both train."""
    what = plan(90)
    going = [tmp_path / "there" / "out" / arm.name / "seed-0" for arm in what.arms]
    with start(what, tmp_path / "there", address.name) as process:
        wait_until(lambda: all(latest_checkpoint(run) is not None for run in going), process)
        assert not any((run / "metrics.json").exists() for run in going), "both are under way, on a core each"
        address()
        assert process.wait(timeout=200) == 0
    for arm, run in zip(what.arms, going, strict=True):
        fit(what.run_recipe(arm, 0), tmp_path / arm.name, quiet=True)
        assert_same_weights(weights(run), weights(tmp_path / arm.name))
        assert [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()] == list(range(3, 91, 3))
        assert (run / "look.json").exists()
    assert not list((tmp_path / "there" / "out").glob(".ray-*"))


@needs_ray
@pytest.mark.slow
def test_a_command_that_is_stopped_saves_and_goes_on(address, tmp_path) -> None:
    """On the machine that is left; one run waits, and is not begun."""
    what = plan(400)
    going = [tmp_path / "there" / "out" / arm.name / "seed-0" for arm in what.arms]
    with start(what, tmp_path / "there", address.name) as process:
        wait_until(lambda: any(latest_checkpoint(run) is not None for run in going), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    steps = {int(found.name.removeprefix("step-")) for run in going if (found := latest_checkpoint(run)) is not None}
    assert steps
    assert max(steps) < 400
    assert any(step % 3 for step in steps) or len(steps) == 1, "it saves where it is"
    assert not any((run / "metrics.json").exists() for run in going)


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ([], []),
        (["--ray"], ["--ray", "here"]),
        (["--ray", "--seeds", "2"], ["--ray", "here", "--seeds", "2"]),
        (["--ray", "auto", "--seeds", "2"], ["--ray", "auto", "--seeds", "2"]),
        (["--ray=head:6379"], ["--ray=head:6379"]),
        (["--seeds", "2"], ["--seeds", "2"]),
    ],
)
def test_the_address_may_be_left_out(words, want) -> None:
    assert with_address(words) == want


@pytest.mark.parametrize("gpus", [-0.5, 1.5])
def test_a_share_that_no_gpu_has_is_refused(gpus) -> None:
    with pytest.raises(InputError, match="a share of a GPU or a whole number"):
        Cluster(gpus_per_run=gpus)


@pytest.mark.parametrize("verb", ["compare", "study"])
def test_without_ray_the_extra_is_named(verb, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr("foveal._errors._installed", lambda module: module != "ray" and find_spec(module) is not None)
    words = [verb, *(["denoising"] if verb == "study" else []), "--out", str(tmp_path / "out")]
    assert main([*words, "--ray"]) == 2
    assert 'pip install "foveal[ray]"' in capsys.readouterr().err
    assert main([*words, "--gpus-per-run", "0.5"]) == 2
    assert "give --ray too" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_ray
def test_a_cluster_that_does_not_answer_is_an_error_of_one_line(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--ray", "127.0.0.1:1", "--steps", "2", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "no cluster of Ray answers at 127.0.0.1:1" in error
    assert error.count("\n") == 1
