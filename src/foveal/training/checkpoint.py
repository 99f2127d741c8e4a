"""Checkpoints that survive being killed: a folder is written under another name, flushed to disk, and renamed when it is whole.

A checkpoint holds weights (safetensors), the optimizer's state (read back with ``weights_only=True``, so it cannot run code) and a JSON with the step, the
recipe's fingerprint and the hash of each file.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from .._errors import InputError
from .._files import check_folder, flush, flush_folder, replace_file
from .._weights import fill, read_weights

__all__ = [
    "Checkpoint",
    "check_folder",
    "fingerprint",
    "latest_checkpoint",
    "read_checkpoint",
    "read_weights",
    "replace_file",
    "write_checkpoint",
    "write_weights",
]

_LATER: dict[str, Any] = {"repeats": 1}
_LATER_IN: dict[str, dict[str, Any]] = {
    "task": {"bce": False},
    "model": {"pyramid_width": 256, "regions": 512},
    "optim": {
        **{"optimizer": "adamw", "momentum": 0.9, "schedule": "cosine", "power": 0.9, "milestones": []},
        **{"nesterov": False, "decay_all": False, "warmup_lr": None, "cooldown": 0.0, "factor": 0.1},
    },
}
"""Settings that recipes once did not have, of the whole and by part, at what they mean where they are absent: a run of then is still the same run."""

Checkpoint = dict[str, Any]
"""``step``, ``weights``, ``ema`` (or None) and ``state``."""


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """A short hash of what decides the course of a run. How it is watched does not belong to it."""
    watching = ("trackers", "workers", "eval_every", "checkpoint_every")
    decisive = _as_of_then({key: value for key, value in recipe.items() if key not in watching}, _LATER)
    decisive |= {part: _as_of_then(decisive[part], later) for part, later in _LATER_IN.items() if part in decisive}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _as_of_then(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def write_checkpoint(
    run: Path, step: int, *, weights: dict[str, Tensor], ema: dict[str, Tensor] | None, state: dict[str, Any], recipe: Mapping[str, Any]
) -> Path:
    """Write ``run/checkpoints/step-…`` whole, then remove the older ones."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    if final.exists():
        return final
    partial = folder / f"partial-{step:08d}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    flush(partial / "model.safetensors", save(_contiguous(weights)))
    if ema is not None:
        flush(partial / "ema.safetensors", save(_contiguous(ema)))
    with (partial / "state.pt").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    hashes = {path.name: _hash(path) for path in sorted(partial.iterdir())}
    about = {"step": step, "recipe": fingerprint(recipe), "files": hashes, "torch": torch.__version__}
    flush(partial / "checkpoint.json", json.dumps({**about, "check": _check(about)}, indent=2).encode())
    flush_folder(partial)
    partial.rename(final)
    flush_folder(folder)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    return final


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    found = sorted(path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))
    return found[-1] if found else None


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
    for name, expected in about["files"].items():
        if not (path / name).exists():
            raise InputError(f"{path / name} is missing; remove {path} to start from an older checkpoint or anew")
        if _hash(path / name) != expected:
            raise InputError(f"{path / name} is damaged: its contents are not what was written; remove {path} to start anew")
    ema = path / "ema.safetensors"
    return {
        "step": about["step"],
        "weights": read_weights(path / "model.safetensors"),
        "ema": read_weights(ema) if ema.exists() else None,
        "state": torch.load(path / "state.pt", map_location="cpu", weights_only=True),
    }


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
    file = path / "checkpoint.json"
    try:
        about = json.loads(file.read_text(encoding="utf8"))
        if about.pop("check") != _check(about):
            raise ValueError("its contents are not what was written")
        return {"step": int(about["step"]), "recipe": str(about["recipe"]), "files": dict(about["files"])}
    except FileNotFoundError:
        raise InputError(f"{path} is no checkpoint of Foveal: it has no checkpoint.json") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged: {error!r}; remove {path} to start anew") from error


def _check(about: dict[str, Any]) -> str:
    """The description's own hash: a flipped digit of the step would pass for another step."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
