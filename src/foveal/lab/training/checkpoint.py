"""Checkpoints that survive being killed: a folder is written under another name, flushed to disk, and renamed when it is whole.

A checkpoint holds weights (safetensors), the optimizer's state (read back with ``weights_only=True``, so it cannot run code) and a JSON with the step, the
recipe's fingerprint and the hash of each file. The last two are kept, so that a damaged one is not the end of a run.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..._errors import InputError
from ..._files import check_folder, flush, flush_folder, replace_file
from ..._weights import fill, read_saved, read_weights
from .pieces import SHARD, Pieces, is_of_pieces, read_whole
from .place import is_ours, remove_ours
from .reading import Damaged, read_object

__all__ = [
    "Checkpoint",
    "check_folder",
    "drop_checkpoints",
    "drop_older",
    "fingerprint",
    "latest_checkpoint",
    "newest_checkpoints",
    "read_checkpoint",
    "read_newest",
    "read_weights",
    "replace_file",
    "write_checkpoint",
    "write_weights",
]

_LATER: dict[str, Any] = {"repeats": 1, "patience": None}
_LATER_IN: dict[str, dict[str, Any]] = {
    "data": {"train_rotation": "so3", "test_rotation": "so3", "distractor_classes": "others", "half": False},
    "task": {
        **{"bce": False, "votes": 1, "vote_scale": None, "vote_rotation": "none"},
        **{"prediction_type": "epsilon", "metric": "none", "judged_samples": 400, "inception_weights": None},
    },
    "model": {"pyramid_width": 256, "regions": 512, "global_pool": "token", "depth": None},
    "optim": {
        **{"optimizer": "adamw", "momentum": 0.9, "schedule": "cosine", "power": 0.9, "milestones": []},
        **{"nesterov": False, "decay_all": False, "warmup_lr": None, "cooldown": 0.0, "factor": 0.1},
        **{"layer_decay": None, "new_lr": None, "new_first": 0.0, "lr_of": {}, "eps": None},
    },
}
"""Settings that recipes once did not have, of the whole and by part, at what they mean where they are absent: a run of then is still the same run."""

Checkpoint = dict[str, Any]
"""``step``, ``weights``, ``ema`` (or None) and ``state``."""

KEPT = 2
"""Checkpoints of a run that stay."""


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """A short hash of what decides the course of a run. How it is watched, and how a machine computes the same, does not belong to it."""
    watching = ("trackers", "workers", "eval_every", "checkpoint_every", "compile", "channels_last", "tf32", "fused", "fsdp")
    decisive = _as_of_then({key: value for key, value in recipe.items() if key not in watching}, _LATER)
    decisive |= {part: _as_of_then(decisive[part], later) for part, later in _LATER_IN.items() if part in decisive}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _as_of_then(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def write_checkpoint(
    run: Path,
    step: int,
    *,
    weights: dict[str, Tensor] | Pieces,
    ema: dict[str, Tensor] | None,
    state: dict[str, Any],
    recipe: Mapping[str, Any],
) -> Path:
    """Write ``run/checkpoints/step-…`` whole, then remove all of this run but it and the one before.

    Folders of another run or of anybody else stay, and so does whatever lies behind a link; of the same step they stand aside, as ``damaged-step-…``. Where the
    disk is full, the one before makes room. Where weights are pieces, the other processes must :meth:`~foveal.lab.training.pieces.Pieces.follow` meanwhile.

    Raises:
        OSError: the disk is full, or the like; the older checkpoints are as they were, and what was half written is gone.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    whole, pieces = ({}, weights) if isinstance(weights, Pieces) else ({"model.safetensors": weights}, None)
    files = whole | ({} if ema is None else {"ema.safetensors": ema})
    own = fingerprint(recipe)
    try:
        partial = _write_partial(folder, step, files, state, own, pieces)
    except OSError as error:
        spare = _kept(run, own, final.name, 1)[1]
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spare:
            raise
        for other in spare:
            remove_ours(other)
        partial = _write_partial(folder, step, files, state, own, pieces)
    if final.is_dir() and not final.is_symlink():
        # of this step once before: the run went on from an older one, as this was damaged
        remove_ours(final)
    if os.path.lexists(final):
        # without its checkpoint.json nothing says that it is this run's: it stays, under another name
        final.rename(_aside(final))
    partial.rename(final)
    flush_folder(folder)
    for other in _kept(run, own, final.name, KEPT)[1]:
        remove_ours(other)
    return final


def _aside(path: Path) -> Path:
    """A free name beside it."""
    first = path.with_name(f"damaged-{path.name}")
    later = (path.with_name(f"{first.name}-{number}") for number in count(2))
    return next(name for name in chain([first], later) if not os.path.lexists(name))


def _write_partial(folder: Path, step: int, files: Mapping[str, dict[str, Tensor]], state: dict[str, Any], recipe: str, pieces: Pieces | None) -> Path:
    partial = folder / f"partial-{step:08d}-{os.getpid()}"
    remove_ours(partial)
    partial.mkdir()
    try:
        if pieces is not None:
            pieces.write(partial)
        for name, tensors in files.items():
            flush(partial / name, save(_contiguous(tensors)))
        _flush_state(partial / "state.pt", state)
        hashes = {path.name: _hash(path) for path in sorted(partial.iterdir())}
        about = {"step": step, "recipe": recipe, "files": hashes, "torch": torch.__version__}
        flush(partial / "checkpoint.json", json.dumps({**about, "check": _check(about)}, indent=2).encode())
        flush_folder(partial)
    except BaseException:
        remove_ours(partial)
        raise
    return partial


def _flush_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # PyTorch ends its archive on the way out of a refusal, fails at that, and raises this instead
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        file.flush()
        os.fsync(file.fileno())


def newest_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted((path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", path.name)), reverse=True)


def latest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run."""
    found = newest_checkpoints(run)
    return found[0] if found else None


def _kept(run: Path, recipe: str, newest: str, count: int) -> tuple[list[Path], list[Path]]:
    """Of this recipe's checkpoints, with nothing in them but what was written, those that stay and those that may go."""
    own = [path for path in newest_checkpoints(run) if is_ours(path) and _written_by(path, recipe)]
    # what lies beyond the newest step was passed over for its damage
    kept = [path for path in own if path.name <= newest][:count]
    return kept, [path for path in own if path not in kept]


def drop_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run that has ended; what is nobody's or another's stays."""
    for path in newest_checkpoints(run):
        if is_ours(path):
            remove_ours(path)


def drop_older(run: Path, recipe: Mapping[str, Any], newest: Path) -> None:
    """Remove what a process that was killed behind its newest checkpoint had still to remove: this run's, but that one and the one before."""
    for path in _kept(run, fingerprint(recipe), newest.name, KEPT)[1]:
        # what lies beyond the newest was passed over for its damage, and is looked at again until it is written anew
        if path.name < newest.name:
            remove_ours(path)


def _written_by(path: Path, recipe: str) -> bool:
    try:
        return _about(path)["recipe"] == recipe
    except InputError:
        # what cannot be read may be anybody's
        return False


def read_newest(run: Path, recipe: Mapping[str, Any]) -> tuple[Path, Checkpoint, list[str]] | None:
    """The newest checkpoint that is whole, its contents, and a note on each that had to be passed over. None where there is none at all.

    Raises:
        ValueError: every one is damaged, or the newest whole one belongs to another recipe.
    """
    notes: list[str] = []
    for path in newest_checkpoints(run):
        try:
            saved = read_checkpoint(path, recipe)
        except Damaged as error:
            notes.append(str(error))
            continue
        return path, saved, [*notes, *([f"going on from step {saved['step']} instead, which loses nothing but time"] if notes else [])]
    if notes:
        raise Damaged(f"no checkpoint of {run} is whole; train anew into another folder: {'; '.join(notes)}")
    return None


def read_checkpoint(path: Path, recipe: Mapping[str, Any]) -> Checkpoint:
    """Read what :func:`write_checkpoint` wrote for this recipe.

    Raises:
        ValueError: a file is missing or damaged, or the checkpoint belongs to another recipe; the message names the file.
    """
    about = _about(path)
    if about["recipe"] != fingerprint(recipe):
        raise InputError(
            f"{path} belongs to a run with another recipe; resume with the recipe in {path.parents[1] / 'recipe.json'}, or train into a new folder"
        )
    remedy = f"remove {path} to start from an older checkpoint or anew"
    for name, expected in about["files"].items():
        if not (path / name).exists():
            raise Damaged(f"{path / name} is missing; {remedy}")
        try:
            whole = _hash(path / name) == expected
        except OSError as error:
            raise Damaged(f"{path / name} cannot be read: {error.strerror or error}; {remedy}") from error
        if not whole:
            raise Damaged(f"{path / name} is damaged: its contents are not what was written; {remedy}")
    try:
        read = {name: read_saved(path / name) if name in about["files"] else None for name in ("model.safetensors", "ema.safetensors", "state.pt")}
    except InputError as error:
        raise Damaged(f"{error}; {remedy}") from error
    state = _by_phase(read["state.pt"])
    if state is None:
        raise Damaged(f"{path / 'state.pt'} is damaged: it holds no state of a run; {remedy}")
    weights = read["model.safetensors"]
    if is_of_pieces(about["files"]):
        try:
            weights = read_whole(path) | dict(state["whole"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path} is damaged: {error}; {remedy}") from error
    return {"step": about["step"], "weights": weights, "ema": read["ema.safetensors"], "state": state}


def _by_phase(state: Any) -> dict[str, Any] | None:
    """With ``phases``, optimizer and scaler of each by its name; what was written before there were phases is the state of ``all``. None if it is none."""
    if not isinstance(state, dict):
        return None
    if "phases" not in state:
        state = {"phases": {"all": {part: state.get(part) for part in ("optimizer", "scaler")}}, **state}
    phases = state["phases"]
    if not isinstance(phases, dict):
        return None
    whole = all(isinstance(one, dict) and all(isinstance(one.get(part), dict) for part in ("optimizer", "scaler")) for one in phases.values())
    return state if whole else None


def restore(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give a run's model what was saved of it in ``path``.

    Raises:
        ValueError: the model has other sizes by now, as its data have changed.
    """
    fill(model, weights, path, "its data must have the classes that they had in training")


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Tensors to a safetensors file, whole or not at all."""
    replace_file(path, save(_contiguous(weights)))


def _about(path: Path) -> dict[str, Any]:
    file, remedy = path / "checkpoint.json", f"remove {path} to start from an older checkpoint or anew"
    if not file.exists():
        raise Damaged(f"{path} is no checkpoint of Foveal: it has no checkpoint.json")
    try:
        about = read_object(file, ("check", "step", "recipe", "files"), remedy)
        if about.pop("check") != _check(about):
            raise ValueError("its contents are not what was written")
        known: dict[str, Any] = {
            "step": int(about["step"]),
            "recipe": str(about["recipe"]),
            "files": {str(name): str(value) for name, value in about["files"].items()},
        }
        pieces = {name for name in known["files"] if SHARD.fullmatch(name)}
        named = {"state.pt"} | (pieces or {"model.safetensors"})
        if not named <= known["files"].keys() <= named | {"ema.safetensors"}:
            raise ValueError(f"it lists {sorted(known['files'])}")
        if known["step"] < 1 or (path.name.startswith("step-") and path.name != f"step-{known['step']:08d}"):
            raise ValueError(f"it is of step {known['step']}")
        return known
    except Damaged as error:
        raise Damaged(f"{file} is damaged: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{file} is damaged: {error!r}; {remedy}") from error


def _check(about: dict[str, Any]) -> str:
    """The description's own hash: a flipped digit of the step would pass for another step."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
