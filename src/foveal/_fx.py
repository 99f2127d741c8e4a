"""Modules and functions that ``torch.fx`` takes whole. What runs in them asks for sizes and masks, and symbolic tracing has neither.

No registry of a tracer is asked for: timm's, torchvision's and everybody's own find a node where they would else step in.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.fx import Proxy, Tracer
from torch.fx.node import has_side_effect

from ._errors import InputError

__all__ = ["Leaf", "checking", "leaf", "leaf_method", "tracer_of"]

P = ParamSpec("P")
R = TypeVar("R")


def tracer_of(*values: Any) -> Tracer | None:
    """Who traces, where something among the values stands for what is not there yet."""
    if torch.compiler.is_compiling() or torch.jit.is_scripting():
        return None
    return _found(values)


def _found(values: Iterable[Any]) -> Any:
    for value in values:
        if isinstance(value, Proxy):
            return value.tracer
        if isinstance(value, (tuple, list, dict)):
            tracer = _found(value.values() if isinstance(value, dict) else value)
            if tracer is not None:
                return tracer
    return None


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function that is one node of a traced graph, wherever it is called from. Modules among its arguments are named in the graph."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        tracer = tracer_of(args, kwargs)
        if tracer is None:
            return function(*args, **kwargs)
        # the graph calls this wrapper, which is what the function's name leads to
        return tracer.create_proxy("call_function", call, _named(tracer, args), kwargs)  # type: ignore[return-value]

    return call


def checking(function: Callable[P, R]) -> Callable[P, R]:
    """:func:`leaf` for a function that is called to raise an error: a graph keeps it although nobody reads what it gives."""
    return has_side_effect(leaf(function))


def leaf_method(method: Callable[P, R]) -> Callable[P, R]:
    """Decorates a method besides ``forward`` of a module: one node of a traced graph, a call of this method on the module."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        tracer = tracer_of(args, kwargs)
        if tracer is None:
            return method(*args, **kwargs)
        return tracer.create_proxy("call_method", method.__name__, _named(tracer, args), kwargs)  # type: ignore[return-value]

    return call


def _named(tracer: Tracer, args: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(tracer.create_proxy("get_attr", _path(tracer, arg), (), {}) if isinstance(arg, nn.Module) else arg for arg in args)


class Leaf(nn.Module):
    """A module that is one node of a traced graph, with its hooks, its mode and its checks as ever when the graph runs."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__:
            cls.forward = _as_root(cls.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(args, kwargs)
        if tracer is None:
            return super().__call__(*args, **kwargs)
        return tracer.call_module(self, lambda *given, **named: _node(tracer, self, given, named), args, kwargs)

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` asks of every module before it compiles."""
        raise InputError(
            f"TorchScript's compiler cannot read {type(self).__name__}: it knows neither keyword dictionaries nor functions as arguments. "
            "Use torch.jit.trace(model, example), torch.export.export, or foveal.export_model"
        )


def _as_root(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A tracer calls ``forward`` itself on the module that it was given, and on no other."""

    @wraps(forward)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(args, kwargs)
        return forward(self, *args, **kwargs) if tracer is None else _node(tracer, self, args, kwargs)

    return call


def _node(tracer: Tracer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return tracer.create_proxy("call_module", _path(tracer, module), args, kwargs)


def _path(tracer: Tracer, module: nn.Module) -> str:
    if module is not tracer.root:
        return tracer.path_of_module(module)
    # a graph cannot call the module that it is the graph of, so it is made the graph of one around it
    tracer.root = nn.Module()
    tracer.root.add_module(_INSIDE, module)
    for node in tracer.graph.nodes:
        # annotations with lists of arguments cannot be written into a graph's code
        node.type = None
    tracer.submodule_paths = {module: _INSIDE}
    return _INSIDE


_INSIDE = "module"
