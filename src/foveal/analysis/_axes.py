"""What the axes of a tensor are, followed through the functions that a model calls: which come from channels, and over which one the rows of a map run.

An attention that somebody wrote by hand is known by this alone: its map is what is multiplied with values over the axis that was normalized.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["CHANNEL", "MIXED", "MOVES", "OTHER", "UNKNOWN", "Axes", "Followed", "is_parameter", "tensors_in"]

CHANNEL, OTHER, MIXED, UNKNOWN = "c", "t", "m", "?"
"""An axis of features that a linear map or convolution made; one of tokens or pixels; one of both, as batch and heads; one of which nothing is known."""


@dataclass(frozen=True)
class Axes:
    """What is known of a tensor."""

    labels: tuple[str, ...]
    key: int | None = None
    """The axis that rows of a map run over, where this is a map."""
    normalized: bool = False
    """Whether rows went through a softmax; if not, every query met every key and no more is known."""
    lead: tuple[tuple[int, ...], tuple[str, ...]] = ((), ())
    """Sizes and labels before queries and keys when heads were last seen apart from the batch."""
    signed: tuple[Tensor, Tensor] | None = None
    """The two maps whose difference this is."""
    unscaled: Tensor | None = None
    """The map that this is a multiple of."""


class Followed:
    """The axes of all tensors that are alive."""

    def __init__(self) -> None:
        self._axes: Any = WeakTensorKeyDictionary()
        self._sums: Any = WeakTensorKeyDictionary()

    def get(self, x: Any) -> Axes | None:
        return self._axes.get(x) if isinstance(x, Tensor) else None

    def labels(self, x: Tensor) -> tuple[str, ...]:
        axes = self.get(x)
        return axes.labels if axes is not None else (UNKNOWN,) * x.ndim

    def put(self, x: Tensor, axes: Axes) -> None:
        if axes.key is None:
            axes = Axes(axes.labels)
        elif axes.key == x.ndim - 1 and x.ndim > 2:
            sizes = tuple(x.shape[:-2])
            if x.ndim > 3 or math.prod(axes.lead[0]) != math.prod(sizes):
                axes = replace(axes, lead=(sizes, axes.labels[:-2]))
        self._axes[x] = axes

    def follow(self, name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """Note what comes out of ``func``, of which products of tensors are not asked here."""
        if name in _LAYERS:
            self._layer(name, args, kwargs, out)
        elif name in _VIEWS:
            self._view(func, args, kwargs, out)
        elif name in _TURNS or (name == "__get__" and getattr(func, "__self__", None) in _TURNED):
            self._view(func, args, kwargs, out, turns=True)
        elif name in _JOINED:
            self._joined(name, args, kwargs, out)
        elif name == "softmax":
            self._softmax(args, kwargs, out)
        elif name != "__get__":
            if name in _SUMS:
                self._sum(args, kwargs, out)
            self._pointwise(name, args, kwargs, out)

    def _layer(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or not isinstance(out, Tensor):
            return
        axes = self.get(x) or Axes((UNKNOWN,) * x.ndim)
        # a convolution of one image comes without a batch
        channel = x.ndim - 1 if name == "linear" else x.ndim - 1 - int(name[-2])
        if channel < 0:
            return
        labels = list(axes.labels)
        # tokens mixed by a linear map are still no channels; nor is what stands beside channels that are known, and did not come from them
        mixes = axes.labels[channel] == OTHER or (axes.labels[channel] == UNKNOWN and CHANNEL in axes.labels)
        labels[channel] = OTHER if name == "linear" and mixes else CHANNEL
        if name != "linear":
            labels = [label if place <= channel else OTHER for place, label in enumerate(labels)]
        keep = axes.key is not None and axes.key != channel and x.shape[axes.key] == out.shape[axes.key]
        self.put(out, replace(axes, labels=tuple(labels), key=axes.key if keep else None, signed=None, unscaled=None))

    def _view(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any, turns: bool = False) -> None:
        axes = self.get(args[0]) if args else None
        index = args[1] if len(args) > 1 else None
        if axes is None or (func is Tensor.__getitem__ and not all(_is_plain(part) for part in (index if isinstance(index, tuple) else (index,)))):
            return
        # strides do not tell axes of one entry apart, and where axes only change places sizes do not matter
        blank = torch.empty([2] * args[0].ndim if turns else args[0].shape, device="meta")
        views = func(blank, *args[1:], **kwargs)
        for view, real in zip(*([views], [out]) if isinstance(views, Tensor) else (views, out), strict=True):
            if view._base is blank or view is blank:
                self.put(real, _seen_through(axes, blank, view))

    def _joined(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        parts = args[0] if args else kwargs.get("tensors", ())
        first = next((axes for part in parts if (axes := self.get(part)) is not None), None)
        if first is None or not isinstance(out, Tensor):
            return
        labels, key = first.labels, first.key
        if name == "stack":
            place = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
            labels = (*labels[:place], UNKNOWN, *labels[place:])
            key = None if key is None else key + (place <= key)
        if len(labels) == out.ndim:
            self.put(out, replace(first, labels=labels, key=key, signed=None, unscaled=None))

    def _softmax(self, args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(dim, int) and out.ndim > 1:
            before = self.get(args[0]) if args else None
            lead = ((), ()) if before is None else before.lead
            self.put(out, Axes(self.labels(args[0]) if args else (UNKNOWN,) * out.ndim, dim % out.ndim, True, lead))

    def _sum(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dim = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
        if isinstance(dim, int) and isinstance(out, Tensor) and out.ndim == args[0].ndim:
            self._sums[out] = weakref.ref(args[0]), dim % out.ndim

    def _pointwise(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        given = [x for x in tensors_in((args, kwargs)) if x.ndim]
        if not given:
            return
        if isinstance(out, Tensor):
            for x in given:
                if x in self._sums and out.shape == x.shape:
                    self._sums[out] = self._sums[x]
        for result in tensors_in(out):
            axes = self._merged(name, given, args, result)
            if axes is not None:
                self.put(result, axes)

    def _merged(self, name: str, given: list[Tensor], args: Sequence[Any], out: Tensor) -> Axes | None:
        labels, found, apart = [UNKNOWN] * out.ndim, None, False
        for x in given:
            axes, offset = self.get(x), out.ndim - x.ndim
            if axes is None or offset < 0 or (offset and not _fits(x.shape, out.shape[offset:])):
                continue
            for place, label in enumerate(axes.labels, offset):
                if labels[place] == UNKNOWN and x.shape[place - offset] > 1:
                    labels[place] = label
            if axes.key is not None and x.shape[axes.key] == out.shape[offset + axes.key] and found is None:
                found = replace(axes, key=offset + axes.key)
            # what is weighted by a map, or stands beside it in a residual, is no map
            apart = apart or (axes.key is None and x.shape == out.shape)
        if name in _DIVISIONS and len(args) > 1 and isinstance(args[1], Tensor) and args[1] in self._sums:
            whole, dim = self._sums[args[1]]
            # of what is not known to be of pairs, shares are no map
            if whole() is args[0] and found is not None:
                return Axes(tuple(labels), dim, True, found.lead)
        if found is None or apart:
            return Axes(tuple(labels)) if set(labels) != {UNKNOWN} else None
        return replace(found, labels=tuple(labels), **self._multiple(name, given, args))

    def _multiple(self, name: str, given: list[Tensor], args: Sequence[Any]) -> dict[str, Any]:
        """Which maps a difference is one of, and of which map a multiple is one."""
        mapped = [x for x in given if (axes := self.get(x)) is not None and axes.key is not None]
        if name in _DIFFERENCES and len(mapped) == 2 and mapped[0].shape == mapped[1].shape and mapped[0] is args[0]:
            first, second = (self._axes[x].unscaled if self._axes[x].unscaled is not None else x for x in mapped)
            return {"signed": (first, second), "unscaled": None}
        if name in _MULTIPLES and len(mapped) == 1:
            return {"unscaled": mapped[0]}
        # a norm, a dropout, a conversion of a difference is one still; of a multiple it would no longer be known of what
        return {"unscaled": None} if len(mapped) == 1 else {"signed": None, "unscaled": None}


def _seen_through(axes: Axes, blank: Tensor, view: Tensor) -> Axes:
    """The axes of a view, told by its strides over a tensor whose every axis has its own range of them."""
    sizes, strides = blank.shape, blank.stride()
    sources = [[i for i, (n, s) in enumerate(zip(sizes, strides, strict=True)) if n > 1 and s < step * size and step < s * n] for size, step in _steps(view)]
    labels, key = [], None
    for place, found in enumerate(sources):
        known = {axes.labels[i] for i in found}
        # expanded, or one single entry
        labels.append(OTHER if view.stride(place) == 0 else known.pop() if len(known) == 1 else MIXED if CHANNEL in known else UNKNOWN)
        if found == [axes.key] and view.stride(place) == strides[found[0]] and sum(axes.key in other for other in sources) == 1:
            key = place
    if key is None and axes.key == blank.ndim - 1 and sizes[-1] == view.shape[-1] == 1:
        key = view.ndim - 1
    return replace(axes, labels=tuple(labels), key=key, signed=None, unscaled=None) if key is not None else Axes(tuple(labels))


def _steps(view: Tensor) -> Iterator[tuple[int, int]]:
    return ((size, step) if size > 1 and step else (0, 1) for size, step in zip(view.shape, view.stride(), strict=True))


def _is_plain(index: Any) -> bool:
    return index is None or index is Ellipsis or isinstance(index, (int, slice))


def _fits(small: Sequence[int], large: Sequence[int]) -> bool:
    return all(s in (1, n) for s, n in zip(small, large, strict=True))


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def is_parameter(x: Tensor) -> bool:
    """Or a view of one."""
    return isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter)


def _names(words: str, more: Iterable[str] = ()) -> frozenset[str]:
    return frozenset((*words.split(), *more))


_LAYERS = _names("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
_VIEWS = _names(
    "view reshape flatten unflatten unbind chunk split split_with_sizes tensor_split narrow select expand expand_as squeeze unsqueeze view_as reshape_as "
    "unfold __getitem__"
)
_TURNS = _names("permute transpose swapaxes swapdims movedim moveaxis t adjoint")
_TURNED = (Tensor.T, Tensor.mT, Tensor.H, Tensor.mH)
_JOINED = _names("cat concat concatenate stack")
MOVES = _VIEWS | _TURNS | _JOINED
"""Functions that only move numbers."""
_SUMS = _names("sum")
_DIVISIONS = _names("div div_ divide true_divide __truediv__ __itruediv__")
_DIFFERENCES = _names("sub sub_ subtract __sub__ __isub__")
_MULTIPLES = _names("mul mul_ multiply __mul__ __rmul__ __imul__")
