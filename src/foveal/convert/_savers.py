"""Ways to save that write a converted model so that its library reads it back with other weights, and says next to nothing."""

import sys
import warnings
from types import FrameType
from typing import Any

from torch import nn

from .._errors import InputError

__all__ = ["guard_savers", "release_savers"]

_SAVES = "save_pretrained"
_METHODS = (_SAVES, "push_to_hub")
_KNOWS = ("foveal", "peft")
"""Packages whose ``save_pretrained`` knows what it writes: ours the conversion, peft's its adapters alone."""


class _Refuses:
    """Stands on a model in the place of a method of its class."""

    def __init__(self, whose: str, method: str) -> None:
        self.whose, self.method = whose, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise InputError(
            f"{self.whose}.{self.method} would write names of weights that {self.whose} does not have before it is converted, and reading them back would "
            f"draw the attentions at random; use foveal.{self.method}, foveal.save_delta, or foveal.revert_ first "
            f"(where your own class converts itself when it is made: type(model).{self.method}(model, …))"
        )


def guard_savers(model: nn.Module, names: list[str]) -> None:
    """Put a refusal on every module that holds a converted place and saves itself; and a warning on the places, for models around this one.

    Args:
        model: that was converted.
        names: of the places.
    """
    above = {name[:end] for name in names for end in (0, *(at for at, letter in enumerate(name) if letter == "."))}
    for name in sorted(above):
        module = model.get_submodule(name)
        if not callable(getattr(type(module), _SAVES, None)) or type(module).__module__.partition(".")[0] in _KNOWS:
            continue
        for method in _METHODS:
            if callable(getattr(type(module), method, None)):
                module.__dict__.setdefault(method, _Refuses(type(module).__name__, method))
    for name in names:
        replacement = model.get_submodule(name)
        if _warns not in replacement._state_dict_pre_hooks.values():
            replacement.register_state_dict_pre_hook(_warns)


def release_savers(model: nn.Module) -> None:
    """Take the refusals back."""
    for module in model.modules():
        for method in _METHODS:
            if isinstance(module.__dict__.get(method), _Refuses):
                del module.__dict__[method]


def _warns(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    saver = _saver(sys._getframe(1))
    if saver is not None:
        warnings.warn(
            f"{saver}.{_SAVES} writes converted attentions under names that {saver} does not have before it is converted: reading them back "
            f"draws them at random. Use foveal.{_SAVES}, foveal.save_delta, or foveal.revert_ first",
            stacklevel=2,
        )


def _saver(frame: FrameType | None) -> str | None:
    """The class of the model whose ``save_pretrained`` asks for the weights, if one does that does not know of conversions."""
    found = None
    while frame is not None:
        if frame.f_code.co_name == _SAVES:
            if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _KNOWS:
                return None
            owner = frame.f_locals.get("self")
            found = type(owner).__name__ if isinstance(owner, nn.Module) else found
        frame = frame.f_back
    return found
