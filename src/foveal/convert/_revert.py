"""The way back, from what stands in the model now: nothing is put back before all of it is known."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ._grids import forget_grids
from ._hanging import hangs_on, hangs_on_parameter
from ._parts import carry_hooks
from ._record import Converted, end_record, put, record_of, standing
from ._savers import release_savers
from ._wrapped import refuse_wrapped

__all__ = ["revert_", "steps_back"]

_Step = Callable[[], Any]


def revert_(model: nn.Module) -> list[str]:
    """Put back the modules that :func:`convert_` replaced and take out what :func:`insert_` put in, in place; their names.

    What the two shared comes back as it is now: trained if it was trained, loaded, frozen, moved, adapted, in whatever place the module stands by now. The
    attention's own parameters are gone. Places that were deleted since, or where something else was put, are left as they are. An error leaves the model
    as it was.

    Raises:
        ValueError: the model was not converted, or nothing of it is left; it came out of ``foveal.from_pretrained``, and weights that conversion dropped are
            not there; it was wrapped or compiled since; something was put on a layer since that the original has no place for.
    """
    record = record_of(model)
    if not record.whole:
        raise InputError("this model was loaded converted, without the weights that conversion dropped, so there is no way back; take the base model itself")
    refuse_wrapped(model, "revert")
    there = list(standing(model))
    blocks = [inserted for inserted in record.inserted if inserted.stands_in(model)]
    if not there and not blocks:
        raise InputError("nothing that was converted or inserted stands in this model any more, so there is nothing to put back")
    steps = [step for names, converted in there for step in steps_back(names[0], converted)]
    # from here on nothing can fail
    with torch.no_grad():
        for step in steps:
            step()
    for names, converted in there:
        _forget_what_was_kept(converted.original)
        put(model, names, converted.original)
    forget_grids(model)
    release_savers(model)
    taken = [inserted.take_out(model) for inserted in blocks]
    end_record(model)
    return [*(name for names, _ in there for name in names), *taken]


def steps_back(name: str, converted: Converted) -> list[_Step]:
    """What gives an original the weights that it shares with its replacement, as they are now. The model is not touched.

    Raises:
        ValueError: something was put on a layer since that the original has no place for.
    """
    original, replacement, links = converted.original, converted.replacement, converted.links
    steps: list[_Step] = []
    like: Tensor = next(replacement.parameters(), next(original.parameters()))
    linked: set[int] = set()
    for theirs, ours in links.modules:
        now = _part(name, replacement, ours)
        linked |= {id(value) for value in (*now.parameters(), *now.buffers())} | {id(part) for part in now.modules()}
        steps.append(_setter(original, theirs, now))
    for theirs, ours in links.tensors:
        value = _tensor(name, replacement, ours)
        linked.add(id(value))
        steps.append(_setter(original, theirs, value))
    given: dict[str, tuple[bool, list[tuple[slice, Tensor]]]] = {}
    for theirs, ours, rows, host_rows in links.copied:
        value, host = _tensor(name, replacement, ours), _get(original, theirs)
        _refuse(name, ours, hangs_on_parameter(value))
        _refuse_other_kind(name, ours, value, host)
        part = value.detach()[rows.to(value.device) if isinstance(rows, Tensor) else rows]
        if part.numel() != host[host_rows].numel():
            raise InputError(f"{name}.{ours} is {tuple(value.shape)} now, from which the original's {theirs} cannot be had; undo what cut it")
        given.setdefault(theirs, (value.requires_grad, []))[1].append((host_rows, part))
    for theirs, (trained, pieces) in given.items():
        host = _get(original, theirs)
        linked.add(id(host))
        steps.append(lambda host=host, pieces=pieces, trained=trained: _give_back(host, pieces, trained))  # type: ignore[misc]
    for ours, rows in links.bare:
        if (_tensor(name, replacement, ours)[rows.to(like.device)] != 0).any():
            raise InputError(
                f"{name}.{ours} has a bias of keys by now, for which the original has no place, and here it counts; set these rows to zero to go back without"
            )
    replaced = {path for path, _ in (*links.modules, *links.tensors)}
    for path, part in original.named_modules():
        if path in replaced or any(path.startswith(f"{above}.") for above in replaced):
            continue
        steps.append(lambda part=part: setattr(part, "training", replacement.training))  # type: ignore[misc]
        for key, value in (*part._parameters.items(), *part._buffers.items()):
            if value is not None and id(value) not in linked and f"{path}.{key}".strip(".") not in replaced:
                _refuse_other_kind(name, links.tensors[0][1] if links.tensors else path, like, value)
                dtype = like.dtype if value.is_floating_point() and like.dtype != links.dtype else value.dtype
                steps.append(lambda value=value, dtype=dtype: setattr(value, "data", value.data.to(like.device, dtype)))  # type: ignore[misc]
    steps.append(lambda: carry_hooks(replacement, original))
    return steps


def _forget_what_was_kept(original: nn.Module) -> None:
    """What is kept for evaluation, as a bias read from a table by LeViT's family, is of the weights before: going through training mode, hosts make it anew."""
    modes = {part: part.training for part in original.modules()}
    original.train()
    for part, training in modes.items():
        part.training = training


def _give_back(host: nn.Parameter, pieces: list[tuple[slice, Tensor]], trained: bool) -> None:
    like = pieces[0][1]
    values = host.detach().to(like.device, like.dtype, copy=True)
    for rows, piece in pieces:
        values[rows] = piece.reshape(values[rows].shape)
    host.data = values
    host.requires_grad_(trained)


def _get(module: nn.Module, path: str) -> Any:
    owner, _, key = path.rpartition(".")
    return getattr(module.get_submodule(owner), key)


def _setter(original: nn.Module, path: str, value: Any) -> _Step:
    owner, _, key = path.rpartition(".")
    # by the parent's path when it is run: a module above may have been set by then
    return lambda: setattr(original.get_submodule(owner), key, value)


def _part(name: str, replacement: nn.Module, path: str) -> nn.Module:
    owner, _, key = path.rpartition(".")
    holder = replacement.get_submodule(owner)
    if key == "qkv" and getattr(holder, "fused", False):
        return holder.folded_qkv()  # type: ignore[operator]
    try:
        return holder.get_submodule(key)
    except AttributeError:
        raise InputError(f"{name}.{path}, which was the original's own, is not there any more (was the attention cut?); undo that first") from None


def _tensor(name: str, replacement: nn.Module, path: str) -> Tensor:
    """A parameter or buffer that is still one, of a layer that is no more than it was."""
    owner, _, key = path.rpartition(".")
    layer = _part(name, replacement, owner)
    value = layer._parameters.get(key, layer._buffers.get(key))
    if value is None:
        _refuse(name, owner, hangs_on(layer) or [f"something in the place of its {key} ({type(layer).__name__})"])
        raise InputError(f"{name}.{path} is not there any more, and the original needs it; undo what took it away")
    if layer is not replacement:
        _refuse(name, owner, hangs_on(layer))
    return value


def _refuse_other_kind(name: str, path: str, now: Tensor, before: Tensor) -> None:
    if now.is_meta != before.is_meta:
        raise InputError(f"{name}.{path} is on the device {now.device} now, without values, and the original has some; load the weights first")


def _refuse(name: str, path: str, found: list[str]) -> None:
    if found:
        raise InputError(f"{name}.{path} carries {' and '.join(found)} since it was converted, for which the original has no place; merge or remove it first")
