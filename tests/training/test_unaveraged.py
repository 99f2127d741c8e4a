"""The weights beside their average: those of a run without one, written before the run counts as finished, and refused by name where there are none."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import foveal._files
from foveal import InputError
from foveal.lab.training import Optim, fit, load_run, read_weights
from foveal.lab.training import finishing as end
from foveal.lab.training.place import sweep
from tests.training.helpers import assert_same_weights, tiny, weights
from tests.training.test_loop import launch

AVERAGED, PLAIN = tiny(optim=Optim(lr=2e-3, ema=0.9)), tiny(optim=Optim(lr=2e-3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with an average, and the same without."""
    place = tmp_path_factory.mktemp("both")
    for name, recipe in (("averaged", AVERAGED), ("plain", PLAIN)):
        fit(recipe, place / name, quiet=True)
    return place / "averaged", place / "plain"


def test_they_are_those_of_the_same_training_without_average(folders) -> None:
    averaged, plain = folders
    saved = read_weights(averaged / "unaveraged.safetensors")
    assert_same_weights(saved, weights(plain))
    assert_same_weights(saved, read_weights(averaged / "checkpoints" / "step-00000008" / "model.safetensors"))
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_weights(saved, weights(averaged))
    assert not (plain / "unaveraged.safetensors").exists()


def test_a_finished_run_is_loaded_with_either(folders) -> None:
    averaged, plain = folders
    for asked, file in ((None, "model"), (True, "model"), (False, "unaveraged")):
        _, _, model = load_run(averaged, averaged=asked)
        assert not model.training
        assert_same_weights(dict(model.state_dict()), read_weights(averaged / f"{file}.safetensors"))
    for asked in (True, False):
        with pytest.raises(InputError, match=rf"{plain} kept no average of its weights \(its optim.ema is None\)"):
            load_run(plain, averaged=asked)


def test_an_older_run_writes_them_as_it_goes_on_or_says_that_they_are_gone(folders, tmp_path) -> None:
    run = Path(shutil.copytree(folders[0], tmp_path / "run"))
    (run / "unaveraged.safetensors").unlink()
    load_run(run)
    with pytest.raises(InputError, match=rf"has no unaveraged.safetensors, the weights without average; foveal train --resume {run} writes it"):
        load_run(run, averaged=False)
    fit(AVERAGED, run, resume=True, quiet=True)
    assert (run / "unaveraged.safetensors").read_bytes() == (folders[0] / "unaveraged.safetensors").read_bytes()
    assert_same_weights(weights(run), weights(folders[0]))
    (run / "unaveraged.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"cannot read weights from .*unaveraged.safetensors"):
        load_run(run, averaged=False)
    (run / "unaveraged.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="take the average, or train into a new folder"):
        load_run(run, averaged=False)


def test_with_patience_the_weights_of_the_published_step_are_gone_and_none_pass_for_them(tmp_path) -> None:
    fit(replace(AVERAGED, patience=5), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "unaveraged.safetensors").exists()
    with pytest.raises(InputError, match="was trained with patience, which keeps the best average alone"):
        load_run(tmp_path / "run", averaged=False)


def test_a_run_that_counts_as_finished_has_them(folders, tmp_path, monkeypatch) -> None:
    """Killed behind them and before model.safetensors it has not finished, and goes on to the same end."""
    run = Path(shutil.copytree(folders[0], tmp_path / "run"))
    for name in ("unaveraged", "model"):
        (run / f"{name}.safetensors").unlink()
    real = end.write_weights

    def dies(path: Path, state: object) -> None:
        if path.name == "model.safetensors":
            raise KeyboardInterrupt
        real(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(end, "write_weights", dies)
        with pytest.raises(KeyboardInterrupt):
            fit(AVERAGED, run, resume=True, quiet=True)
    assert (run / "unaveraged.safetensors").exists()
    with pytest.raises(InputError, match="has not finished"):
        load_run(run, averaged=False)
    fit(AVERAGED, run, resume=True, quiet=True)
    for name in ("unaveraged", "model"):
        assert_same_weights(read_weights(run / f"{name}.safetensors"), read_weights(folders[0] / f"{name}.safetensors"))


def test_whatever_a_run_puts_in_place_is_swept_where_it_was_half_written(tmp_path, monkeypatch) -> None:
    """Each file that is written under another name first, by that name."""
    written, real = set(), foveal._files.flush

    def seen(path: Path, content: bytes) -> None:
        written.add(path)
        real(path, content)

    monkeypatch.setattr(foveal._files, "flush", seen)
    fit(replace(AVERAGED, patience=5, steps=3), tmp_path / "a", quiet=True)
    fit(replace(AVERAGED, steps=3), tmp_path / "b", quiet=True)
    names = {path.name.removeprefix(".").rpartition(".")[0] for path in written if path.parent in (tmp_path / "a", tmp_path / "b")}
    assert names >= {"recipe.json", "classes.json", "metrics.json", "samples.safetensors", "best.safetensors", "unaveraged.safetensors", "model.safetensors"}
    for name in names:
        # of this process's own number: left by one that had it before
        litter = tmp_path / "a" / next(path.name for path in written if path.name.startswith(f".{name}."))
        litter.write_bytes(b"half")
        sweep(tmp_path / "a")
        assert not litter.exists(), litter.name


@pytest.mark.slow
def test_of_two_processes_the_first_writes_them(tmp_path) -> None:
    done = launch(2, AVERAGED, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    saved = read_weights(tmp_path / "run" / "unaveraged.safetensors")
    assert_same_weights(saved, read_weights(tmp_path / "run" / "checkpoints" / "step-00000008" / "model.safetensors"))
