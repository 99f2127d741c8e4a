"""What a video language model has beside its two hosts, in one file, and which hosts it belongs to."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ..._files import parse_json
from ..._weights import misfits, read_stamped, write_stamped
from ...convert._digest import digests, fingerprint, refuse_empty

__all__ = ["load_new", "new_names", "save_new"]

_FORMAT = "foveal-video-language-1"
IsHost = Callable[[str], bool]
"""Whether a name of the state dict is a host's; of none are probes, projectors, and adapters (peft's LoRA)."""


def new_names(model: nn.Module, is_host: IsHost) -> list[str]:
    """Of the state dict, what is no host's."""
    return [name for name in model.state_dict() if not is_host(name)]


def save_new(model: nn.Module, path: str | Path, is_host: IsHost, settings: Mapping[str, Any]) -> list[str]:
    """Write them, with settings that the model that reads them must have.

    Raises:
        ValueError: a host is trained itself, so that its weights would be lost; weights on the meta device.
    """
    if trained := [name for name, value in model.named_parameters() if is_host(name) and value.requires_grad]:
        raise InputError(
            f"{trained[0]} and {len(trained) - 1} more weights of the hosts are trained, and this file holds new parts alone; freeze them, train adapters, or "
            "save the whole model's state dict"
        )
    state = model.state_dict()
    refuse_empty(state)
    names = new_names(model, is_host)
    metadata = {"format": _FORMAT, "base": _base(state, is_host), "settings": json.dumps(settings)}
    write_stamped(Path(path), {name: state[name] for name in names}, metadata, "saving the new parts of a video language model")
    return names


def load_new(model: nn.Module, path: str | Path, is_host: IsHost, settings: Mapping[str, Any]) -> None:
    """Read them into a model with the same hosts, which was built alike.

    Raises:
        ValueError: no such file; other hosts; another build. The model is then as it was.
    """
    metadata, saved = read_stamped(Path(path), _FORMAT, made_by="save_new", otherwise="holds no new parts of a video language model")
    state = model.state_dict()
    there, here = parse_json(metadata.get("settings", ""), f"what {path} says of its model"), json.loads(json.dumps(settings))
    if not isinstance(there, dict):
        raise InputError(f"{path} is damaged: it does not say how its model was built; take it from a copy, or save it anew")
    if (base := _base(state, is_host)) != metadata.get("base"):
        raise InputError(
            f"{path} belongs to another tower or language model: expected the fingerprint {metadata.get('base')}, these have {base}; load their weights"
        )
    if other := [f"{name} {here.get(name)} here, {there.get(name)} there" for name in {**there, **here} if here.get(name) != there.get(name)]:
        raise InputError(f"{path} is of a model that was built otherwise: {'; '.join(other)}")
    own = {name: state[name] for name in new_names(model, is_host)}
    problems = misfits(saved, own)
    if not problems:
        problems = "; ".join(f"{name} is {value.dtype}, wanted {own[name].dtype}" for name, value in saved.items() if value.dtype != own[name].dtype)
    if problems:
        raise InputError(f"{path} does not fit this model; projectors, adapters and dtypes must be as they were: {problems}")
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)


def _base(state: dict[str, Tensor], is_host: IsHost) -> str:
    """The same with adapters and without: peft puts its own names around those of the language model."""
    host = {name.replace("base_model.model.", "").replace(".base_layer", ""): value for name, value in state.items() if is_host(name)}
    return fingerprint(digests(host))
