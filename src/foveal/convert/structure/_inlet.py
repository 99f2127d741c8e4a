"""A norm that an attention owns and puts before its maps, as where the block leaves it to the attention: found, and taken out of the way to read the rest."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import Call, sources_of
from ._seen import is_map, run

__all__ = ["inlet_of", "without"]


@torch.no_grad()
def inlet_of(copy: nn.Module, call: Call) -> str:
    """The part that takes the tokens of the call, and gives what the first map takes; empty where the map takes the tokens themselves."""
    # a map that makes a bias takes no tokens either
    taken = [one.given for one in run(copy, call.given).maps if sources_of(one.given, call) is None]
    if not taken:
        return ""
    seen: list[tuple[str, Tensor, Tensor]] = []
    handles = []

    def noting(path: str) -> Any:
        def note(part: nn.Module, args: Any, made: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(made, Tensor):
                seen.append((path, args[0], made))

        return note

    for path, part in _candidates(copy):
        handles.append(part.register_forward_hook(noting(path)))
    try:
        run(copy, call.given)
    finally:
        for handle in handles:
            handle.remove()
    for path, given, made in seen:
        if made.shape == given.shape and sources_of(given, call) is not None and any(_same(made, one) for one in taken):
            return path
    return ""


def _candidates(copy: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Parts that hold no map: what remains of the attention has to be all of its maps."""
    for path, part in copy.named_modules():
        if path and not any(is_map(inner) for inner in part.modules()):
            yield path, part


def _same(made: Tensor, taken: Tensor) -> bool:
    """As it is, or with its pixels in a row."""
    if made.shape == taken.shape:
        return torch.allclose(made, taken, rtol=1e-6, atol=1e-6)
    flat = made.flatten(1, -2) if made.ndim == 4 else made
    return flat.shape == taken.shape and torch.allclose(flat, taken, rtol=1e-6, atol=1e-6)


def without(copy: nn.Module, inlet: str) -> nn.Module:
    """The same parts, and nothing before the maps."""
    if not inlet:
        return copy
    other = _shallow(copy)
    at = other
    *above, last = inlet.split(".")
    for name in above:
        at._modules[name] = _shallow(at._modules[name])
        at = at._modules[name]
    at._modules[last] = nn.Identity()
    return other


def _shallow(module: Any) -> Any:
    """A module of the same class with the same parameters and parts, whose parts can be exchanged."""
    family: Any = type(module)
    other = family.__new__(family)
    other.__dict__.update(module.__dict__)
    other.__dict__["_modules"] = dict(module._modules)
    return other
