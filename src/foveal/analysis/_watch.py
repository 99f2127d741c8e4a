"""Attention as it happens: while a model runs as it would unwatched, every map in it is handed over, and what has none is noted.

A map that the model makes itself is taken where it meets its values, so that all that was done to it is in it: masks, biases, mixed heads, gates.
Of a kernel that makes none, the map is computed beside it from the same queries, keys and masks.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils.weak import WeakTensorKeyDictionary

from .._errors import InputError
from ..attention import attention_class, list_attentions
from ._axes import CHANNEL, MOVES, UNKNOWN, Axes, Followed, tensors_in
from ._checkpoints import direct_checkpoints, saved_as_it_is
from ._multihead import FAST, function_maps, is_plain, kernel_maps, layer_maps, module_maps
from ._names import Names, looks_like_attention
from ._products import BETWEEN_CHANNELS, PRODUCTS, Product, arranged, product

__all__ = ["Found", "Watch", "is_ours"]

_UNSEEN = (
    "nothing was seen in it that makes a map: no scaled_dot_product_attention, no nn.MultiheadAttention, no product of normalized rows with values; so with "
    "kernels of other packages, gates on channels or pixels, and attention without a map"
)
_SCRIPT = "it is TorchScript, into which nobody can look; load the model as it was written"
_POINTS = "its values are sampled at points that are computed, as in deformable attention: no map of tokens is ever made"
_LOST = "rows were normalized in it, and no product of them with values could be followed"


def is_ours(module: nn.Module) -> bool:
    """Whether this is an attention of ours that shows its own maps."""
    return hasattr(module, "attention_map") and isinstance(module, tuple(attention_class(name) for name in list_attentions()))


@dataclass
class Found:
    """The maps of one product with values."""

    module: nn.Module
    terms: list[Tensor]
    """What met the values: one map, or two with the same values whose outputs were subtracted or added."""
    arrange: Callable[[Tensor], Tensor]
    """A map, or its gradient, as ``(B, H, Nq, Nk)``."""
    weights: list[Any] = field(default_factory=lambda: [1])
    """What the output of each term was multiplied with."""
    signed: tuple[Tensor, Tensor] | None = None
    """The two maps that the one is the difference of, each as ``(B, H, Nq, Nk)``."""
    off_path: bool = False
    """Whether the map was computed beside the output, so that it has no gradient."""

    def maps(self) -> dict[str, Tensor]:
        """By name, ``(B, H, Nq, Nk)``."""
        if self.signed is not None:
            return {"positive": self.signed[0], "negative": self.signed[1], "combined": self.arrange(self.terms[0])}
        if len(self.terms) == 1:
            return {"combined": self.arrange(self.terms[0])}
        combined = sum(weight * term for weight, term in zip(self.weights, self.terms, strict=True))
        assert isinstance(combined, Tensor), "there are two"
        return {"positive": self.arrange(self.terms[0]), "negative": self.arrange(self.terms[1]), "combined": self.arrange(combined)}


@dataclass
class _Call:
    """A module that is running."""

    module: nn.Module
    batch: int | None
    found: list[Found] = field(default_factory=list)
    inner: set[nn.Module] = field(default_factory=set)
    turned: bool = False
    """Whether watching of functions was switched when it began, and is to be switched back."""


@dataclass
class _Output:
    """The product that an output is, or is a multiple of."""

    call: _Call
    found: Found
    values: Tensor
    weight: Any = 1


class Watch(TorchFunctionMode):
    """Within :meth:`watching`, all attention in a model is seen.

    Args:
        names: of the model that will run.
        wanted: whether to look at the attention of a module.
        keep: what to do with the maps, ``f(found)``, called when the module that they belong to has ended.
        ours: what to do with an attention of ours that has ended, ``f(module, args, kwargs)``; if None, the kernels in it are looked at as in others.
        in_path: have kernels compute in the open, so that maps lie on the path of gradients. The run then is another than the unwatched one by rounding.
    """

    def __init__(
        self,
        names: Names,
        wanted: Callable[[nn.Module], bool],
        keep: Callable[[Found], None],
        *,
        ours: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None] | None,
        in_path: bool = False,
    ) -> None:
        super().__init__()
        self._ours = {module for module in names.model.modules() if is_ours(module)}
        self._attends = self._ours | {module for module in names.model.modules() if looks_like_attention(module)}
        self.names, self.wanted, self.keep, self.ours, self.in_path = names, wanted, keep, ours, in_path
        self.ran: dict[nn.Module, None] = {}
        self.seen: set[nn.Module] = set()
        self.reasons: dict[nn.Module, str] = {}
        self._paused = False
        self._running: list[_Call] = []
        self._followed = Followed()
        self._outputs: Any = WeakTensorKeyDictionary()
        self._sampled: Any = WeakTensorKeyDictionary()
        self._on = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at all that runs within."""
        hidden = {part for module in self.names.model.modules() if _is_script(module) for part in module.modules() if part is not module}
        # the forward of a compiled module stands around that of another, and the parts of a script have none in Python
        before = {
            module: module.__dict__.get("forward") for module in self.names.model.modules() if module not in hidden and "_orig_mod" not in module._modules
        }
        # not by hooks: PyTorch's encoders leave their fast path where a module in them has one
        for module in before:
            module.__dict__["forward"] = self._around(module, module.forward)
        self._switch(True)
        try:
            with direct_checkpoints() if self.in_path else nullcontext():
                yield
        finally:
            self._switch(False)
            for module, forward in before.items():
                del module.__dict__["forward"]
                if forward is not None:
                    module.__dict__["forward"] = forward

    def missing(self) -> dict[nn.Module, str]:
        """Attentions that ran without a map being seen, and why: the innermost ones, in the order in which they first ran."""
        inside = {module: set(module.modules()) for module in self.ran}
        parts = {part for module in self.seen & self._attends for part in inside.get(module, ())}
        suspects = [module for module in self.ran if module in self._attends and not inside[module] & self.seen and module not in parts]
        innermost = [module for module in suspects if not any(other is not module and other in inside[module] for other in suspects)]
        return {module: next((self.reasons[part] for part in self.ran if part in inside[module] and part in self.reasons), _UNSEEN) for module in innermost}

    def _switch(self, on: bool) -> bool:
        """Watch functions or not; whether that is new."""
        # within a mode of the model's own nothing is switched: only the last that began can end
        if self._on == on or (self._on and _get_current_function_mode() is not self):
            return False
        self._on = on
        if on:
            self.__enter__()
        else:
            self.__exit__(None, None, None)
        return True

    def _around(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._paused:
                return forward(*args, **kwargs)
            call = self._begin(module, (args, kwargs))
            with saved_as_it_is() if self.in_path else nullcontext():
                try:
                    output = forward(*args, **kwargs)
                finally:
                    self._running.pop()
                    if call.turned:
                        self._switch(not self._on)
            self._end(call, args, kwargs, output)
            return output

        return run

    def _begin(self, module: nn.Module, given: Any) -> _Call:
        call = _Call(module, next((len(x) for x in tensors_in(given) if x.ndim > 1 and not x.is_nested), None))
        if self._running:
            self._running[-1].inner.add(module)
        self._running.append(call)
        self.ran.setdefault(module)
        if _is_script(module):
            self.ran |= dict.fromkeys(module.modules())
            self.reasons |= dict.fromkeys(self._attends.intersection(module.modules()), _SCRIPT)
        if is_plain(module) and not self.in_path:
            call.turned = self._switch(False)
        elif not isinstance(module, FAST) and not type(module).__module__.startswith("torch.nn."):
            call.turned = self._switch(True)
        return call

    def _end(self, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._paused = True
        was_on = self._switch(False)
        try:
            if not any(outer.module in self._ours for outer in self._running):
                self._own(call, args, kwargs, output)
            found, call.found = call.found, []
            while found:
                self.keep(found.pop(0))
        finally:
            self._paused = False
            if was_on:
                self._switch(True)

    def _own(self, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The maps of modules that are asked for them when they have ended."""
        module = call.module
        if module in self._ours and self.ours is not None:
            if getattr(module, "of_channels", False):
                self.reasons[module] = BETWEEN_CHANNELS
                return
            try:
                if self.wanted(module):
                    self.ours(module, args, kwargs)
                self.seen.add(module)
            except InputError as error:
                self.reasons[module] = str(error)
        elif is_plain(module) and not self.in_path:
            if isinstance(module, nn.MultiheadAttention):
                self._beside(call, module, lambda: module_maps(module, args, kwargs, output))
            elif isinstance(module, nn.TransformerEncoderLayer) and module.self_attn not in call.inner and isinstance(module.self_attn, nn.MultiheadAttention):
                self.ran.setdefault(module.self_attn)
                self._beside(call, module.self_attn, lambda: layer_maps(module, args, kwargs, output))
            for x in tensors_in(output):
                if x.ndim > 1 and not x.is_nested:
                    self._followed.put(x, Axes((UNKNOWN,) * (x.ndim - 1) + (CHANNEL,)))

    def _beside(self, call: _Call, module: nn.Module, maps: Callable[[], Tensor]) -> None:
        self.seen.add(module)
        if self.wanted(module):
            call.found.append(Found(module, [maps()], lambda x: x, off_path=True))

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self._paused or not self._running:
            return func(*args, **kwargs)
        with saved_as_it_is() if self.in_path else nullcontext():
            return self._watched(getattr(func, "__name__", ""), func, args, kwargs)

    def _watched(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "scaled_dot_product_attention":
            return self._kernel(func, args, kwargs)
        if name == "multi_head_attention_forward":
            return self._multihead(func, args, kwargs)
        if name in PRODUCTS:
            return self._product(name, func, args, kwargs)
        out = func(*args, **kwargs)
        self._followed.follow(name, func, args, kwargs, out)
        self._combine(name, args, out)
        if name == "grid_sample" or (name in MOVES and any(x in self._sampled for x in tensors_in(args))):
            self._sampled |= dict.fromkeys(tensors_in(out), True)
        if name == "grid_sample" and (call := self._owner()) is not None:
            self._refuse(call, _POINTS)
        if name == "softmax" and (call := self._owner()) is not None:
            self.reasons.setdefault(call.module, _LOST)
        return out

    def _owner(self) -> _Call | None:
        """The call that a map belongs to; None where an attention of ours shows its own."""
        outer = next((call for call in self._running if call.module in self._ours), None)
        if outer is not None:
            return outer if self.ours is None else None
        for call in reversed(self._running):
            if call.module in self._attends or next(call.module.parameters(), None) is not None:
                return call
        return self._running[-1]

    def _refuse(self, call: _Call, reason: str) -> None:
        """The first reason is the cause of the others."""
        if self.reasons.get(call.module, _LOST) == _LOST:
            self.reasons[call.module] = reason

    def _found(self, call: _Call, found: Found, values: Tensor, output: Any) -> None:
        self.seen.add(call.module)
        call.found.append(found)
        if isinstance(output, Tensor):
            self._outputs[output] = _Output(call, found, values)

    def _kernel(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._owner()
        query, value = (args[place] if len(args) > place else kwargs[key] for place, key in ((0, "query"), (2, "value")))
        between = self._followed.labels(value)[-2] == CHANNEL
        weights: Tensor | None = None
        if call is None or between or not self.wanted(call.module):
            output = func(*args, **kwargs)
        elif self.in_path:
            output, weights = _opened(*args, **kwargs)
        else:
            output, weights = func(*args, **kwargs), kernel_maps(*args, **kwargs)
        self._followed.put(output, Axes((*self._followed.labels(query)[:-1], CHANNEL)))
        if call is not None and between:
            self._refuse(call, BETWEEN_CHANNELS)
        elif call is not None and weights is None:
            self.seen.add(call.module)
        elif call is not None and weights is not None:
            axes = Axes((*self._followed.labels(query)[:-1], UNKNOWN), weights.ndim - 1, True)
            where = Product(weights, axes, (weights.ndim - 2,), weights.ndim - 1, value, value.ndim - 2)
            self._found(call, Found(call.module, [weights], arranged(where, call.module, call.batch)), value, output)
        return output

    def _multihead(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        call = self._owner()
        if call is not None:
            self._beside(call, call.module, lambda: function_maps(func, args, kwargs, output))
        return output

    def _product(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        found = product(self._followed, name, args, kwargs, out)
        call = self._owner()
        if found is None or call is None:
            return out
        # elsewhere than in an attention only a softmax over what layers made is one: an expectation over fixed places is none
        if call.module not in self._attends and not (found.axes.normalized and self._followed.get(found.values) is not None):
            return out
        if reason := _POINTS if found.values in self._sampled else found.refused(self._followed):
            self._refuse(call, reason)
            return out
        if not self.wanted(call.module):
            self.seen.add(call.module)
            return out
        if self.in_path and not found.operand.requires_grad:
            leaf = found.operand.detach().requires_grad_()
            args, kwargs = _exchanged(args, found.operand, leaf), _exchanged(kwargs, found.operand, leaf)
            known = self._followed.get(out)
            found, out = replace(found, operand=leaf), func(*args, **kwargs)
            if known is not None:
                self._followed.put(out, known)
        made = Found(call.module, [found.operand], arranged(found, call.module, call.batch))
        if (signed := found.axes.signed) is not None and all(x.shape == found.operand.shape for x in signed):
            made.signed = (made.arrange(signed[0]), made.arrange(signed[1]))
        self._found(call, made, found.values, out)
        return out

    def _combine(self, name: str, args: Sequence[Any], out: Any) -> None:
        """Outputs of two maps on the same values that are subtracted are the output of one signed map."""
        terms = [self._outputs.get(x) if isinstance(x, Tensor) else None for x in args[:2]]
        if not any(terms) or not isinstance(out, Tensor):
            return
        first, second = terms if len(terms) == 2 else (*terms, None)
        if name in ("mul", "__mul__", "__rmul__", "multiply") and (first is None) != (second is None):
            known, factor = (first, args[1]) if first is not None else (second, args[0])
            if known is not None and (not isinstance(factor, Tensor) or not factor.ndim or (factor.ndim <= out.ndim and set(factor.shape[-2:]) == {1})):
                self._outputs[out] = replace(known, weight=known.weight * factor)
        elif name in ("sub", "__sub__", "subtract") and first is not None and second is not None and _same(first.values, second.values):
            one, other = first.found, second.found
            if first.call is second.call and one is not other and len(one.terms) == len(other.terms) == 1 and one.terms[0].shape == other.terms[0].shape:
                both = Found(one.module, [one.terms[0], other.terms[0]], one.arrange, [first.weight, -1 * second.weight])
                place = first.call.found.index(one)
                first.call.found[place : place + 1] = [both]
                first.call.found.remove(other)


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride())


def _opened(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **options: Any) -> tuple[Tensor, Tensor]:
    weights = kernel_maps(query, key, value, attn_mask, **options)
    if options.get("enable_gqa"):
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
    weights = weights if weights.requires_grad else weights.detach().requires_grad_()
    return F.dropout(weights, dropout_p) @ value, weights


def _exchanged(given: Any, before: Tensor, after: Tensor) -> Any:
    if isinstance(given, dict):
        return {name: _exchanged(value, before, after) for name, value in given.items()}
    if isinstance(given, (tuple, list)):
        return type(given)(_exchanged(value, before, after) for value in given)
    return after if given is before else given
