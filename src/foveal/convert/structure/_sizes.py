"""Conditions on sizes in a host's forward: taken as they are in the call that is read, and held in every later one."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._errors import InputError

__all__ = ["COMPARED", "Known", "held"]

COMPARED = frozenset({operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge})


def held(got: Any, read: Any, which: int) -> None:
    """A condition is what it was when the host was read: another could mean another way through its forward.

    Raises:
        ValueError: it is not.
    """
    if got != read:
        raise InputError(
            f"a converted attention was read where one of its conditions on sizes was {read} and is given tokens of which it is {got}; convert with inputs of "
            "the sizes that it will have (convert_(…, inputs=…)), or leave it out of `where`"
        )


class Known:
    """What nodes of a graph are in one call, as far as anybody asks while it is traced: modules cannot be called then, and are seen before.

    Args:
        root: what is traced.
        given: its arguments by name.

    Raises:
        Exception: whatever the root raises.
    """

    def __init__(self, root: nn.Module, given: dict[str, Any]) -> None:
        self.given = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
        self.values: dict[fx.Node, Any] = {}
        self.own: dict[str, Any] = dict(root.named_parameters()) | dict(root.named_buffers())
        self.made: dict[str, list[Any]] = {}
        handles = [part.register_forward_hook(self._noting(path)) for path, part in root.named_modules() if path]
        try:
            with torch.no_grad():
                root(**given)
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, path: str) -> Any:
        return lambda part, args, made: self.made.setdefault(path, []).append(made)

    def of(self, value: Any) -> Any:
        """Of a node, or of anything that holds nodes.

        Raises:
            Exception: whatever the host's functions raise.
        """
        with torch.no_grad():
            return fx.node.map_arg(value, self._of)

    def _of(self, node: fx.Node) -> Any:
        open_ = [node]
        while open_:
            one = open_[-1]
            missing = [other for other in one.all_input_nodes if other not in self.values]
            if missing:
                open_ += missing
                continue
            self.values.setdefault(one, self._made(open_.pop()))
        return self.values[node]

    def _made(self, node: fx.Node) -> Any:
        if node in self.values:
            return self.values[node]
        if node.op == "placeholder":
            return self.given[str(node.target)]
        if node.op == "get_attr":
            return self.own[str(node.target)]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.op == "call_module":
            before = [one for one in node.graph.nodes if one.op == "call_module" and one.target == node.target]
            return self.made[str(node.target)][before.index(node)]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]
