"""What a host's layers are made into: one ``qkv`` where one can stand for three layers, else the three themselves; and what there is beside the weights.

One place for all hosts. Every module and every parameter of a host is either in the replacement itself, or is plain, and copied or dropped with a word; for
anything else the conversion is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention._apart import Apart
from ._hanging import CALLS, does_more, hangs_on, hangs_on_parameter, is_readable, library_of
from ._host import Place
from ._parts import Copied, joined_parameters

__all__ = ["Links", "linked", "parameters_outside", "refuse_mixtures", "refuse_outer", "settled"]

_REMEDY = (
    "take it off and put it on again after the conversion (adapters: merge_and_unload; pruning: prune.remove; parametrizations: remove_parametrizations), "
    "or leave the module out of `where`"
)


@dataclass(frozen=True)
class Links:
    """Where in a replacement the parts of a host went on, by paths, so that they are found again whatever stands there by then."""

    modules: tuple[tuple[str, str], ...]
    """In the host, and in the replacement."""
    tensors: tuple[tuple[str, str], ...]
    copied: tuple[tuple[str, str, slice | Tensor, slice], ...]
    """Parameter of the host, parameter of the replacement, its rows, and those of the host's."""
    bare: tuple[tuple[str, Tensor], ...]
    """Parameters of the replacement, and rows that were zero in the making since the host has none for them, where they count."""
    dtype: torch.dtype
    """Of the replacement's first parameter when it came into being."""


def parameters_outside(model: nn.Module, module: nn.Module) -> dict[int, str]:
    """Parameters that are reached without going through ``module``, and a name of each."""
    found: dict[int, str] = {}
    seen = {id(module)}

    def walk(part: nn.Module, prefix: str) -> None:
        if id(part) in seen:
            return
        seen.add(id(part))
        for name, value in part._parameters.items():
            if value is not None:
                found.setdefault(id(value), prefix + name)
        for name, child in part._modules.items():
            if child is not None:
                walk(child, f"{prefix}{name}.")

    walk(model, "")
    return found


def settled(place: Place, outside: dict[int, str], apart: bool | None) -> tuple[Place, bool]:
    """The place with one ``qkv`` instead of three layers, where one can stand for them; and whether they stay apart.

    Three become one where they are plain, shared with nobody, and trained or frozen alike.

    Args:
        place: as the host was read.
        outside: see :func:`parameters_outside`.
        apart: what was done once, to be done again; None to find out.
    """
    if not isinstance(place.qkv, Apart):
        return place, False
    if apart if apart is not None else not _can_be_one(place.qkv.layers, outside):
        return place, True
    layers = place.qkv.layers
    qkv, copied = joined_parameters([layer.weight for layer in layers], [layer.bias for layer in layers])
    return replace(place, qkv=qkv, copied=place.copied + copied), False


def _can_be_one(layers: list[Any], outside: dict[int, str]) -> bool:
    values = [value for layer in layers for value in layer.parameters()]
    if not all(type(layer) is nn.Linear and is_readable(layer) for layer in layers) or any(map(hangs_on_parameter, values)):
        return False
    if len({layer.weight.shape[1] for layer in layers}) > 1:
        return False
    if len({id(value) for value in values}) < len(values) or any(id(value) in outside for value in values):
        return False
    flags = ({layer.weight.requires_grad for layer in layers}, {layer.bias.requires_grad for layer in layers if layer.bias is not None})
    return all(len(values) <= 1 for values in flags)


def refuse_mixtures(name: str, place: Place) -> None:
    """New parameters need one device and one dtype to be made in.

    Raises:
        ValueError: the projections have several.
    """
    layers = {"qkv": place.qkv} if not isinstance(place.qkv, Apart) else dict(zip(("queries", "keys", "values"), place.qkv.layers, strict=True))
    weights = {part: layer.weight for part, layer in (*layers.items(), ("proj", place.proj))}
    for what in ("device", "dtype"):
        got = {part: str(getattr(weight, what)) for part, weight in weights.items()}
        if len(set(got.values())) > 1:
            said = ", ".join(f"{part} in {value}" for part, value in got.items())
            raise InputError(f"{name} has its projections in more than one {what} ({said}); bring the model to one with .to(…), convert, and place it then")


def refuse_outer(model: nn.Module, name: str) -> None:
    """An adapter around the attention itself reads weights that are there no more.

    Raises:
        ValueError: there is one.
    """
    parent, _, child = name.rpartition(".")
    if child == "base_layer":
        around = model.get_submodule(parent)
        raise InputError(f"{name} is inside {type(around).__name__}, an adapter that reads its weights; merge it first (merge_and_unload), or convert before")


def linked(name: str, module: nn.Module, replacement: nn.Module, place: Place, outside: dict[int, str]) -> tuple[Links, list[str]]:
    """Where each part of the host went on, and the names of its buffers that did not.

    Args:
        name: of the module, for errors.
        module: the host's.
        replacement: what will stand in its place.
        place: as settled.
        outside: see :func:`parameters_outside`.

    Raises:
        ValueError: something hangs on a part that does not go on, or a part is not accounted for.
    """
    library = library_of(module)
    modules, left = _split(module, replacement)
    hooks = {id(part.__dict__[kind]) for part in replacement.modules() for kind in CALLS}
    read = {id(value) for part in ("qkv", "proj", "q_norm", "k_norm", "norm", "position") for value in _parameters(getattr(place, part))}
    read |= {id(copied.host) for copied in place.copied}
    of_position = {id(part) for part in place.position.modules()} if place.position is not None else set()
    for path, part in left:
        at = f"{name}.{path}".strip(".")
        # a part inside that goes on under another meaning, as one that ends before the output map, keeps the library's own hooks alone
        carried = all(id(part.__dict__[kind]) in hooks for kind in CALLS)
        _refuse(at, hangs_on(part, library, calls="none" if not path else "others" if carried else "any"))
        if not path:
            continue
        if id(part) not in of_position:
            _refuse(at, does_more(part, library))
        if isinstance(part, nn.Dropout) and part.p > 0 and part.training != module.training:
            mode = "training" if part.training else "evaluation"
            raise InputError(f"{at} is in {mode} mode and its attention is not; call train() or eval() on the whole, convert, and set it apart then")
        if any(id(value) in read for value in part.parameters()) and library_of(part) not in ("torch", library):
            _refuse(at, [f"more than a linear map ({type(part).__module__}.{type(part).__qualname__})"])
    here = {id(value): path for path, value in (*replacement.named_parameters(), *replacement.named_buffers())}
    layers = {id(part): path for path, part in replacement.named_modules()}
    copies: dict[int, list[Copied]] = {}
    for copied in place.copied:
        copies.setdefault(id(copied.host), []).append(copied)
    tensors, rows = [], []
    for owner, part in left:
        for key, value in part._parameters.items():
            if value is None:
                continue
            path = f"{owner}.{key}".strip(".")
            if id(value) in here:
                tensors.append((path, here[id(value)]))
            elif id(value) not in read and path not in place.lost:
                raise InputError(f"{name}.{path} is a parameter that no attention here has a place for; take it off, or leave the module out of `where`")
            else:
                _refuse(f"{name}.{path}", _beside(value, outside))
                for copied in copies.get(id(value), []):
                    if id(copied.layer) in layers:
                        _refuse_other_flag(f"{name}.{path}", value, copied)
                        rows.append((path, f"{layers[id(copied.layer)]}.{copied.name}", copied.rows, copied.host_rows or slice(None)))
    lost = []
    for owner, part in left:
        for key, buffer in part._buffers.items():
            path = f"{owner}.{key}".strip(".")
            if buffer is not None and id(buffer) in here:
                tensors.append((path, here[id(buffer)]))
            elif buffer is not None:
                lost.append(path)
    first = next(replacement.parameters(), place.weight)
    # added to all keys alike, a bias is not seen by softmax, unless keys are turned or normalized behind it
    counts = place.rotary or not isinstance(place.k_norm, nn.Identity)
    return Links(tuple(modules), tuple(tensors), tuple(rows), _bare(replacement, rows) if counts else (), first.dtype), lost


def _bare(replacement: nn.Module, rows: list[tuple[str, str, slice | Tensor, slice]]) -> tuple[tuple[str, Tensor], ...]:
    covered: dict[str, Tensor] = {}
    for _, ours, part, _ in rows:
        value = replacement.get_parameter(ours)
        covered.setdefault(ours, torch.zeros(len(value), dtype=torch.bool, device=value.device))[part] = True
    return tuple((ours, ~seen) for ours, seen in covered.items() if not seen.all())


def _parameters(part: nn.Module | None) -> Iterator[nn.Parameter]:
    return iter(()) if part is None else part.parameters()


def _split(module: nn.Module, replacement: nn.Module) -> tuple[list[tuple[str, str]], list[tuple[str, nn.Module]]]:
    """Parts that stand in the replacement as they are, topmost ones; and all others."""
    here = {id(part): path for path, part in replacement.named_modules()}
    modules: list[tuple[str, str]] = []
    left: list[tuple[str, nn.Module]] = []

    def walk(part: nn.Module, path: str) -> None:
        if path and id(part) in here:
            modules.append((path, here[id(part)]))
            return
        left.append((path, part))
        for key, child in part._modules.items():
            if child is not None:
                walk(child, f"{path}.{key}".strip("."))

    walk(module, "")
    return modules, left


def _beside(value: Tensor, outside: dict[int, str]) -> list[str]:
    shared = [f"a tie: it is {outside[id(value)]} as well"] if id(value) in outside else []
    return hangs_on_parameter(value) + shared


def _refuse(at: str, found: list[str]) -> None:
    if found:
        raise InputError(f"{at} carries {' and '.join(found)}, which the conversion would lose without a trace; {_REMEDY}")


def _refuse_other_flag(at: str, value: Tensor, copied: Copied) -> None:
    ours = getattr(copied.layer, copied.name).requires_grad
    if value.requires_grad != ours:
        raise InputError(
            f"{at} has requires_grad={value.requires_grad}, and others that it becomes one parameter with have {ours}; "
            "set them alike, convert, and freeze then, or leave the module out of `where`"
        )
