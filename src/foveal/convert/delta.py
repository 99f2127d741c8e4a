"""Only what conversion and training changed, in one file beside the base model's own."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from .._files import parse_json
from .._weights import read_stamped, write_stamped
from ._digest import digests, fingerprint
from ._grids import forget_grids
from ._record import Record, end_record, is_converted, put, record_of, standing
from ._savers import release_savers
from ._steps import check_steps, replay_, steps_of
from ._wrapped import refuse_wrapped
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
        ValueError: the model was not converted; or it was changed since in a way that its base, converted, has no place for: another head, adapters, layers
            that were cut or pruned, another dtype. Nothing is written.
    """
    record = record_of(model)
    now = model.state_dict()
    _refuse_what_could_not_be_loaded(model, record, now)
    start = record.start
    changed = [name for name, digest in digests(now).items() if name in record.new or start.get(name) != digest]
    metadata = {"format": _FORMAT, "base": record.base, "steps": json.dumps(steps_of(model))}
    write_stamped(Path(path), {name: now[name] for name in changed}, metadata, "saving a delta")
    return changed


def load_delta(model: nn.Module, path: str | Path) -> ConversionReport:
    """Convert a base model in place and give it what was saved.

    Args:
        model: the base, as it was when :func:`convert_` was called: the same class with the same weights.
        path: what :func:`save_delta` wrote.

    Returns:
        The report of the conversion.

    Raises:
        ValueError: the file is no delta, belongs to another base, or was saved after changes that the base does not have; the model is wrapped, or converted
            already. The model is then as it was.
    """
    refuse_wrapped(model, "load")
    metadata, saved = read_stamped(Path(path), _FORMAT, made_by="foveal.save_delta", otherwise="is no delta of a conversion")
    steps = check_steps(parse_json(metadata.get("steps", ""), f"the conversion in {path}"), path)
    if (base := fingerprint(digests(model.state_dict()))) != metadata.get("base"):
        raise InputError(f"{path} belongs to another base: expected the fingerprint {metadata.get('base')}, this model has {base}; load its weights first")
    if is_converted(model):
        raise InputError("this model was converted already; load the delta into its base, or call foveal.revert_(model) first")
    with _undone_on_error(model):
        report = replay_(model, steps)
        own = model.state_dict()
        _refuse_other_tensors(path, saved, own)
        _fill(own, saved)
    return report


@torch.no_grad()
def _fill(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """All of them, or on an error none: some are the base's own."""
    undo: list[tuple[Tensor, Tensor]] = []
    try:
        for name, value in saved.items():
            undo.append((own[name], own[name].clone()))
            own[name].copy_(value)
    except BaseException:
        for value, old in reversed(undo):
            value.copy_(old)
        raise


def _refuse_what_could_not_be_loaded(model: nn.Module, record: Record, now: Mapping[str, Any]) -> None:
    """Loading begins at the base and converts it, so only what that gives can be filled."""
    hint = "; save the whole model, with foveal.save_pretrained or its state dict"
    foreign = [name for name, value in now.items() if not isinstance(value, Tensor)]
    if foreign:
        raise InputError(f"{foreign[0]} is no tensor, and a delta holds nothing else{hint}")
    wrong = [f"{name} is new" for name in now if name not in record.layout] + [f"{name} is gone" for name in record.layout if name not in now]
    for name, value in now.items():
        if name in record.layout:
            shape, dtype = record.layout[name]
            wrong += [f"{name} is {tuple(value.shape)}, was {shape}"] if tuple(value.shape) != shape else []
            wrong += [f"{name} is {value.dtype}, was {dtype}"] if value.dtype != dtype else []
    there = {id(part): names for names, part in standing(model)}
    for part in record.parts:
        if id(part) not in there:
            wrong.append(f"{part.names[0]} is another module")
        elif sorted(there[id(part)]) != sorted(part.names):
            wrong.append(f"{part.names[0]} stands at {there[id(part)][0]}")
    wrong += [f"{inserted.after} has lost its block" for inserted in record.inserted if not inserted.stands_in(model)]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(
            f"this model is no longer what conversion makes of its base, so a delta could never be loaded: {'; '.join(wrong[:4])}{more}. Make heads and sizes "
            f"before converting, merge adapters (merge_and_unload) or save them with their own library, and bring dtypes back with .to(…){hint}"
        )


def _refuse_other_tensors(path: str | Path, saved: Mapping[str, Tensor], own: Mapping[str, Any]) -> None:
    wrong = []
    for name, value in saved.items():
        if name not in own:
            wrong.append(f"{name} has no place in it")
        elif own[name].shape != value.shape:
            wrong.append(f"{name} is {tuple(own[name].shape)} in it and {tuple(value.shape)} in the file")
        elif not torch.equal(value.to(own[name].dtype).to(value.dtype), value) and not value.isnan().any():
            wrong.append(f"{name} is {own[name].dtype} in it, which cannot hold the {value.dtype} of the file")
    if wrong:
        raise InputError(
            f"{path} does not fit this model, converted: {'; '.join(wrong[:4])}{' …' if len(wrong) > 4 else ''}; it was saved after the model had got another "
            "head, adapters, other sizes or another dtype: make the base so first, or save the whole model with foveal.save_pretrained"
        )


@contextmanager
def _undone_on_error(model: nn.Module) -> Iterator[None]:
    """The model, which was not converted before, as it was."""
    try:
        yield
    except BaseException:
        if is_converted(model):
            record = record_of(model)
            # the originals' own parts were not touched: to put them back is all
            for part in record.parts:
                put(model, part.names, part.original)
            for inserted in record.inserted:
                inserted.take_out(model)
            forget_grids(model)
            release_savers(model)
            end_record(model)
        raise
