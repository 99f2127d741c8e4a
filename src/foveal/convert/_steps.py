"""A conversion as values: what was done, step by step, and doing it again on another model of the kind."""

import json
from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import config_from_dict
from ._convert import convert_as
from ._record import Converted, record_of
from .insert import insert_
from .report import ConversionReport

__all__ = ["check_steps", "literally", "replay_", "steps_of"]


def steps_of(model: nn.Module) -> list[dict[str, Any]]:
    """Names, configuration and start of every replaced module, in the order in which they were replaced, and of every inserted block; goes to JSON and back.

    Raises:
        ValueError: the model was not converted; an attention was read by its structure from a call that no file can hold.
    """
    record = record_of(model)
    replaced = [
        {"names": part.names, "config": part.wanted.to_dict(), "warm_start": part.warm_start} | ({"apart": True} if part.apart else {}) | _reading(part)
        for part in record.parts
    ]
    return [*replaced, *(inserted.step() for inserted in record.inserted)]


def _reading(part: Converted) -> dict[str, Any]:
    if isinstance(part.reading, str):
        raise InputError(
            f"{part.names[0]} was read by its structure, and that cannot be kept: {part.reading}. Declare {type(part.original).__name__} with "
            "foveal.register_host and convert again, or save the state dict and convert a fresh model with the same inputs before you load it"
        )
    return {} if part.reading is None else {"read": part.reading}


def check_steps(steps: Any, path: object) -> list[dict[str, Any]]:
    """What a file says of a conversion, if it can be one; whether it fits a model is seen when it is done.

    Raises:
        ValueError: it is none; the message names the file.
    """
    whole = isinstance(steps, list) and all(map(_is_step, steps))
    if not whole:
        raise InputError(f"{path} is damaged: it does not say how the model was converted; take it from a copy, or save it anew")
    return list(steps)


def _is_step(step: Any) -> bool:
    if not isinstance(step, dict) or not isinstance(step.get("config"), dict):
        return False
    if "after" in step:
        return isinstance(step["after"], str) and {"channels", "start"} <= step.keys()
    names = step.get("names")
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names) and "warm_start" in step


def replay_(model: nn.Module, steps: list[dict[str, Any]]) -> ConversionReport:
    """Convert in place as :func:`steps_of` says.

    Raises:
        ValueError: a module of that name is not there, or cannot be converted so.
    """
    by_start: dict[str, dict[str, Any]] = {}
    for step in steps:
        if "after" in step:
            continue
        by_start.setdefault(json.dumps(step["warm_start"]), {})[literally(step["names"][0])] = config_from_dict(step["config"])
    swaps = []
    apart = {step["names"][0] for step in steps if step.get("apart")}
    read = {step["names"][0]: step["read"] for step in steps if "read" in step}
    for start, places in by_start.items():
        here = {name: kept for name, kept in read.items() if literally(name) in places}
        swaps += convert_as(model, places, "*", warm_start=json.loads(start), apart=apart, read=here).swaps
    for step in steps:
        if "after" in step:
            swaps += insert_(model, config_from_dict(step["config"]), literally(step["after"]), channels=step["channels"], start=step["start"]).swaps
    return ConversionReport(swaps)


def literally(name: str) -> str:
    """A glob that matches this name alone."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
