"""Runs whose weights lie in pieces: they train as replicas do, are saved and read in pieces, and go on on any number of processes after any interruption."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from foveal import InputError
from foveal.lab.recipes import get_recipe, list_recipes, smoke
from foveal.lab.tasks import Classification
from foveal.lab.training import Optim, Recipe, build_model, fit, latest_checkpoint, load_data, opening, read_checkpoint
from foveal.lab.training.checkpoint import fingerprint
from foveal.lab.training.place import is_ours
from foveal.lab.training.sharding import units
from foveal.models import ViT
from tests.recipes.smoked import smoked
from tests.training.helpers import assert_same_weights, tiny, weights
from tests.training.test_loop import assert_close, history
from tests.training.test_resume import Forker

ADAMW = tiny(model=ViT(attention="denoising", drop_path=0.1), optim=Optim(lr=2e-3), eval_every=4, fsdp=True)
SGD = replace(ADAMW, optim=Optim(optimizer="sgd", lr=0.2, clip_grad=0.5, accumulate=2), steps=5, eval_every=5, model=ViT(attention="denoising"))
"""Its steps show a gradient that is summed where it should be averaged, and the norm of a piece taken for that of all."""


class Ranks:
    """Several processes, forked off one that has imported everything."""

    def __init__(self) -> None:
        self.forker = Forker()

    def train(self, recipe: Recipe, run: Path, world: int = 2, **of_rank: Any) -> list[int]:
        """How each process ended; ``rank0`` and ``rank1`` are options of one."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        pids = []
        for rank in range(world):
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
            pids.append(self.forker.start(recipe, run, environment=environment, **of_rank.get(f"rank{rank}", {})))
        return [self.forker.wait(pid) for pid in pids]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    ranks = Ranks()
    yield ranks
    ranks.forker.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def whole(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two pieces that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert ranks.train(ADAMW, run) == [0, 0]
    return run


def assert_equal_runs(run: Path, whole: Path) -> None:
    assert_same_weights(weights(run), weights(whole))
    assert json.loads((run / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    assert [entry["train_loss"] for entry in history(run)] == [entry["train_loss"] for entry in history(whole)]


def test_pieces_train_as_replicas(ranks, tmp_path) -> None:
    assert ranks.train(SGD, tmp_path / "pieces") == [0, 0]
    fit(replace(SGD, fsdp=False), tmp_path / "one", quiet=True)
    assert_close(weights(tmp_path / "pieces"), weights(tmp_path / "one"), 1e-5)
    start = build_model(SGD, load_data(SGD.data)).state_dict()
    assert max((weights(tmp_path / "one")[name] - value).abs().max() for name, value in start.items()) > 1e-2, "or nothing was learned"
    assert [entry["train_loss"] for entry in history(tmp_path / "pieces")] == pytest.approx(
        [entry["train_loss"] for entry in history(tmp_path / "one")], rel=1e-4
    )


def test_a_checkpoint_holds_the_pieces_and_is_read_as_a_whole(whole) -> None:
    checkpoint = latest_checkpoint(whole)
    assert {path.name for path in checkpoint.iterdir()} == {
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
        "state.pt",
        "checkpoint.json",
    }
    assert is_ours(checkpoint)
    assert [path.name for path in sorted((whole / "checkpoints").iterdir())] == ["step-00000004", "step-00000008"]
    sizes: dict[str, list[int]] = {}
    for shard in sorted(checkpoint.glob("shard-*")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no dict)
                sizes.setdefault(name, []).append(file.get_slice(name).get_shape()[0])
    saved = read_checkpoint(checkpoint, ADAMW.to_dict())
    large = {name: value for name, value in saved["weights"].items() if value.ndim and len(value) > 1 and f"model.{name}" in sizes}
    assert len(large) > 20
    for name, value in large.items():
        for full in (f"model.{name}", f"optimizer.{name}/exp_avg", f"optimizer.{name}/exp_avg_sq"):
            assert len(sizes[full]) == 2, f"{full} lies in one process alone"
            assert sum(sizes[full]) == len(value)
    # there is no average, so what is published is what was saved last
    assert_same_weights(saved["weights"], weights(whole))


@pytest.mark.slow
def test_killed_in_a_step_it_goes_on_bit_for_bit(ranks, whole, tmp_path) -> None:
    run = tmp_path / "run"
    ended = ranks.train(ADAMW, run, rank1={"signals": [(6, signal.SIGKILL)]})
    assert ended[1] == -signal.SIGKILL
    assert ended[0] == 2, "the other ends with words"
    assert latest_checkpoint(run).name == "step-00000004"
    assert ranks.train(ADAMW, run) == [0, 0]
    assert_equal_runs(run, whole)


def kill_before(event: int, rank: int, ranks: Ranks, whole: Path, run: Path) -> None:
    assert ranks.train(ADAMW, run, **{f"rank{rank}": {"die_before": event}})[rank] == -signal.SIGKILL
    assert ranks.train(ADAMW, run) == [0, 0]
    assert_equal_runs(run, whole)
    kept = [path.name for path in (run / "checkpoints").iterdir()]
    assert not [name for name in kept if not name.startswith("step-")], "what was half written is swept away"


def events_of_checkpoints(whole: Path, rank: int) -> list[int]:
    events = json.loads(whole.with_suffix(f".events{rank}").read_text())
    return [number for number, event in enumerate(events, 1) if "checkpoints/" in event and ("partial-00000008" in event or "step-00000008" in event)]


def test_killed_while_writing_its_piece(ranks, whole, tmp_path) -> None:
    """The second process, before what it wrote is on disk, of which half is thrown away; the first then has nothing to rename."""
    events = json.loads(whole.with_suffix(".events1").read_text())
    (synced,) = [number for number, event in enumerate(events, 1) if event.startswith("fsync") and "partial-00000008" in event]
    kill_before(synced, 1, ranks, whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_at_any_moment_of_writing(ranks, whole, tmp_path, rank) -> None:
    chosen = events_of_checkpoints(whole, rank)
    assert len(chosen) >= (2 if rank else 10), chosen
    for event in chosen:
        kill_before(event, rank, ranks, whole, tmp_path / f"run-{event}")


def test_other_numbers_of_processes_go_on_to_the_same(ranks, tmp_path) -> None:
    plain = replace(ADAMW, model=ViT(attention="denoising"))
    fit(replace(plain, fsdp=False), tmp_path / "alone", quiet=True)
    for name, worlds in (("fewer", (2, 1)), ("more", (1, 2))):
        run = tmp_path / name
        ended = ranks.train(plain, run, world=worlds[0], **{f"rank{worlds[0] - 1}": {"signals": [(4, signal.SIGTERM)]}})
        assert ended == [130] * worlds[0]
        written = latest_checkpoint(run)
        assert (written / "model.safetensors").exists() == (worlds[0] == 1), "one process has nobody to share with"
        assert bool(list(written.glob("shard-*"))) == (worlds[0] == 2)
        assert ranks.train(plain, run, world=worlds[1]) == [0] * worlds[1]
        # AdamW divides by roots of small numbers: a moment that is lost or of another weight would be seen at once
        assert_close(weights(run), weights(tmp_path / "alone"), 2e-4)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "foreign"])
def test_a_damaged_piece_falls_back_with_a_message(whole, tmp_path, damage) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    piece = run / "checkpoints" / "step-00000008" / "shard-00002-model-00001-of-00001.safetensors"
    content = piece.read_bytes()
    if damage == "gone":
        piece.unlink()
    else:
        piece.write_bytes({"flip": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "cut": content[:-100], "foreign": b"no tensors"}[damage])
    from foveal.lab.training.checkpoint import read_newest

    path, saved, notes = read_newest(run, ADAMW.to_dict())
    assert (path.name, saved["step"]) == ("step-00000004", 4)
    assert len(notes) == 2
    assert "shard-00002" in notes[0]
    assert "going on from step 4" in notes[1]


class Own(Classification):
    """A task of a user's that says nothing of pieces."""

    def shards(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": Optim(ema=0.9)}, "an average of whole weights"),
        ({"optim": Optim(optimizer="lamb")}, "take adamw, adam or sgd"),
        ({"precision": "fp16"}, "take bf16"),
        ({"compile": True}, "compile and channels_last"),
        ({"task": Classification(overlap_weight=0.1)}, "reads weights beside the pass that is trained"),
    ],
)
def test_what_cannot_lie_in_pieces_is_refused_before_anything_is_made(changes, message, tmp_path) -> None:
    with pytest.raises(InputError, match=f"fsdp is not for this run: .*{message}.*; leave fsdp out"):
        fit(replace(ADAMW, **changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("sagan-digits", "phases with an optimizer each"), ("contexted-digits", "between steps"), ("digit-detection", "reads weights")]
)
def test_tasks_that_cannot(name, message, tmp_path) -> None:
    recipe = smoke(get_recipe(name))
    with pytest.raises(InputError, match=message):
        fit(Recipe.from_dict(recipe.to_dict() | {"fsdp": True, "optim": recipe.to_dict()["optim"] | {"ema": None}}), tmp_path / "run", quiet=True)


def test_it_is_the_machine_s_affair_and_not_the_run_s() -> None:
    assert fingerprint(ADAMW.to_dict()) == fingerprint(replace(ADAMW, fsdp=False).to_dict())


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_another_way_to_share_is_refused(name, monkeypatch, tmp_path) -> None:
    """accelerate's own sharding would have its weights judged and saved in pieces."""
    monkeypatch.setenv(name, "true")
    with pytest.raises(InputError, match=f"{name}.*--fsdp True"):
        opening.make_accelerator(ADAMW, tmp_path)


def test_blocks_are_units_and_shared_weights_lie_in_one() -> None:
    model = build_model(ADAMW, load_data(ADAMW.data))
    found = units(model)
    assert len(found) == len(model.blocks) > 1
    assert all(any(block is unit for unit in found) for block in model.blocks)
    tied = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2)])
    assert len(units(tied)) == 2
    tied[1][0].weight = tied[0][0].weight
    assert units(tied) == []


def test_weights_that_cannot_be_cut_are_named(tmp_path) -> None:
    from foveal.lab.training.sharding import shard_

    net = nn.Linear(3, 3)
    net.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(InputError, match=r"scale is \(\) in torch.float32"):
        shard_(net, torch.optim.SGD(net.parameters(), lr=1), None)  # type: ignore[arg-type]


SHARDING: dict[tuple[type, type], str] = {}
for _name in list_recipes():
    if (_recipe := get_recipe(_name)).task.shards():
        SHARDING.setdefault((type(_recipe.task), type(_recipe.model)), _name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDING.values())
def test_every_task_that_says_so_trains_in_pieces(ranks, tmp_path, name) -> None:
    values = smoked(name, steps=3).to_dict()
    recipe = Recipe.from_dict(values | {"fsdp": True, "trackers": [], "optim": values["optim"] | {"ema": None, "optimizer": "sgd"}})
    assert ranks.train(recipe, tmp_path / "pieces") == [0, 0]
    assert ranks.train(replace(recipe, fsdp=False), tmp_path / "replicas") == [0, 0]
    assert_close(weights(tmp_path / "pieces"), weights(tmp_path / "replicas"), 1e-4)
