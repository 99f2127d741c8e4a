"""A reading as values for JSON, and back: what was found of an attention, and calls of the shapes that proved it, without any of the user's numbers.

A model that is loaded has no batch of the user's. What was read is taken as it was, to the last bit, and proven again on calls made up from the shapes.
"""

import base64
import math
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import InputError
from ._arguments import Call
from ._plan import Plan
from ._probe import Given
from ._reading import Reading

__all__ = ["call_again", "call_kept", "packed", "unpacked", "values_kept"]

_MOST = 2**20
"""Numbers of one tensor that are kept as they are: places, lengths and tables of pairs."""
_PACKAGE = __name__.rpartition(".")[0]


def packed(reading: Reading) -> dict[str, Any]:
    """As JSON holds it.

    Raises:
        ValueError: an argument that is no tensor, number, word or list of them, or too many integers.
    """
    calls = []
    for call, tokens in reading.calls:
        slots: dict[int, int] = {}
        values = {name: _packed(value, slots) for name, value in call.values.items()}
        calls.append({"names": list(call.names), "defaults": {name: _packed(value, None) for name, value in call.defaults.items()}, "values": values})
        calls[-1]["tokens"] = sorted(tokens)
    return {"plan": _packed(reading.plan, None), "calls": calls}


def unpacked(kept: dict[str, Any], device: torch.device) -> Reading:
    """What :func:`packed` wrote, with numbers drawn anew.

    Raises:
        ValueError: it is damaged, or of a version that reads otherwise.
    """
    with _or_damaged():
        plan, calls = _unpacked(kept["plan"], {}, device), []
        for index, one in enumerate(kept["calls"]):
            drawn: dict[Any, Any] = {"": torch.Generator().manual_seed(11 + index)}
            values = {name: _unpacked(value, drawn, device) for name, value in one["values"].items()}
            defaults = {name: _unpacked(value, drawn, device) for name, value in one["defaults"].items()}
            calls.append((Call(tuple(one["names"]), defaults, values), frozenset(one["tokens"])))
    if not isinstance(plan, Plan) or not calls:
        raise InputError("what was kept of its structure is damaged: there is no plan in it, or no call to prove it on")
    return Reading(plan, tuple(calls))


def call_kept(given: Given) -> dict[str, Any] | str:
    """One call by its shapes, for an attention that is read anew from it when it is loaded; or why no file can hold it."""
    slots: dict[int, int] = {}
    try:
        return {"args": [_packed(value, slots) for value in given.args], "kwargs": {name: _packed(value, slots) for name, value in given.kwargs.items()}}
    except InputError as error:
        return str(error)


def call_again(kept: dict[str, Any], device: torch.device) -> Given:
    """What :func:`call_kept` wrote, with numbers drawn anew.

    Raises:
        ValueError: it is damaged, or of a version that reads otherwise.
    """
    drawn: dict[Any, Any] = {"": torch.Generator().manual_seed(11)}
    with _or_damaged():
        args = tuple(_unpacked(value, drawn, device) for value in kept["args"])
        return Given(args, {name: _unpacked(value, drawn, device) for name, value in kept["kwargs"].items()})


@contextmanager
def _or_damaged() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, ValueError, zlib.error) as error:
        raise InputError(f"what was kept of its structure is damaged, or was written by another version ({type(error).__name__}: {error})") from None


def values_kept(found: Any, without: tuple[str, ...]) -> dict[str, Any]:
    """The fields of what was found of an attention, but for those that are read anew; to be compared."""
    return {one.name: _packed(getattr(found, one.name), None) for one in fields(found) if one.name not in without and not _is_default(found, one)}


def _is_default(value: Any, one: Field[Any]) -> bool:
    """What was added later is not written where it says nothing, so that what was written before is equal still."""
    return one.default is not MISSING and type(value).__name__ in ("Kept", "Made") and bool(getattr(value, one.name) == one.default)


def _packed(value: Any, slots: dict[int, int] | None) -> Any:
    """Tensors of a call by their shapes, each object in a slot of its own; those of a plan, without slots, as they are."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor):
        return _of_tensor(value, slots)
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if is_dataclass(value) and type(value).__name__ in _classes():
        return {
            "of": type(value).__name__,
            "fields": {one.name: _packed(getattr(value, one.name), slots) for one in fields(value) if not _is_default(value, one)},
        }
    if isinstance(value, (tuple, list)) and (type(value) in (tuple, list, torch.Size)):
        if len(value) > 8 and all(type(one) is int for one in value):
            return {"runs": _runs(value), "list": isinstance(value, list)}
        whole = [_packed(one, slots) for one in value]
        return whole if isinstance(value, list) else {"tuple": whole}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _packed(one, slots) for key, one in value.items()}}
    raise InputError(f"it is given a {type(value).__module__}.{type(value).__qualname__}, which no file of numbers and words can hold")


def _of_tensor(value: Tensor, slots: dict[int, int] | None) -> dict[str, Any]:
    how: dict[str, Any] = {"shape": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}
    drawn = value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
    if slots is not None:
        how["slot"] = slots.setdefault(id(value), len(slots))
        if drawn:
            return how | {"repeats": _repeats(value)}
    if value.numel() > _MOST:
        raise InputError(f"it is given {value.numel()} numbers as they are, more than the {_MOST} that are kept")
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return how | {"bytes": base64.b64encode(zlib.compress(raw)).decode()}


def _repeats(value: Tensor) -> str:
    """Whether all numbers of the last axis stand there twice, as cosines and sines do: in two halves, or in pairs."""
    width = value.shape[-1] if value.ndim else 0
    if width < 2 or width % 2 or not value.is_floating_point():
        return ""
    if torch.equal(value[..., : width // 2], value[..., width // 2 :]):
        return "halves"
    return "pairs" if torch.equal(value[..., ::2], value[..., 1::2]) else ""


def _unpacked(value: Any, drawn: dict[Any, Any], device: torch.device) -> Any:
    if isinstance(value, list):
        return [_unpacked(one, drawn, device) for one in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "tuple" in value:
        return tuple(_unpacked(one, drawn, device) for one in value["tuple"])
    if "runs" in value:
        whole = [start + step * index for start, step, count in value["runs"] for index in range(count)]
        return whole if value["list"] else tuple(whole)
    if "dict" in value:
        return {key: _unpacked(one, drawn, device) for key, one in value["dict"].items()}
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "of" in value:
        cls = _classes()[value["of"]]
        return cls(**{key: _unpacked(one, drawn, device) for key, one in value["fields"].items()})
    if "slot" not in value:
        return _drawn(value, drawn.get("")).to(device)
    # one object stays one: an attention may ask whether keys are the queries
    if value["slot"] not in drawn:
        drawn[value["slot"]] = _drawn(value, drawn[""]).to(device)
    return drawn[value["slot"]]


def _drawn(value: dict[str, Any], source: torch.Generator | None) -> Tensor:
    dtype = getattr(torch, value["type"])
    if "bytes" in value:
        raw = zlib.decompress(base64.b64decode(value["bytes"]))
        return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(value["shape"]) if raw else torch.empty(value["shape"], dtype=dtype)
    made = torch.randn(value["shape"], generator=source, dtype=torch.complex64 if dtype.is_complex else torch.float32)
    if dtype == torch.bool:
        # a mask that leaves something out, and never all
        made = made > -1
        made[..., :1] = True
        return made
    half = made.shape[-1] // 2 if made.ndim else 0
    if value["repeats"]:
        made = torch.cat([made[..., :half]] * 2, dim=-1) if value["repeats"] == "halves" else made[..., :half].repeat_interleave(2, dim=-1)
    return made.to(dtype)


def _runs(values: Any) -> list[list[int]]:
    """Integers as stretches of one step: start, step, how many."""
    out: list[list[int]] = []
    for value in values:
        if out and out[-1][2] == 1:
            out[-1][1:] = [value - out[-1][0], 2]
        elif out and value == out[-1][0] + out[-1][1] * out[-1][2]:
            out[-1][2] += 1
        else:
            out.append([value, 0, 1])
    return out


def _classes() -> dict[str, Any]:
    """Dataclasses of this package, by name: what a plan is made of. No others are made from a file."""
    own = [module for name, module in list(sys.modules.items()) if name.startswith(f"{_PACKAGE}.")]
    return {
        name: value
        for module in own
        for name, value in vars(module).items()
        if isinstance(value, type) and is_dataclass(value) and value.__module__.startswith(f"{_PACKAGE}.")
    }
