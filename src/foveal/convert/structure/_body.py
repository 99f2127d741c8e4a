"""A host's own forward with its attention exchanged: what it does before and behind goes on, with its own modules under their own names."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._errors import InputError
from ...attention import TokenAttention
from ._code import Code, led, padded
from ._converted import keep_settings, with_settings

__all__ = ["Body", "as_heads", "asked", "body", "like_map", "like_rows", "shown", "side_by_side"]


def asked(
    attn: TokenAttention, x: Tensor, keys: Tensor | None, values: Tensor | None, bias: Tensor | None, of_queries: Any = None, of_keys: Any = None
) -> Tensor:
    """Ours, on tokens ``(B, N, C)``; keys and values of others where they are given, a bias of pairs, and what is done to heads of queries and of keys."""
    return attn(x, **_options(attn, keys, values, bias, of_queries, of_keys))


def shown(attn: TokenAttention, *args: Any) -> Tensor:
    """What :func:`asked` has as its map, ``(B, H, Nq, Nk)``."""
    return attn.attention_map(args[0], **_options(attn, *args[1:]))["combined"]


def _options(
    attn: TokenAttention, keys: Tensor | None, values: Tensor | None, bias: Tensor | None, of_queries: Any = None, of_keys: Any = None
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if keys is not None:
        options["context"] = keys if keys is values else (keys, values)
    if bias is not None:
        options["attn_mask"] = bias if bias.ndim != 3 else bias[None]
    if (of_queries is not None or of_keys is not None) and attn.takes_rotary:
        options["rope"] = (of_queries, of_keys)
    return options


def side_by_side(*parts: Tensor) -> Tensor:
    """Tokens and what is told of them, ``(B or 1, N, C)`` each."""
    count = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(count, *part.shape[1:]) for part in parts], dim=-1)


def like_rows(out: Tensor, x: Tensor) -> Tensor:
    """Tokens as those that asked lay, channels last."""
    return out.reshape(*x.shape[:-1], out.shape[-1])


def like_map(out: Tensor, x: Tensor) -> Tensor:
    """Tokens as those that asked lay, channels first."""
    return out.mT.reshape(x.shape[0], out.shape[-1], *x.shape[2:])


def as_heads(out: Tensor, like: Tensor, heads: int, batches: int, axis: int | None) -> Tensor:
    """Tokens ``(B, N, H·D)`` as the host has its heads, so that it can put its windows together.

    Args:
        out: what ours gives.
        like: a tensor with as many samples as there are.
        heads: H.
        batches: 1, or 2 where windows have an axis of their own.
        axis: where the heads are; None where there is no such axis.
    """
    out = out.unflatten(-1, (heads, -1)).transpose(1, 2)
    out = out.unflatten(0, (like.shape[0], -1)) if batches == 2 else out
    return out.squeeze(-3) if axis is None else out.movedim(-3, axis)


class Body(Code):
    """Code that was made from a graph, and how it is called.

    Args:
        graph: its nodes name modules and parameters by paths.
        names: arguments of the host's ``forward``, in order.
        settings: arguments that were no tensors and no sizes when the host was read; they cannot be given otherwise.
        own: further code that the code names, made from the graph as well.
        left: attributes in which the host leaves something of each call.
    """

    def __init__(
        self,
        graph: fx.Graph,
        names: tuple[str, ...],
        defaults: dict[str, Any],
        settings: dict[str, Any],
        own: dict[str, Code] | None = None,
        left: tuple[str, ...] = (),
    ) -> None:
        for node in [node for node in graph.nodes if node.target in (led, padded)]:
            with graph.inserting_before(node):
                node.kwargs = {"code": graph.create_node("get_attr", "code")}
        super().__init__(graph)
        self.left, self.amounts = left, tuple((int(node.args[1]),) for node in graph.nodes if node.target is padded)
        self.leads = any(node.target is led for node in graph.nodes)
        self.met: tuple[tuple[int, ...], ...] = ()
        self.proving = False
        self.names, self.defaults, self.settings, self.own = names, defaults, settings, own or {}
        self.open = tuple(str(node.target) for node in graph.nodes if node.op == "placeholder")

    def forget(self) -> None:
        """The ways that it went."""
        self.met = ()

    def goes_on(self, way: tuple[int, ...], said: str) -> None:
        """At sizes at which its host goes another way.

        Raises:
            ValueError: it was not proven that the same code does for that.
        """
        if self.proving:
            self.met = (*self.met, way)
        elif way not in self.met:
            raise InputError(
                f"a converted attention is given sizes of which {said}; "
                "convert with inputs of the sizes that it will have (convert_(…, inputs=…)), or leave it out of `where`"
            )

    def values(self, args: Sequence[Any], kwargs: dict[str, Any], name: str) -> list[Any]:
        """Of the arguments that are open.

        Raises:
            ValueError: another setting than the host was read with.
        """
        given = self.defaults | dict(zip(self.names, args, strict=False)) | kwargs
        for key, value in given.items():
            if key not in self.open and (isinstance(value, Tensor) or value != self.settings.get(key)):
                got = f"a {type(value).__name__}" if isinstance(value, Tensor) else repr(value)
                raise InputError(
                    f"{name or 'a converted attention'} was read with {key}={self.settings.get(key)!r} and is given {got}; convert with the inputs "
                    "that it will have (convert_(…, inputs=…)), or leave it out of `where`"
                )
        return [given[key] for key in self.open]


def body(module: nn.Module, ours: nn.Module, code: Body, kept: Sequence[str]) -> Any:
    """An instance of a subclass of the host's class, which runs the code.

    Args:
        module: the host.
        ours: becomes its child ``attn``.
        code: names ``attn`` and what is kept.
        kept: paths of the host's modules and parameters that the code needs.
    """
    replacement = with_settings(module, _forward)
    for path in kept:
        _keep(module, replacement, path)
    replacement.attn = ours
    for name, part in code.own.items():
        # in no list of modules: it is code, and holds nothing
        replacement.__dict__[name] = part
    replacement.__dict__["code"] = code
    for name in code.left:
        # what the host left there is of a call of its own
        replacement.__dict__.pop(name, None)
    keep_settings(replacement, vars(module))
    return replacement


def _keep(module: nn.Module, replacement: nn.Module, path: str) -> None:
    *owners, last = path.split(".")
    for name in owners:
        module = module.get_submodule(name)
        if name not in replacement._modules:
            replacement.add_module(name, nn.Module())
        replacement = replacement.get_submodule(name)
    if last in module._modules:
        replacement._modules[last] = module._modules[last]
    elif last in module._parameters:
        replacement._parameters[last] = module._parameters[last]
    else:
        replacement._buffers[last] = module._buffers[last]
        if last in module._non_persistent_buffers_set:
            replacement._non_persistent_buffers_set.add(last)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """As the host's own ``forward``."""
    return self.code.function(self, *self.code.values(args, kwargs, self.__dict__.get("place_name", "")))
