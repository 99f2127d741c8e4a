"""What goes wrong around a run: foreign folders, a second process, a full disk, weights that are no numbers, and every damage to its files."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from foveal import InputError
from foveal.cli import main
from foveal.lab.training import Diverged, Optim, build_model, evaluate, fit, latest_checkpoint, load_data, load_run, loop, opening
from foveal.lab.training import checkpoint as checkpoints
from foveal.lab.training.checkpoint import write_checkpoint
from foveal.lab.training.place import refusals, sweep
from foveal.lab.training.reading import parse_json, read_history, write_json
from tests.training.helpers import assert_same_weights, tiny, weights
from tests.training.test_checkpoint import RECIPE, STATE, WEIGHTS
from tests.training.test_loop import launch

PLAIN = tiny(optim=Optim(lr=2e-3))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    fit(PLAIN, run, quiet=True)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def write(run: Path, step: int, recipe: dict[str, Any] = RECIPE) -> Path:
    return write_checkpoint(run, step, weights=WEIGHTS, ema=None, state=STATE, recipe=recipe)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert error.startswith("foveal: ")
    return error


# -- folders of others ------------------------------------------------------------------------------------------------------------------------------


def foreign(folder: Path) -> list[Path]:
    """What people keep beside checkpoints, by names that are nearly ours, and by ours."""
    names = {
        "keep-best": "model.safetensors",
        "step-00000012-mine": "checkpoint.json",
        "step-00000001": "notes.txt",
        "partial-notes": "a.txt",
        "partial-00000001-1": "thesis.txt",
        "other-run": "weights.pt",
    }
    for name, file in names.items():
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_text("mine")
    (folder / "loose.txt").write_text("mine")
    return [folder / "loose.txt", *(folder / name / file for name, file in names.items())]


@pytest.mark.case("F1")
@pytest.mark.parametrize("linked", [False, True])
def test_foreign_folders_beside_checkpoints_stay(tmp_path, linked) -> None:
    place = tmp_path / "scratch" if linked else tmp_path / "run" / "checkpoints"
    files = foreign(place)
    if linked:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "checkpoints").symlink_to(place)
    other = write_checkpoint(tmp_path / "elsewhere", 2, weights=WEIGHTS, ema=None, state=STATE, recipe=tiny(seed=9).to_dict())
    shutil.copytree(other, place / "step-00000002")
    (tmp_path / "behind").mkdir()
    (tmp_path / "behind" / "model.safetensors").write_text("mine")
    (place / "step-00000003").symlink_to(tmp_path / "behind")
    (place / "partial-00000003-1").symlink_to(tmp_path / "behind")
    for step in (4, 8, 12, 16):
        write(tmp_path / "run", step)
    sweep(tmp_path / "run")
    assert all(path.read_text() == "mine" for path in [*files, tmp_path / "behind" / "model.safetensors"])
    assert (place / "step-00000002" / "state.pt").exists(), "a checkpoint of another run is another's"
    ours = {path.name for path in place.iterdir() if path.name in {f"step-{step:08d}" for step in (4, 8, 12, 16)}}
    assert ours == {"step-00000012", "step-00000016"}


@pytest.mark.case("F1")
def test_a_run_leaves_foreign_folders_and_goes_on_beside_them(run) -> None:
    files = foreign(run / "checkpoints")
    shutil.rmtree(run / "checkpoints" / "step-00000001")
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000008")
    before = read_history(run / "history.jsonl")
    fit(PLAIN, run, resume=True, quiet=True)
    assert all(path.read_text() == "mine" for path in files if "step-00000001/" not in str(path))
    assert [entry["step"] for entry in read_history(run / "history.jsonl")] == [entry["step"] for entry in before]


@pytest.mark.case("F40")
def test_what_killed_processes_left_is_swept_and_what_lives_or_is_foreign_stays(run) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with subprocess.Popen(["sleep", "60"]) as living:
        litter = [f".recipe.json.{gone.pid}", f".classes.json.{gone.pid}", f".results-val.json.{gone.pid}", f".metrics.json.{os.getpid()}"]
        stays = [f".recipe.json.{living.pid}", ".notes.2024", ".recipe.json.bak", f".vimrc.{gone.pid}"]
        for name in (*litter, *stays):
            (run / name).write_text("{")
        for number in (gone.pid, living.pid):
            (run / "checkpoints" / f"partial-00000009-{number}").mkdir()
            (run / "checkpoints" / f"partial-00000009-{number}" / "state.pt").write_bytes(b"half")
        fit(PLAIN, run, resume=True, quiet=True)
        assert not [name for name in litter if (run / name).exists()]
        assert all((run / name).exists() for name in stays)
        assert not (run / "checkpoints" / f"partial-00000009-{gone.pid}").exists()
        assert (run / "checkpoints" / f"partial-00000009-{living.pid}").exists()
        living.kill()


@pytest.mark.case("F40")
def test_what_a_killed_process_had_still_to_remove_is_removed_as_it_goes_on(run, finished) -> None:
    """Killed between its last checkpoint and the removal of the third: nothing is written any more that would remove it."""
    write(run, 2, PLAIN.to_dict())
    for step in (4, 8):
        shutil.copytree(finished / "checkpoints" / f"step-0000000{step}", run / "checkpoints" / f"step-0000000{step}", dirs_exist_ok=True)
    write(run, 1, tiny(seed=3).to_dict())
    (run / "model.safetensors").unlink()
    fit(PLAIN, run, resume=True, quiet=True)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-00000001", "step-00000004", "step-00000008"}, "another run's stays"
    assert_same_weights(weights(run), weights(finished))


# -- two processes ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.case("F7")
@pytest.mark.parametrize("fresh", [True, False])
def test_a_second_process_on_a_run_is_told(run, finished, fresh, tmp_path, capsys) -> None:
    place = tmp_path / "new" if fresh else run
    place.mkdir(exist_ok=True)
    words = ["train", "--from", str(finished / "recipe.json"), "--out", str(place)] if fresh else ["train", "--resume", str(place)]
    # a descriptor of its own holds the lock against everybody, as another process's would
    with FileLock(place / ".lock"):
        assert "another process trains" in refused(words, capsys)
    assert main(words) == 0, "it ends with the process"


# -- two checkpoints --------------------------------------------------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.case("R14")
@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "checkpoint.json"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_message(run, finished, file, capsys) -> None:
    for name in ("model.safetensors", "metrics.json"):
        (run / name).unlink()
    spoil(run / "checkpoints" / "step-00000008" / file)
    assert main(["train", "--resume", str(run)]) == 0
    printed = "".join(capsys.readouterr().out.split("\n"))
    assert f"step-00000008/{file} is damaged" in printed
    assert "going on from step 4 instead" in printed
    assert_same_weights(weights(run), weights(finished))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-00000004", "step-00000008"}
    assert checkpoints.read_checkpoint(run / "checkpoints" / "step-00000008", PLAIN.to_dict())["step"] == 8, "and the damaged one is whole again"


@pytest.mark.case("R14")
def test_a_newest_checkpoint_that_does_not_say_what_it_is_stands_aside(run, finished, capsys) -> None:
    """Nothing says that it is this run's, so that nothing of it is removed; and the run ends as it would have."""
    newest = run / "checkpoints" / "step-00000008"
    (newest / "checkpoint.json").unlink()
    kept = {path.name: path.read_bytes() for path in newest.iterdir()}
    fit(PLAIN, run, resume=True)
    assert "going on from step 4 instead" in capsys.readouterr().out
    assert_same_weights(weights(run), weights(finished))
    aside = run / "checkpoints" / "damaged-step-00000008"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == kept
    # and once more, beside the first
    (newest / "checkpoint.json").unlink()
    fit(PLAIN, run, resume=True, quiet=True)
    assert (run / "checkpoints" / "damaged-step-00000008-2").is_dir()
    assert latest_checkpoint(run) == newest


def test_two_damaged_checkpoints_are_the_end_and_another_recipe_is_no_damage(run, capsys) -> None:
    for step in (4, 8):
        spoil(run / "checkpoints" / f"step-0000000{step}" / "model.safetensors")
    line = refused(["train", "--resume", str(run)], capsys)
    assert "no checkpoint of" in line
    assert "step-00000004/model.safetensors is damaged" in line
    assert "step-00000008/model.safetensors is damaged" in line
    shutil.rmtree(run / "checkpoints")
    write(run, 8, tiny(seed=3).to_dict())
    write(run, 4, PLAIN.to_dict())
    assert "another recipe" in refused(["train", "--resume", str(run)], capsys)


# -- the operating system ---------------------------------------------------------------------------------------------------------------------------


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.case("F30")
@pytest.mark.parametrize("what", ["weights", "state", "description"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(run, finished, what, monkeypatch, capsys) -> None:
    """Through /dev/full, which refuses as a full disk does, also in the words of PyTorch's archive."""
    shutil.rmtree(run / "checkpoints" / "step-00000008")
    (run / "model.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in (run / "checkpoints" / "step-00000004").iterdir()}
    real_open, wanted = Path.open, {"weights": "model.safetensors", "state": "state.pt", "description": "checkpoint.json"}[what]

    def open_full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if self.name == wanted and "partial" in str(self.parent) and "w" in mode:
            self.touch()
            return real_open(Path("/dev/full"), mode, *arguments, **options)
        return real_open(self, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        line = refused(["train", "--resume", str(run)], capsys)
    assert "the disk is full" in line
    assert f"go on with: foveal train --resume {run}" in line
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"], "the half-written one gave its room back"
    assert {path.name: path.read_bytes() for path in (run / "checkpoints" / "step-00000004").iterdir()} == before
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_weights(weights(run), weights(finished))


@pytest.mark.case("F30")
def test_the_older_of_two_makes_room_on_a_full_disk(tmp_path, monkeypatch) -> None:
    for step in (4, 8):
        write(tmp_path, step)
    real, tries = checkpoints._flush_state, []

    def once(path: Path, state: dict[str, Any]) -> None:
        tries.append(sorted(other.name for other in path.parent.parent.iterdir() if other.name.startswith("step-")))
        if len(tries) == 1:
            full()
        real(path, state)

    monkeypatch.setattr(checkpoints, "_flush_state", once)
    write(tmp_path, 12)
    assert tries == [["step-00000004", "step-00000008"], ["step-00000008"]]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000008", "step-00000012"}


@pytest.mark.case("F30")
def test_a_small_file_that_does_not_fit_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    write_json(tmp_path / "a.json", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.case("F30", "F32")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/x"), "not allowed to read or write"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full"),
        (OSError(errno.EIO, "Input/output error"), "the operating system refused"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "is gone"),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "no room for what processes share"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process that reads data is gone"),
        (torch.distributed.DistNetworkError("Connection reset by peer"), "another process of this run is gone"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "the device has not enough memory"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_refusals_are_one_line_with_the_way_on(tmp_path, error, said) -> None:
    (tmp_path / "recipe.json").touch()
    with pytest.raises(InputError, match=said) as caught, refusals(tmp_path):
        raise error
    assert f"go on with: foveal train --resume {tmp_path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defects_keep_their_traceback(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="shape"), refusals(tmp_path):
        raise RuntimeError("shape '[3]' is invalid for input of size 4")


@pytest.mark.case("F30")
def test_a_run_whose_folder_is_taken_away_says_so(tmp_path, monkeypatch, capsys) -> None:
    write_json(tmp_path / "recipe.json", PLAIN.to_dict())
    real = loop.Progress.advance

    def advance(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        if (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "taken")

    monkeypatch.setattr(loop.Progress, "advance", advance)
    line = refused(["train", "--from", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "run")], capsys)
    assert "gone" in line


@pytest.mark.case("F32")
@pytest.mark.slow
def test_a_process_of_several_that_was_killed_is_one_line_and_the_run_goes_on(tmp_path) -> None:
    done = launch(2, PLAIN, tmp_path / "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    done = launch(2, PLAIN, tmp_path / "run", "--kill-rank-1-at", "6")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("foveal: ")]
    assert len(said) == 1, done.stderr[-3000:]
    assert "another process of this run is gone" in said[0]
    assert f"go on with: foveal train --resume {tmp_path / 'run'}" in said[0]
    assert launch(2, PLAIN, tmp_path / "run").returncode == 0
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


@pytest.mark.case("F29")
@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), OSError(errno.ENOSPC, "No space left on device")])
def test_evaluation_shows_its_numbers_where_it_cannot_write(run, error, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("foveal.lab.training.reading.replace_file", lambda *arguments: (_ for _ in ()).throw(error))
    assert main(["eval", str(run)]) == 2
    printed = capsys.readouterr()
    assert f"{json.loads((run / 'metrics.json').read_text())['accuracy']:.4f}" in printed.out
    assert printed.err.count("\n") == 1
    assert "could not be written" in printed.err
    assert "--out" in printed.err
    monkeypatch.undo()
    assert main(["eval", str(run), "--out", str(tmp_path / "there")]) == 0
    assert json.loads((tmp_path / "there" / "eval.json").read_text())["test"]["accuracy"] == json.loads((run / "metrics.json").read_text())["accuracy"]
    assert not (run / "eval.json").exists()


# -- weights that are no numbers --------------------------------------------------------------------------------------------------------------------


@pytest.mark.case("F33")
@pytest.mark.parametrize("changes", [{}, {"ema": 0.5}, {"optimizer": "sgd", "clip_grad": None}])
def test_a_last_step_that_spoils_the_weights_publishes_nothing(tmp_path, changes) -> None:
    with pytest.raises(Diverged, match=r"(by|after) step 1; lower --optim\.lr \(now 1e\+30, 1e\+30 in this step\).*no checkpoint had been written"):
        fit(replace(PLAIN, optim=Optim(lr=1e30, warmup=0.0, **changes), steps=1), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert latest_checkpoint(tmp_path / "run") is None


@pytest.mark.case("F33")
@pytest.mark.parametrize("where", ["weight", "average"])
def test_the_last_good_checkpoint_is_kept(tmp_path, where, monkeypatch) -> None:
    """A weight that no loss depends on goes unseen by every loss."""
    real = loop.Progress.advance
    seen: list[Any] = []

    def build(*arguments: Any) -> Any:
        seen.append(build_model(*arguments))
        seen[0].unused = torch.nn.Parameter(torch.zeros(1))
        return seen[0]

    class Ema(opening.ModelEmaV3):
        def update(self, model: Any, step: int) -> None:
            super().update(model, step=step)
            if where == "average" and step == 6:
                self.module.unused.data.fill_(float("nan"))

    def advance(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        seen.append(None)
        if where == "weight" and len(seen) == 8:
            seen[0].unused.data.fill_(float("inf"))

    monkeypatch.setattr(opening, "build_model", build)
    monkeypatch.setattr(opening, "ModelEmaV3", Ema)
    monkeypatch.setattr(loop.Progress, "advance", advance)
    with pytest.raises(Diverged, match=rf"unused of {'the weights' if where == 'weight' else 'their average'} was not finite after step 8.*step-00000004"):
        fit(replace(PLAIN, optim=Optim(lr=2e-3, ema=0.9)), tmp_path / "run", quiet=True)
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "step-00000004"
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.case("F33")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_spoilt_weights_are_not_evaluated(run, value, capsys) -> None:
    saved = load_file(run / "model.safetensors")
    for name in saved:
        if value != 1e30 or name.startswith("head"):
            saved[name] = torch.full_like(saved[name], value)
    if value == 1e30:
        saved["head.bias"] = torch.full_like(saved["head.bias"], 3e38) * torch.tensor([1.0, -1.0] * 5)
    save_file(saved, run / "model.safetensors")
    assert "no numbers" in refused(["eval", str(run)], capsys)
    assert not (run / "eval.json").exists()


@pytest.mark.case("F33")
def test_the_look_ahead_leaves_no_trace() -> None:
    """Batch norm's statistics, random numbers and gradients are those of before."""
    from foveal.lab.training.judging import loss_after
    from foveal.timm import TimmModel

    recipe = replace(PLAIN, model=TimmModel(name="test_efficientnet"))
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    images, labels = torch.stack([bundle.train[n][0] for n in range(6)]), torch.tensor([bundle.train[n][1] for n in range(6)])
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.random.get_rng_state()
    loss = loss_after(recipe, model, model, images, labels, bundle)
    assert loss.isfinite()
    assert_same_weights(model.state_dict(), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    model.train()(images)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()), "or there was nothing to leave"


@pytest.mark.case("F33")
def test_json_holds_no_nan(tmp_path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (1, None)})
    strict = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"a": [None, 1.5], "b": {"c": None}, "d": [1, None]}


# -- damaged files ----------------------------------------------------------------------------------------------------------------------------------


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def loop_of_links(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "folder": folder,
    "empty": put(b""),
    "text": put(b"hello"),
    "bytes": put(bytes(range(256))),
    "digits": put(b'{"steps": ' + b"9" * 6000 + b"}"),
    "deep": put(b"[" * 100_000),
    "nested": put(b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "list": put(b"[1, 2]"),
    "null": put(b"null"),
    "zeros": put(b"\0" * 4096),
    "latin": put('{"a": "é"}'.encode("latin1")),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "loop": loop_of_links,
}


@pytest.mark.case("F37")
@pytest.mark.parametrize("damage", HOSTILE)
@pytest.mark.parametrize("name", ["recipe.json", "classes.json", "model.safetensors", "checkpoint.json"])
def test_any_damage_to_a_file_is_one_line_that_names_it(run, name, damage, capsys) -> None:
    path = run / name
    words = ["eval", str(run)]
    if name == "checkpoint.json":
        shutil.rmtree(run / "checkpoints" / "step-00000004")
        path, words = run / "checkpoints" / "step-00000008" / name, ["train", "--resume", str(run)]
    HOSTILE[damage](path)
    if damage == "loop" and name in ("classes.json", "recipe.json", "model.safetensors"):
        # Path.exists says no of a link that leads nowhere
        assert main(words) in (0, 2)
        assert "Traceback" not in capsys.readouterr().err
        return
    line = refused(words, capsys)
    assert name in line or (name == "recipe.json" and damage in ("nested", "digits", "null", "list"))


@pytest.mark.case("F37")
@pytest.mark.parametrize("verb", ["export", "inspect"])
def test_other_verbs_name_damage_too(run, verb, capsys) -> None:
    put(b"[" * 100_000)(run / "recipe.json")
    assert "recipe.json" in refused([verb, str(run), *(["x.png"] if verb == "inspect" else [])], capsys)


LINES = {
    "no JSON": (b"hello\n", "line 2 of"),
    "no step": (b'{"loss": 1}\n', "line 2 of"),
    "bytes": (b"\xff\xfe\n", "line 2 of"),
    "list": (b"[3]\n", "line 2 of"),
    "text": (b'{"step": "3"}\n', "line 2 of"),
    "true": (b'{"step": true}\n', "line 2 of"),
    "deep": (b"[" * 100_000 + b"\n", "line 2 of"),
}


@pytest.mark.case("F37")
@pytest.mark.parametrize("kind", LINES)
def test_a_damaged_history_names_its_line(run, kind, capsys) -> None:
    first, *rest = (run / "history.jsonl").read_bytes().splitlines(keepends=True)
    (run / "history.jsonl").write_bytes(first + LINES[kind][0] + b"".join(rest))
    line = refused(["train", "--resume", str(run)], capsys)
    assert LINES[kind][1] in line
    assert "history.jsonl" in line
    assert "remove that line" in line


@pytest.mark.case("F5", "F37")
def test_a_history_out_of_order_is_put_in_order_and_an_unfinished_line_dropped(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 15}\n{"step": 3, "a": 1}\n\n{"step": 6}\n{"step": 3, "a": 2}\n{"step": 9, "train')
    assert read_history(path) == [{"step": 3, "a": 2}, {"step": 6}, {"step": 15}]
    assert read_history(tmp_path / "none.jsonl") == []
    path.write_bytes(b'{"step": 3}\n\0\0\0\0')
    assert [entry["step"] for entry in read_history(path)] == [3]


def seal(path: Path) -> None:
    """Hashes made right for whatever lies in a checkpoint."""
    about = json.loads((path / "checkpoint.json").read_text())
    about.pop("check")
    about["files"] = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in about["files"]}
    check = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps(about | {"check": check}))


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        changed = change(state)
        torch.save(state if changed is None else changed, path)

    return edit


STATES: dict[str, Callable[[Path], None]] = {
    "a tensor": lambda path: torch.save(torch.ones(3), path),
    "a list": lambda path: torch.save([1, 2], path),
    "no dict": lambda path: torch.save({"optimizer": 3, "scaler": {}}, path),
    "text": lambda path: path.write_text("hello") and None,
    "half": HOSTILE["half"],
    "no groups": edited(lambda state: state["phases"]["all"]["optimizer"].pop("param_groups") and None),
    "fewer parameters": edited(lambda state: state["phases"]["all"]["optimizer"]["param_groups"].pop() and None),
    "groups are text": edited(lambda state: state["phases"]["all"]["optimizer"].update(param_groups="abc")),
    "another shape": edited(lambda state: state["phases"]["all"]["optimizer"]["state"][0].update(exp_avg=torch.ones(2, 2))),
    "no window": edited(lambda state: state.pop("window") and None),
    "window of text": edited(lambda state: state["window"].update(loss="x")),
    "another window": edited(lambda state: state["window"].update(miou=1.0)),
    "task of text": edited(lambda state: state.update(task={"a": "b"})),
}


@pytest.mark.case("F37")
@pytest.mark.parametrize("kind", STATES)
def test_a_state_of_other_content_with_right_hashes_is_one_line(run, kind, capsys) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    last = run / "checkpoints" / "step-00000008"
    STATES[kind](last / "state.pt")
    seal(last)
    assert "state.pt" in refused(["train", "--resume", str(run)], capsys)


@pytest.mark.case("F39")
@pytest.mark.parametrize("form", ["zip", "plain"])
def test_pickled_code_never_runs_and_is_one_line(run, tmp_path, form, capsys) -> None:
    mark = tmp_path / "PWNED"
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    last = run / "checkpoints" / "step-00000008"
    if form == "zip":
        torch.save({"optimizer": Evil(mark)}, last / "state.pt")
    else:
        (last / "state.pt").write_bytes(pickle.dumps(Evil(mark)))
    seal(last)
    line = refused(["train", "--resume", str(run)], capsys)
    assert "state.pt" in line
    assert "weights_only" not in line, "its advice is to let the code run"
    assert not mark.exists()
    # and the other verb that reads a checkpoint
    assert "state.pt" in refused(["export", str(last)], capsys)
    assert not mark.exists()


@pytest.mark.case("F37")
def test_a_nesting_and_a_number_that_no_file_of_ours_has_are_refused() -> None:
    for content in (b"[" * 70 + b"]" * 70, b"1" * 25, b'{"a": -' + b"1" * 30 + b"}"):
        with pytest.raises(InputError, match="here holds no JSON"):
            parse_json(content, "here")
    assert parse_json(b'{"a": [-9223372036854775807, 1e3]}', "here") == {"a": [-9223372036854775807, 1000.0]}


def test_a_copy_of_a_run_evaluates_as_the_run(run, finished) -> None:
    """Copied while it lay still, with its lock; clocks do not matter."""
    for path in run.rglob("*"):
        os.utime(path, (0, 0))
    recipe, bundle, model = load_run(run)
    want = json.loads((finished / "metrics.json").read_text())
    assert evaluate(model, bundle.test, recipe, bundle) == {name: want[name] for name in ("accuracy", "class_accuracy", "loss")}
