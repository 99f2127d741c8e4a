"""What a run left, as hashes: two that are equal came to the same end, bit for bit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from foveal.lab.training.checkpoint import newest_checkpoints

__all__ = ["differences", "digest", "strict_json"]

TIMES = {"images_per_second", "seconds"}
"""What no two runs have alike."""


def digest(run: Path) -> dict[str, str]:
    """By what it is: published weights, those of the average and the optimizer's state in the newest checkpoint, metrics, history and what else was written."""
    found = {"model.safetensors": _hash(load_file(run / "model.safetensors"))}
    newest, *older = newest_checkpoints(run)
    for name in sorted(path.name for path in newest.iterdir() if path.suffix == ".safetensors"):
        found[f"checkpoint {name}"] = _hash(load_file(newest / name))
    found["checkpoint state.pt"] = _hash(torch.load(newest / "state.pt", weights_only=True))
    found["checkpoints"] = f"{1 + len(older)}, the newest {newest.name}"
    for path in sorted(run.glob("*.json")):
        found[path.name] = _hash(strict_json(path.read_bytes()))
    found["history.jsonl"] = _hash([strict_json(line) for line in (run / "history.jsonl").read_bytes().splitlines()])
    for path in sorted(run / f"{name}.safetensors" for name in ("best", "samples", "unaveraged")):
        if path.exists():
            found[path.name] = _hash(load_file(path))
    return found


def differences(got: dict[str, str], want: dict[str, str]) -> str:
    """What is not as it has to be; empty if all is."""
    other = [name for name in sorted(got.keys() | want) if got.get(name) != want.get(name)]
    return ", ".join(f"{name}: {got.get(name, 'absent')}, not {want.get(name, 'absent')}" for name in other)


def strict_json(content: bytes) -> Any:
    """As a reader that knows no NaN takes it."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(content, parse_constant=refuse)


def _hash(value: Any) -> str:
    done = hashlib.sha256()
    _feed(value, done.update)
    return done.hexdigest()[:16]


def _feed(value: Any, update: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            if key not in TIMES:
                update(repr(key).encode())
                _feed(value[key], update)
    elif isinstance(value, (list, tuple)):
        update(f"{len(value)}".encode())
        for one in value:
            _feed(one, update)
    elif isinstance(value, torch.Tensor):
        update(f"{value.dtype} {tuple(value.shape)}".encode())
        update(np.ascontiguousarray(value.contiguous().view(torch.uint8).numpy()).tobytes() if value.numel() and value.ndim else repr(value.tolist()).encode())
    else:
        update(repr(value).encode())
