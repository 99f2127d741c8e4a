"""What is remembered of a model's conversion, on the model itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import AttentionConfig
from ._digest import fingerprint
from ._sources import Links
from ._transfer import WarmStart

__all__ = ["Converted", "Record", "begin_record", "end_record", "is_converted", "layout_of", "originals_of", "places_of", "put", "record_of", "standing"]

_RECORD = "_foveal_conversion"

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor, by name."""


@dataclass
class Converted:
    """What is remembered of one replaced module."""

    names: list[str]
    """Where it stood when it was replaced."""
    original: nn.Module
    replacement: nn.Module
    wanted: AttentionConfig
    warm_start: WarmStart
    links: Links
    apart: bool
    """Whether queries, keys and values of the host stayed three layers."""
    reading: dict[str, Any] | str | None = None
    """What was read of a class that nobody declared, see :class:`foveal.convert._host.Host`."""


@dataclass
class Record:
    """What is remembered of a model's conversion, on the model; not a submodule, so that it is in no state dict."""

    base: str
    """Fingerprint of the weights before the first conversion."""
    parts: list[Converted]
    start: dict[str, int]
    """Digest of every tensor when it came into being: of the base, or of the conversion."""
    new: set[str]
    """Names of parameters that the base says nothing of."""
    layout: Layout
    """Of what conversion makes of the base: what a delta can be loaded into."""
    inserted: list[Any] = field(default_factory=list)
    """Blocks that :func:`insert_` put in; they replace nothing."""
    whole: bool = True
    """Whether the originals hold the base's weights; a model that was loaded from a folder has only those that conversion kept."""

    def put_in(self, prefixes: tuple[str, ...], state: Mapping[str, Tensor]) -> None:
        """Remember that what stands under these prefixes is new."""
        now = {name: how for name, how in layout_of(state).items() if name.startswith(prefixes)}
        self.layout = {name: how for name, how in self.layout.items() if not name.startswith(prefixes)} | now


def is_converted(model: nn.Module) -> bool:
    """Whether :func:`convert_` was called with this very module."""
    return _RECORD in model.__dict__


def record_of(model: nn.Module) -> Record:
    """What :func:`convert_` left on the model.

    Raises:
        ValueError: nothing.
    """
    record: Record | None = model.__dict__.get(_RECORD)
    if record is None:
        part = next((name for name, module in model.named_modules() if is_converted(module)), None)
        where = "" if part is None else f"; its part {part} was"
        raise InputError(f"this model was not converted, or not as a whole{where}: give the module that was given to convert_")
    return record


def begin_record(model: nn.Module, before: dict[str, int], layout: Layout) -> Record:
    """The model's record, which begins with the digests and the layout of its weights where there is none."""
    record: Record = model.__dict__.setdefault(_RECORD, Record(fingerprint(before), [], before, set(), layout))
    return record


def end_record(model: nn.Module) -> None:
    model.__dict__.pop(_RECORD, None)


def layout_of(state: Mapping[str, Any]) -> Layout:
    return {name: (tuple(value.shape), value.dtype) for name, value in state.items() if isinstance(value, Tensor)}


def standing(model: nn.Module) -> Iterator[tuple[list[str], Converted]]:
    """What stands in the model now by conversion, and where: names may have changed, and places may be gone."""
    parts = model.__dict__[_RECORD].parts if is_converted(model) else []
    if not parts:
        return
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for part in parts:
        if id(part.replacement) in names:
            yield names[id(part.replacement)], part


def places_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What stands in the model now by conversion, and the name of each place; none where the model was not converted."""
    return [(names[0], part.replacement) for names, part in standing(model)]


def originals_of(model: nn.Module) -> dict[str, nn.Module]:
    """What stood in the converted places before, by name."""
    return {name: part.original for names, part in standing(model) for name in names}


def put(model: nn.Module, names: list[str], module: nn.Module) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
