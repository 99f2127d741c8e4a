"""Where numbers go between a map and the softmax: every number of what a map gives is followed by its place through what only moves numbers.

Shapes     B samples or windows, H heads, N tokens, D head width, R rows of a map, P = all tokens of all samples
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ._trace import Unread

__all__ = ["MOVES", "Flow", "Moved", "Split", "called", "channels_first", "split_of"]

MOVES = {
    *(
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "movedim",
        "swapaxes",
        "swapdims",
        "unbind",
        "chunk",
        "split",
        "tensor_split",
        "getitem",
    ),
    *("unsqueeze", "squeeze", "expand", "narrow", "select", "T", "mT", "t", "contiguous", "clone", "rearrange", "view_as", "reshape_as", "expand_as"),
}
_SAME = {"to", "float", "type", "type_as", "half", "detach"}
_NUMBERS = {"mul", "imul", "truediv", "div", "__mul__", "__rmul__"}


@dataclass(frozen=True)
class Moved:
    """Numbers of one map, wherever they are now."""

    index: Any
    """Place times R plus row, in the shape that they have now; or several such."""
    seed: fx.Node
    factor: float = 1.0
    behind: tuple[tuple[str, str], ...] = ()
    """Modules that they went through before heads were told apart, and how they lay then: ``made``, ``rows`` or ``turned``."""
    norm: str = ""
    """The module that they went through head by head."""
    others: tuple[fx.Node, ...] = ()
    """Further maps whose numbers were added to those of the first, each to its own."""

    @property
    def seeds(self) -> tuple[fx.Node, ...]:
        return self.seed, *self.others


def channels_first(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d))


def numbered(value: Tensor, first: bool) -> Tensor:
    """Place times R plus row for what a map gives."""
    if not first:
        return torch.arange(value.numel(), dtype=torch.float64).view(value.shape)
    places = value.numel() // value.shape[1]
    return torch.arange(value.numel(), dtype=torch.float64).view(places, value.shape[1]).view(value.shape[0], -1, value.shape[1]).mT.reshape(value.shape)


class Flow:
    """Follows numbers through the nodes of a graph.

    Args:
        module: the graph with its modules.
        values: what every node is in one call.
        seeds: numbered tensors, by the nodes whose numbers are followed.
    """

    def __init__(self, module: fx.GraphModule, values: dict[fx.Node, Any], seeds: dict[fx.Node, Tensor]) -> None:
        self.module, self.values, self.seeds = module, values, seeds
        self.known: dict[fx.Node, Moved] = {node: Moved(index, node) for node, index in seeds.items()}
        self.depends: dict[fx.Node, bool] = {}
        for node in module.graph.nodes:
            # sizes are no numbers of a map
            self.depends[node] = node in seeds or (_holds_tensors(values.get(node)) and any(self.depends[one] for one in node.all_input_nodes))

    def of(self, node: fx.Node) -> Moved:
        """The numbers of a node.

        Raises:
            Unread: something was done to them.
        """
        if node not in self.known:
            self.known[node] = self._step(node)
        return self.known[node]

    def _step(self, node: fx.Node) -> Moved:
        sources = [one for one in node.all_input_nodes if self.depends[one]]
        if not sources:
            raise Unread(f"no linear map makes {node.name}")
        found = [self.of(one) for one in sources]
        first = found[0]
        name = called(node)
        if len(found) == 2 and name.strip("_") in ("add", "iadd"):
            # one may be the same for all samples
            for one, other in (found, found[::-1]):
                if _are_alike(one, other):
                    return replace(one, others=(*one.others, *other.seeds))
        if len({one.seeds for one in found}) != 1 or len(found) > 2:
            raise Unread(f"several maps make {node.name}")
        if node.op == "call_module":
            return self._through(node, first)
        if name in _SAME:
            return first
        if name.strip("_") in _NUMBERS and len(found) == 1:
            number = next((one for one in node.args if isinstance(one, (int, float))), None)
            if number is not None and (node.args[0] is sources[0] or "div" not in name):
                return replace(first, factor=first.factor / number if "div" in name else first.factor * number)
        if name not in MOVES:
            raise Unread(f"what its map gives goes through {name or node.op} before it meets")
        mapped = fx.node.map_arg((node.args, node.kwargs), lambda one: self.of(one).index if self.depends[one] else self.values[one])
        args, kwargs = mapped
        move: Any = getattr(args[0], str(node.target)) if node.op == "call_method" else node.target
        return replace(first, index=move(*(args[1:] if node.op == "call_method" else args), **kwargs))

    def _through(self, node: fx.Node, moved: Moved) -> Moved:
        path = str(node.target)
        part = self.module.get_submodule(path)
        if isinstance(part, nn.Identity) or (isinstance(part, nn.Dropout) and not part.p):
            return moved
        same = isinstance(self.values[node], Tensor) and isinstance(moved.index, Tensor) and self.values[node].shape == moved.index.shape
        # a norm, or a function without weights; that it does what it is taken for is shown by the check on numbers
        norm = "norm" in type(part).__name__.lower()
        if not same or moved.factor != 1.0 or not (norm or next(part.parameters(), None) is None):
            raise Unread(f"what its map gives goes through {path} before it meets")
        seed = self.seeds[moved.seed]
        ways = {"made": seed, "rows": seed.flatten(0, -2), "turned": seed.mT if seed.ndim == 3 else seed}
        way = next((way for way, index in ways.items() if index.shape == moved.index.shape and torch.equal(index, moved.index)), "")
        if way and not moved.norm:
            return replace(moved, behind=(*moved.behind, (path, way)))
        if norm and not moved.norm:
            return replace(moved, norm=path)
        raise Unread(f"what its map gives goes through {path} after it was cut")


def _are_alike(one: Moved, other: Moved) -> bool:
    """Whether what several maps give can be added: number by number, and nothing done to it yet."""
    bare = not (one.behind or other.behind or one.norm or other.norm) and one.factor == other.factor == 1.0 and not set(one.seeds) & set(other.seeds)
    if not bare or not isinstance(one.index, Tensor) or not isinstance(other.index, Tensor) or not other.index.ndim:
        return False
    return torch.equal(one.index[: len(other.index)], other.index) and len(other.index) in (1, len(one.index))


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(isinstance(one, Tensor) for one in value))


def called(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_function":
        return str(node.args[1]) if node.target is getattr else getattr(node.target, "__name__", "")
    return ""


@dataclass(frozen=True)
class Split:
    """Numbers of a map as heads."""

    rows: tuple[tuple[int, ...], ...]
    """Of each head."""
    places: Tensor
    """Which tokens, ``(B, N)``."""
    batch: tuple[int, ...]
    """Sizes of the axes that are not heads."""
    axis: int | None
    """Which axis of them all the heads are; None where there is none."""
    folded: bool
    """Whether samples and heads are one axis."""

    @property
    def heads(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return len(self.rows[0])

    def back(self, x: Tensor, turned: bool) -> Tensor:
        """``(B, H, N, D)`` in the shape in which the host has its heads."""
        x = x.reshape(*self.batch, *x.shape[1:])
        x = x.squeeze(-3) if self.axis is None else x.movedim(-3, self.axis)
        x = x.flatten(0, 1) if self.folded else x
        return x.mT if turned else x


def split_of(index: Tensor, rows: int, turned: bool, samples: int) -> Split:
    """Heads, tokens and samples, from numbers where queries meet keys.

    Args:
        index: as followed, ``(…, N, D)``.
        rows: R of the map.
        turned: whether it lies ``(…, D, N)``.
        samples: in the batch.

    Raises:
        Unread: no such order.
    """
    index = index.mT if turned else index
    if index.ndim < 3:
        raise Unread("its heads have too few axes")
    folded = index.ndim == 3 and index.shape[0] > samples and index.shape[0] % samples == 0 and _varies(index % rows, 0)
    index = index.unflatten(0, (samples, -1)) if folded else index
    row, place = index % rows, (index / rows).floor()
    lead = range(index.ndim - 2)
    of_heads = [axis for axis in lead if _varies(row, axis)]
    if len(of_heads) > 1 or any(_varies(place, axis) for axis in of_heads):
        raise Unread("its heads lie along several axes")
    axis = of_heads[0] if of_heads else next((one for one in reversed(lead) if index.ndim > 3 and index.shape[one] == 1), None)
    row, place = (part.unsqueeze(-3) if axis is None else part.movedim(axis, -3) for part in (row, place))
    batch = tuple(row.shape[:-3])
    row, place = (part.reshape(-1, *part.shape[-3:]) for part in (row, place))
    if not (row == row[:1, :, :1]).all() or not (place == place[:, :1, :, :1]).all():
        raise Unread("its heads are of other rows from token to token")
    return Split(tuple(tuple(int(one) for one in head) for head in row[0, :, 0].tolist()), place[:, 0, :, 0], batch, axis, folded)


def _varies(x: Tensor, axis: int) -> bool:
    return bool((x != x.narrow(axis, 0, 1)).any())
