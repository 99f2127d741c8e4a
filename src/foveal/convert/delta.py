"""Only what conversion and training changed, in one file beside the base model's own."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra
from ._convert import record_of
from ._digest import digests, fingerprint
from ._steps import replay_, steps_of
from .report import ConversionReport

__all__ = ["load_delta", "save_delta"]

_FORMAT = "foveal-delta-1"


def save_delta(model: nn.Module, path: str | Path) -> list[str]:
    """Write what is needed to make this model from its base: the configurations, and every tensor that is new or was changed since the conversion.

    Args:
        model: one that :func:`convert_` was given, trained since or not.
        path: of the ``.safetensors`` file.

    Returns:
        The names of the tensors that were written.

    Raises:
        ValueError: the model was not converted.
    """
    save_file, _ = _safetensors()
    record = record_of(model)
    now = model.state_dict()
    start = record.start
    changed = [name for name, digest in digests(now).items() if name in record.new or start.get(name) != digest]
    metadata = {"format": _FORMAT, "base": record.base, "steps": json.dumps(steps_of(model))}
    # a tensor that is stored under two names is written once a name: the file has no notion of sharing
    save_file({name: now[name].detach().clone().contiguous().cpu() for name in changed}, str(path), metadata=metadata)
    return changed


def load_delta(model: nn.Module, path: str | Path) -> ConversionReport:
    """Convert a base model in place and give it what was saved.

    Args:
        model: the base, as it was when :func:`convert_` was called: the same class with the same weights.
        path: what :func:`save_delta` wrote.

    Returns:
        The report of the conversion.

    Raises:
        ValueError: the file is no delta, or belongs to another base. The model is then as it was.
    """
    _, safe_open = _safetensors()
    if not Path(path).is_file():
        raise InputError(f"{path} is no file; expected what foveal.save_delta wrote")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            saved: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{path} is no safetensors file, or is damaged: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise InputError(f"{path} is no delta of a conversion: expected the format {_FORMAT!r}, got {metadata.get('format')!r}")
    if (base := fingerprint(digests(model.state_dict()))) != metadata["base"]:
        raise InputError(f"{path} belongs to another base: expected the fingerprint {metadata['base']}, this model has {base}; load its weights first")
    report = replay_(model, json.loads(metadata["steps"]))
    own = model.state_dict()
    wrong = [name for name, value in saved.items() if name not in own or own[name].shape != value.shape]
    assert not wrong, f"the same base and the same configurations have the same tensors, but for {wrong}"
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)
    return report


def _safetensors() -> tuple[Any, Any]:
    try:
        from safetensors import safe_open
        from safetensors.torch import save_file
    except ImportError as error:
        raise missing_extra("safetensors", "train", "saving a delta") from error
    return save_file, safe_open
