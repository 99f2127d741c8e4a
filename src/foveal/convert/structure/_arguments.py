"""The arguments of one call: which are tokens, and what may be put in their place."""

import inspect
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from ._probe import Given

__all__ = ["Call", "bound", "foreign_in", "sources_of"]


@dataclass(frozen=True)
class Call:
    """One call by the names of its arguments."""

    names: tuple[str, ...]
    defaults: dict[str, Any]
    values: dict[str, Any]

    @property
    def given(self) -> Given:
        """To be called with again."""
        return Given((), dict(self.values))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that may be of tokens: floating point, and a width at least."""
        return {name: value for name, value in self.values.items() if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2}

    def fresh(self, names: set[str], seed: int) -> "Call":
        """With other numbers in these arguments, tokens of a mean of zero and a spread of one; all others as they were captured."""
        made: dict[int, Tensor] = {}
        source = torch.Generator().manual_seed(seed)
        for name in self.values:
            value = self.values[name]
            if name in names and id(value) not in made:
                made[id(value)] = torch.randn(value.shape, generator=source).to(value.device)
        return Call(self.names, self.defaults, {name: made.get(id(value), value) if name in names else value for name, value in self.values.items()})

    def otherwise(self, seed: int) -> "Call | None":
        """With some entries of its masks the other way; None where it has no masks of truth, or of zeros and ones."""
        source = torch.Generator().manual_seed(seed)
        made: dict[int, Tensor] = {}
        for name, value in self.values.items():
            if isinstance(value, Tensor) and value.ndim and (value.dtype == torch.bool or ("mask" in name and _is_truth(value))) and id(value) not in made:
                had = value.bool()
                turned = had ^ (torch.rand(value.shape, generator=source) < 0.25).to(value.device)
                # no row is closed altogether that was not, whatever closes
                same = (turned.all(-1, keepdim=True) & ~had.all(-1, keepdim=True)) | (had.any(-1, keepdim=True) & ~turned.any(-1, keepdim=True))
                made[id(value)] = torch.where(same, had, turned).to(value.dtype)
        return replace(self, values={name: made.get(id(value), value) for name, value in self.values.items()}) if made else None


def _is_truth(value: Tensor) -> bool:
    return not value.is_floating_point() and not value.is_complex() and bool(((value == 0) | (value == 1)).all())


def bound(module: nn.Module, given: Given) -> Call | str:
    """The call as its signature names it, in float32; or why it cannot be told."""
    signature = inspect.signature(type(module).forward)
    parameters = list(signature.parameters.values())[1:]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return "its forward takes any number of arguments"
    try:
        signature.bind(module, *given.args, **given.kwargs)
    except TypeError as error:
        return f"its call does not fit its signature: {error}"
    named = [one for one in parameters if one.kind is not one.VAR_KEYWORD]
    values = dict(zip((one.name for one in named), given.args, strict=False)) | given.kwargs
    defaults = {one.name: None if one.default is one.empty else one.default for one in named}
    cast: dict[int, Any] = {}
    return Call(tuple(one.name for one in named), defaults, {name: _float(value, cast) for name, value in values.items()})


def foreign_in(call: Call) -> str:
    """What is said of an argument that is neither numbers nor words: it may be another after the call, as a cache is. Empty where there is none."""
    plain = (Tensor, int, float, bool, str, type(None), tuple, list, dict, torch.dtype, torch.device)
    found = next((name for name, value in call.values.items() if not isinstance(value, plain)), "")
    return f"; it is given {found}, a {type(call.values[found]).__name__}, which may keep something from call to call" if found else ""


def _float(value: Any, cast: dict[int, Any]) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_float(part, cast) for part in value)
    if not isinstance(value, Tensor):
        return value
    # one object stays one: an attention may ask whether keys are the queries
    return cast.setdefault(id(value), value.detach().clone().float() if value.is_floating_point() else value)


def sources_of(taken: Tensor, call: Call) -> tuple[tuple[str, ...], str] | None:
    """The one or two arguments whose sum a map took, and how they lie; None where there are none."""
    tensors = call.tensors
    for count in (1, 2):
        for names in combinations(tensors, count):
            parts = [tensors[name] for name in names]
            if any(part.shape[1:] != parts[0].shape[1:] or len(part) not in (1, len(parts[0])) for part in parts):
                continue
            whole = parts[0] if count == 1 else parts[0] + parts[1]
            for layout, same in _layouts(whole, taken):
                if same.shape == taken.shape and torch.allclose(same, taken, rtol=1e-6, atol=1e-6):
                    return names, layout
    return None


def _layouts(whole: Tensor, taken: Tensor) -> list[tuple[str, Tensor]]:
    if whole.ndim in (2, 3):
        return [("packed" if whole.ndim == 2 else "tokens", whole)]
    if whole.ndim != 4:
        return []
    if whole.shape == taken.shape:
        # a convolution of single pixels has its channels first, a linear map last; told apart by the map that took them
        return [("map4", whole)]
    return [("rows", whole.flatten(1, 2)), ("map", whole.flatten(2).transpose(1, 2))]
