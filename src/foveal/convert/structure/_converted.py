"""Classes of what stands in the place of a host: subclasses of its class, so that what asks for its class, settings or maps goes on to find them."""

from functools import lru_cache
from typing import Any

from torch import nn

from ..._errors import InputError

__all__ = ["empty", "keep_settings", "with_settings"]


def empty(family: Any, forward: Any) -> Any:
    """An instance that holds nothing yet.

    Args:
        family: the host's class.
        forward: a function of a module, by which it is found when an instance is unpickled.
    """
    made = _subclass(family, forward)
    return made.__new__(made)


def with_settings(module: nn.Module, forward: Any) -> Any:
    """An instance with the host's plain settings, and none of its parts."""
    replacement = empty(type(module), forward)
    nn.Module.__init__(replacement)
    machinery = set(nn.Module().__dict__)
    plain = (int, float, bool, str, type(None), tuple, list)
    for name, value in vars(module).items():
        if name not in machinery and (isinstance(value, plain) or name == "config"):
            replacement.__dict__[name] = value
    return replacement


_FREE = ("training", "fused_attn", "gradient_checkpointing")
"""Settings that change nothing of what is computed."""


def keep_settings(replacement: nn.Module, settings: dict[str, Any]) -> None:
    """Numbers and words among the host's settings are part of what was read, and are not set otherwise from now on."""
    plain = {name: value for name, value in settings.items() if _is_plain(value) and name not in _FREE}
    replacement.__dict__["read_with"] = {name: value for name, value in plain.items() if name in replacement.__dict__}


def _is_plain(value: Any) -> bool:
    return type(value) in (int, float, bool, str) or (type(value) is tuple and all(map(_is_plain, value)))


def _refusing(name: str) -> Any:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        where = self.__dict__.get("place_name", "an attention")
        raise InputError(f"{where} was converted as it was, and {name} would change it; call foveal.revert_(model), then {name}, and convert again")

    return refuse


@lru_cache
def _subclass(family: Any, forward: Any) -> Any:
    # what the host's class does around its parts finds them no more
    own = {"forward": forward, "train": nn.Module.train, "_apply": nn.Module._apply, "extra_repr": nn.Module.extra_repr, "__reduce_ex__": _reduce}

    def kept(self: nn.Module, name: str, value: Any) -> None:
        read = self.__dict__.get("read_with", {})
        if name in read and value != read[name]:
            where = self.__dict__.get("place_name", "an attention")
            raise InputError(f"{where} was read with {name}={read[name]!r}, and is set to {value!r}; call foveal.revert_(model), set it, and convert again")
        family.__setattr__(self, name, value)

    own["__setattr__"] = kept
    setters = {name: _refusing(name) for name in dir(family) if name.startswith(("set_", "reset")) and not hasattr(nn.Module, name)}
    return type(f"Converted{family.__name__}", (family,), setters | own | {"__module__": __name__})


def _reduce(self: nn.Module, protocol: Any) -> Any:
    # the class is made at run time, so it is found again by the one that it is made from
    return empty, (type(self).__mro__[1], vars(type(self))["forward"]), self.__dict__
