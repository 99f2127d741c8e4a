"""What tells two calls of an attention apart, as far as a proof goes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["MOST_FORMS", "form_of"]

MOST_FORMS = 8
"""Each takes some runs of the attention to prove."""


def form_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Which arguments are given, of what shapes, and which of them are one object; not the numbers of tensors."""
    seen: dict[int, int] = {}
    return f"{_told(args, seen)} {_told(dict(kwargs), seen)}"


def _told(value: Any, seen: dict[int, int]) -> str:
    if isinstance(value, Tensor):
        return f"<{seen.setdefault(id(value), len(seen))} {value.dtype} {tuple(value.shape)}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_told(one, seen)}" for key, one in sorted(value.items(), key=lambda pair: str(pair[0]))) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(_told(one, seen) for one in value) + ")"
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else type(value).__qualname__
