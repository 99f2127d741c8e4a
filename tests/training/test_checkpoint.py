"""Checkpoints: whole or not there, and every damage is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal import InputError
from foveal.lab.training import latest_checkpoint, read_checkpoint, read_weights
from foveal.lab.training.checkpoint import fingerprint, replace_file, write_checkpoint
from tests.training.helpers import assert_same_weights, tiny

RECIPE = tiny().to_dict()
WEIGHTS = {"a": torch.arange(6.0).view(2, 3).mT, "b": torch.tensor(1.5)}
EMA = {"a": torch.ones(3, 2), "b": torch.tensor(0.5)}
OLD_STATE = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "scaler": {}}
STATE = {"phases": {"all": OLD_STATE}}


def write(run: Path, step: int = 3) -> Path:
    return write_checkpoint(run, step, weights=WEIGHTS, ema=EMA, state=STATE, recipe=RECIPE)


def test_what_is_read_is_what_was_written(tmp_path) -> None:
    path = write(tmp_path)
    assert path == latest_checkpoint(tmp_path)
    got = read_checkpoint(path, RECIPE)
    assert got["step"] == 3
    assert_same_weights(got["weights"], WEIGHTS)
    assert_same_weights(got["ema"], EMA)
    assert torch.equal(got["state"]["phases"]["all"]["optimizer"]["state"][0]["step"], torch.tensor(3.0))


def test_a_checkpoint_of_before_there_were_phases_is_that_of_all(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.training.test_checkpoint.STATE", {**OLD_STATE, "window": {"loss": 1.0}})
    state = read_checkpoint(write(tmp_path), RECIPE)["state"]
    assert state["window"] == {"loss": 1.0}
    assert torch.equal(state["phases"]["all"]["optimizer"]["state"][0]["step"], torch.tensor(3.0))


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.pt"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_damaged_byte_is_named(tmp_path, name, where) -> None:
    path = write(tmp_path)
    content = bytearray((path / name).read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[where]] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        read_checkpoint(path, RECIPE)


def test_any_damaged_byte_of_the_description_is_noticed(tmp_path) -> None:
    """A flipped digit leaves good JSON; it must not become another step."""
    path = write(tmp_path)
    file = path / "checkpoint.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        for mask in (1, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= mask
            if damaged.isspace() or json_equal(bytes(damaged), whole):
                continue
            file.write_bytes(damaged)
            with pytest.raises(InputError, match=r"checkpoint\.json is damaged"):
                read_checkpoint(path, RECIPE)


def json_equal(a: bytes, b: bytes) -> bool:
    """A blank for another blank is no damage."""
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_missing_and_cut_files_are_named(tmp_path, name, damage) -> None:
    path = write(tmp_path)
    content = (path / name).read_bytes()
    (path / name).unlink()
    if damage != "missing":
        (path / name).write_bytes(content[: len(content) // 2 if damage == "half" else 0])
    with pytest.raises(InputError) as caught:
        read_checkpoint(path, RECIPE)
    assert name in str(caught.value)
    assert str(path) in str(caught.value)


def test_another_recipe_is_refused_and_watching_otherwise_is_not(tmp_path) -> None:
    path = write(tmp_path)
    with pytest.raises(InputError, match=r"another recipe.*recipe\.json"):
        read_checkpoint(path, replace(tiny(), seed=1).to_dict())
    watched = replace(tiny(), eval_every=1, checkpoint_every=1, workers=2, trackers=("tensorboard",)).to_dict()
    assert read_checkpoint(path, watched)["step"] == 3


def test_every_decisive_field_is_in_the_fingerprint() -> None:
    changes = [
        {"steps": 9},
        {"batch_size": 8},
        {"seed": 1},
        {"share_initial_weights": True},
        {"precision": "bf16"},
        {"data": replace(tiny().data, noise=0.2)},
        {"model": replace(tiny().model, attention="softmax")},
        {"model": replace(tiny().model, options={"lambda_init": 0.1})},
        {"task": replace(tiny().task, mixup=0.1)},
        {"task": replace(tiny().task, bce=True)},
        {"repeats": 3},
        {"optim": replace(tiny().optim, decay_all=True)},
        {"optim": replace(tiny().optim, warmup_lr=1e-6)},
        {"optim": replace(tiny().optim, cooldown=0.1)},
        {"optim": replace(tiny().optim, schedule="steps", milestones=(0.5,))},
        {"optim": replace(tiny().optim, schedule="steps", milestones=(0.5,), factor=0.2)},
        {"optim": replace(tiny().optim, optimizer="sgd", nesterov=True)},
        {"optim": replace(tiny().optim, betas=(0.9, 0.99))},
    ]
    prints = [fingerprint(RECIPE), *(fingerprint(replace(tiny(), **change).to_dict()) for change in changes)]
    assert len(set(prints)) == len(prints)


def test_two_are_kept_and_other_names_are_no_checkpoints(tmp_path) -> None:
    path = write(tmp_path)
    folder = path.parent
    shutil.copytree(path, folder / "partial-00000009-77")
    shutil.copytree(path, folder / "step-9")
    assert latest_checkpoint(tmp_path) == path
    newer, newest = write(tmp_path, 12), write(tmp_path, 15)
    assert latest_checkpoint(tmp_path) == newest
    assert {path.name for path in folder.iterdir()} == {newer.name, newest.name, "partial-00000009-77", "step-9"}
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_an_interrupted_write_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    old = write(tmp_path)

    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, 4)
    assert latest_checkpoint(tmp_path) == old
    assert read_checkpoint(old, RECIPE)["step"] == 3


def test_replacing_a_file_is_all_or_nothing(tmp_path, monkeypatch) -> None:
    file = tmp_path / "deep" / "file.json"
    replace_file(file, b"old")
    assert file.read_bytes() == b"old"

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"


def test_weights_that_are_none_are_named(tmp_path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors here, but long enough to have a header")
    for name in ("text.safetensors", "missing.safetensors"):
        with pytest.raises(InputError, match=name):
            read_weights(tmp_path / name)
