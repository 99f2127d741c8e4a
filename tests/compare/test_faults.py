"""A comparison whose workers outlive their parent, whose runs diverge, and whose files were damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from foveal import InputError
from foveal.cli import main
from foveal.lab.compare import (
    Plan,
    check_results,
    collect,
    costs,
    make_plan,
    measure_resolution,
    render_report,
    run,
    run_plan,
    steps_for_minutes,
    workers,
    write_results,
    write_summary,
)
from foveal.lab.compare._diverged import DIVERGED, diverged_runs, without_diverged
from foveal.lab.training import Diverged, Optim, fit, read_json, write_json
from foveal.models import ViT
from tests.training.helpers import assert_same_weights, tiny, weights

PLAN = make_plan(tiny(model=ViT(), optim=Optim(lr=2e-2), steps=6, eval_every=3, checkpoint_every=3), ("denoising", "external"), seeds=1)


def seeds(folder: Path, plan: Plan = PLAN) -> dict[str, Path]:
    return {arm.name: folder / arm.name / "seed-0" for arm in plan.arms}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In this process: what is looked at here is not how workers are started."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    write_json(folder / "plan.json", PLAN.to_dict())
    for arm in PLAN.arms:
        run._train_and_look(PLAN.run_recipe(arm, 0), folder / arm.name / "seed-0")
        write_json(folder / arm.name / "memory.json", {"bytes": 1})
    write_json(folder / "costs.json", {arm.name: {"parameters": 1, "macs": 1, "milliseconds_per_image": 1.0, "training_bytes": 1} for arm in PLAN.arms})
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.mark.case("F5")
def test_a_worker_waits_for_the_one_that_outlived_its_parent(tmp_path) -> None:
    """Another process holds the run for a second, and writes its history at the last moment."""
    recipe, place = PLAN.run_recipe(PLAN.arms[0], 0), tmp_path / "seed-0"
    place.mkdir()
    code = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1] + "/.lock"):
    print("held", flush=True)
    time.sleep(2)
    open(sys.argv[1] + "/history.jsonl", "a").write('{"step": 9, "train_loss": 1}\\n')
"""
    with subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "held\n"
        run._train_and_look(recipe, place)
        assert orphan.wait() == 0
    assert [json.loads(line)["step"] for line in (place / "history.jsonl").read_text().splitlines()] == [3, 6]


@pytest.mark.case("F5")
def test_a_worker_that_never_ends_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workers, "LEAVE_SECONDS", 0.01)
    (tmp_path / "seed-0").mkdir()
    with FileLock(tmp_path / "seed-0" / ".lock"), pytest.raises(InputError, match="another process trains"):
        run._train_and_look(PLAN.run_recipe(PLAN.arms[0], 0), tmp_path / "seed-0")
    assert not (tmp_path / "seed-0" / "history.jsonl").exists()


@pytest.mark.case("F5")
@pytest.mark.slow
def test_a_parent_that_was_killed_and_started_again_at_once(tmp_path) -> None:
    recipe = replace(PLAN.recipe, steps=60, eval_every=3)
    plan = make_plan(recipe, ("denoising",), seeds=1)
    code = "import sys; from foveal.lab.compare import Plan, run_plan; from foveal.lab.training import read_json; from pathlib import Path\n"
    code += "if __name__ == '__main__': run_plan(Plan.from_dict(read_json(Path(sys.argv[1]))), Path(sys.argv[2]), jobs=1)"
    write_json(tmp_path / "plan.json", plan.to_dict())
    (tmp_path / "go.py").write_text(code)
    for arm in plan.arms:
        write_json(tmp_path / "out" / arm.name / "memory.json", {"bytes": 1})
    start = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "plan.json"), str(tmp_path / "out")]
    going = tmp_path / "out" / "softmax" / "seed-0" / "history.jsonl"
    with subprocess.Popen(start) as parent:
        while not (going.exists() and going.read_text()):
            time.sleep(0.02)
        parent.kill()
    assert subprocess.run(start, check=False).returncode == 0
    fit(plan.run_recipe(plan.arms[0], 0), tmp_path / "alone", quiet=True)
    assert_same_weights(weights(going.parent), weights(tmp_path / "alone"))
    assert [json.loads(line)["step"] for line in going.read_text().splitlines()] == list(range(3, 61, 3))


@pytest.mark.case("F5")
def test_a_history_that_two_wrote_is_put_in_order_and_one_with_a_gap_is_refused(folder) -> None:
    want = collect(folder)["arms"][1]["curves"]
    path = seeds(folder)["denoising"] / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], lines[1]]))
    assert collect(folder)["arms"][1]["curves"] == want
    path.write_text(lines[1])
    with pytest.raises(InputError, match=r"history\.jsonl has not an entry for each evaluation.*\[3, 6\]; remove .*seed-0"):
        collect(folder)
    path.unlink()
    with pytest.raises(InputError, match="history"):
        collect(folder)


@pytest.mark.case("F33")
def test_a_diverged_arm_is_told_and_the_rest_goes_on(folder, monkeypatch, capsys) -> None:
    place = seeds(folder)["external"]
    shutil.rmtree(place)

    def fit_badly(*arguments: Any, **options: Any) -> Any:
        raise Diverged("the loss became nan by step 4")

    with monkeypatch.context() as patch:
        patch.setattr(run, "fit", fit_badly)
        assert run._train_and_look(PLAN.run_recipe(PLAN.arms[2], 0), place) == "diverged"
    assert diverged_runs(PLAN, folder) == {("external", 0): "the loss became nan by step 4"}
    before = (place / DIVERGED).stat().st_mtime_ns
    run_plan(PLAN, folder, jobs=1)
    assert "external seed 0 diverged and is left out of the report: the loss became nan by step 4" in capsys.readouterr().out
    assert (place / DIVERGED).stat().st_mtime_ns == before, "it would diverge again"
    results = collect(folder)
    assert [arm["name"] for arm in results["arms"]] == ["softmax", "denoising"]
    assert any("external diverged with seed 0" in note for note in results["task"]["notes"])


@pytest.mark.case("F33")
def test_numbers_of_before_that_are_none_count_as_diverged_and_a_lost_baseline_is_the_end(folder) -> None:
    path = seeds(folder)["denoising"] / "metrics.json"
    path.write_text(path.read_text().replace('"loss": ', '"loss": NaN, "was": '))
    plan, notes = without_diverged(PLAN, folder)
    assert [arm.name for arm in plan.arms] == ["softmax", "external"]
    assert "its loss is nan" in notes[0]
    write_json(seeds(folder)["softmax"] / DIVERGED, {"message": "the loss became nan"})
    with pytest.raises(InputError, match=r"the baseline is gone.*softmax diverged with seed 0"):
        collect(folder)


@pytest.mark.case("F37")
@pytest.mark.parametrize("content", [b"", b"[[[[", b"null", b"[1]", b"{}", b"\xff", b'{"arms": 3, "recipe": [], "seeds": "x"}', b'{"a": ' + b"9" * 6000 + b"}"])
@pytest.mark.parametrize("name", ["plan.json", "costs.json", "denoising/seed-0/metrics.json", "denoising/seed-0/look.json", "denoising/seed-0/history.jsonl"])
def test_damaged_files_of_a_comparison_are_one_line(folder, name, content) -> None:
    if name.endswith("history.jsonl"):
        content += b"\n"
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        collect(folder)
    assert "\n" not in str(caught.value)
    assert Path(name).name in str(caught.value) or name == "plan.json"


FIELDS: list[tuple[str, Any]] = [
    ("costs.json", {"softmax": 3}),
    ("denoising/seed-0/metrics.json", {"accuracy": "x"}),
    ("denoising/seed-0/metrics.json", {"accuracy": [1]}),
    ("denoising/seed-0/look.json", {"regions": 3}),
    ("denoising/seed-0/look.json", {"angles": [1]}),
    ("denoising/seed-0/look.json", {"pictures": {}}),
    ("resolution.json", {"a": 1}),
    ("resolution.json", [1]),
    ("resolution.json", [{}]),
    ("resolution.json", None),
]


@pytest.mark.case("F37")
@pytest.mark.parametrize(("name", "content"), FIELDS)
def test_fields_of_other_kinds_are_one_line_that_names_the_file(folder, name, content) -> None:
    path = folder / name
    write_json(path, read_json(path) | content if path.exists() else content)
    readers = [collect] + [lambda place: measure_resolution(["softmax"], [4], place)] * (name == "resolution.json")
    for read in readers:
        with pytest.raises(InputError, match=f"{path.name} is damaged") as caught:
            read(folder)
        assert f"remove {path.parent if path.name == 'metrics.json' else path}, and the same command" in str(caught.value)


@pytest.mark.case("F33")
def test_a_comparison_of_which_only_the_baseline_is_left_is_told(folder) -> None:
    for name in ("denoising", "external"):
        write_json(seeds(folder)[name] / DIVERGED, {"message": "the loss became nan"})
    results = read_json(write_results(folder))
    assert "Only softmax has results" in results["verdict"]["headline"]
    assert all(f"{name} diverged with seed 0" in render_report(results) for name in ("denoising", "external"))


def test_samples_are_called_what_they_are(folder, tmp_path) -> None:
    results = check_results(collect(folder))
    assert results["task"]["sample"] == "image"
    results["task"]["sample"] = "cloud"
    page, text = render_report(check_results(results)), write_summary(results, tmp_path / "s.md").read_text()
    assert "test clouds that no run has seen" in page
    assert "on the same clouds, in the same order" in page
    assert "ms a cloud<br>" in page
    assert "| ms a cloud, " in text
    assert "time a cloud" in page
    assert " an image" not in page
    del results["task"]["sample"]  # results of before
    assert "test images that no run has seen" in render_report(check_results(results))


@pytest.mark.case("R13")
def test_the_report_names_the_device_that_costs_were_measured_on(folder, tmp_path) -> None:
    results = check_results(collect(folder))
    assert "ms an image<br>one thread" in render_report(results), "costs of before the device was kept"
    for arm in results["arms"]:
        arm["device"] = "cuda"
    html = render_report(check_results(results))
    assert "ms an image<br>the cuda device" in html
    assert "timed in turn on the cuda device" in html
    assert "the device's, beyond model and batch" in " ".join(html.split()).replace("&#39;", "'")
    assert "one thread" not in html.replace("one thread of the processor", "")
    assert "| ms an image, the cuda device |" in write_summary(results, tmp_path / "s.md").read_text()


@pytest.mark.case("F7", "F30")
def test_a_comparison_on_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, os.strerror(28), str(tmp_path / "out" / "plan.json"))

    monkeypatch.setattr("foveal.lab.training.reading.replace_file", full)
    assert main(["compare", "--attentions", "denoising", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the disk is full" in error
    assert "re-run the same command to resume" in error


@pytest.mark.case("R13")
def test_minutes_and_costs_are_measured_on_the_device_that_trains(monkeypatch) -> None:
    """The device is made up: what is asked of it is kept, and then done on the processor."""
    asked: list[Any] = []
    real = costs._prepare_step

    def prepare(recipe: Any, bundle: Any, batch: Any, device: Any = "cpu") -> Any:
        asked.append(device)
        return real(recipe, bundle, batch)

    monkeypatch.setattr(costs, "_device", lambda: torch.device("cuda", 3))
    monkeypatch.setattr(costs, "_prepare_step", prepare)
    monkeypatch.setattr(costs, "latency", lambda calls, **options: dict.fromkeys(calls, 0.1))
    assert steps_for_minutes(PLAN.recipe, PLAN, 1.0) == 540
    assert asked == [torch.device("cuda", 3)]


@pytest.mark.case("R13")
def test_the_measured_step_has_the_recipes_precision(monkeypatch) -> None:
    seen: list[torch.dtype] = []
    for precision, want in (("no", torch.float32), ("bf16", torch.bfloat16)):
        recipe = replace(PLAN.recipe, precision=precision)
        bundle = costs.load_data(recipe.data)
        step = costs._prepare_step(recipe, bundle, costs._batch(recipe, bundle.train, 4))
        with monkeypatch.context() as patch:
            patch.setattr(type(recipe.task), "loss", lambda self, model, outputs, targets: seen.append(outputs.dtype) or outputs.float().square().mean())
            step()
        assert seen[-1] == want


@pytest.mark.case("F5")
def test_a_worker_is_told_that_its_parent_is_gone(tmp_path) -> None:
    mark = tmp_path / "ended"
    code = f"""
import os, signal, sys, time
from foveal.lab.compare.workers import start_worker
if os.fork() == 0:
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *a: (open({str(mark)!r}, "w").write(str(time.monotonic())), os._exit(0)))
    start_worker(parent)
    print("ready", flush=True)
    time.sleep(60)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(600):
        if mark.exists():
            break
        time.sleep(0.1)
    assert mark.exists()


def test_a_plan_comes_back() -> None:
    assert Plan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    assert read_json.__module__ == "foveal.lab.training.reading"
