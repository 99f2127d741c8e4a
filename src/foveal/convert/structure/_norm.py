"""What stands between a map and the products: nothing, a norm of the host's, or the length of one of cosine attention."""

from collections.abc import Iterator
from itertools import permutations

from torch import nn

from .._parts import ScaledUnit, Unit

__all__ = ["norm_of", "norms_in"]

_COSINE = "cosine:"


def norms_in(module: nn.Module, heads: int) -> Iterator[tuple[str, str]]:
    """No norms; two that the module owns for queries and keys; or unit lengths and a parameter that says how far apart (Swin V2, arXiv 2111.09883, eq. 2)."""
    yield "", ""
    named = [path for path, part in module.named_modules() if path and "norm" in type(part).__name__.lower() and part._parameters]
    yield from permutations(named, 2)
    for path, value in module.named_parameters():
        if value.shape == (heads, 1, 1):
            yield f"{_COSINE}{path}", _COSINE


def norm_of(module: nn.Module, name: str) -> nn.Module:
    """By the name that :func:`norms_in` gives."""
    if not name:
        return nn.Identity()
    if not name.startswith(_COSINE):
        return module.get_submodule(name)
    path = name.removeprefix(_COSINE)
    return ScaledUnit(module.get_parameter(path)) if path else Unit()
