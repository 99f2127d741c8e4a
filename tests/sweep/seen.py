"""Every softmax over the last axis that a model runs, with the module that it belongs to: the independent account of its attentions."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Softmax", "called_attentions", "flat", "run", "softmaxes"]

_SOFTMAXES = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)
_PRODUCTS = (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default, torch.ops.aten.mm.default)
NOT_SPATIAL = re.compile(r"channel|xca$|crosscovariance|lambda|linearselfattention|hsmssd|factorattn", re.IGNORECASE)
"""Classes whose softmax makes no map of pairs of tokens: over channels, or of keys alone as in linear attention and lambda layers."""


@dataclass
class Softmax:
    """One softmax, ``(…, Nq, Nk)``, and what of its owner's met values as a map of that size."""

    owner: str
    kind: str
    map: Tensor
    used: list[Tensor]
    factors: list[float]
    """Single numbers that something was multiplied with in its owner before the next: of a difference of maps, how much of the second."""
    of_pairs: bool
    """Whether queries met keys before it: a product of two tensors, neither of them weights, in the same call. Weights over sampled points, of a learned
    pooling, or of a vocabulary come from linear maps alone."""


class _Watch(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack: list[tuple[str, nn.Module]] = []
        self.found: list[Softmax] = []
        self.called: list[str] = []
        self.handles = []
        self.met: list[bool] = []
        """Of every module that runs, whether queries met keys in it."""
        matrices = [value for name, value in model.named_parameters() if value.ndim == 2 or (name.endswith("weight") and value.ndim > 2)]
        self.weights = {value.untyped_storage().data_ptr() for value in matrices}
        for name, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(self._enter(name)))
            self.handles.append(module.register_forward_hook(self._leave, always_call=True))

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append((name, module))
            self.met.append(False)
            self.called.append(name)

        return enter

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self.stack.pop()
        self.met.pop()

    def _owner(self) -> int | None:
        """The innermost module that has weights, by its place in the stack: a softmax or a dropout of its own is only its part."""
        return next((place for place in reversed(range(len(self.stack))) if any(p.ndim > 1 for p in self.stack[place][1].parameters())), None)

    def _meet(self, factors: list[Tensor]) -> None:
        owner = self._owner()
        if owner is not None and not any(one.untyped_storage().data_ptr() in self.weights for one in factors):
            self.met[owner] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _SOFTMAXES:
            owner = self._owner()
            last = args[1] in (-1, out.ndim - 1)
            if owner is not None and out.ndim >= 3 and (last or args[1] in (-2, out.ndim - 2)) and out.shape[-1] > 0 and out.shape[-2] > 0:
                name, module = self.stack[owner]
                # over those who ask it shares out tokens among slots, which is another kind
                self.found.append(Softmax(name, type(module).__name__, out.detach().clone(), [], [], self.met[owner] and last))
        elif func is torch.ops.aten.mul.Tensor and self.found:
            self.found[-1].factors += [float(one) for one in args[:2] if isinstance(one, (int, float)) or one.numel() == 1]
        elif func in _PRODUCTS:
            factors = [one for one in args[-2:] if isinstance(one, Tensor)]
            if self.found and func is torch.ops.aten.bmm.default:
                last, left = self.found[-1], args[0]
                if left.shape[-2:] == last.map.shape[-2:] and len(last.used) < 2:
                    last.used.append(left.detach().clone())
            self._meet(factors)
        return out


def softmaxes(model: nn.Module, inputs: Any) -> tuple[list[Softmax], list[str]]:
    """What ran: softmaxes over the last axis of at least three, and the names of all modules that were called."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    watch = _Watch(model)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), watch:
            _call(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in watch.handles:
            handle.remove()
    return watch.found, watch.called


_NAMED = re.compile(r"attn|attention|mhsa|gpsa|shsa|litemla|^mla|lambda", re.IGNORECASE)


def called_attentions(model: nn.Module, called: list[str]) -> dict[str, str]:
    """Innermost modules that are attentions by the names of their classes, have weights and ran; name to class."""
    modules = dict(model.named_modules())
    names = [
        name for name in dict.fromkeys(called) if name and _NAMED.search(type(modules[name]).__name__) and any(p.ndim > 1 for p in modules[name].parameters())
    ]
    return {name: type(modules[name]).__name__ for name in names if not any(other.startswith(f"{name}.") for other in names)}


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All numbers that the model gives."""
    torch.manual_seed(0)
    with torch.no_grad():
        return flat(_call(model, inputs))


def _call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def flat(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out] if out.is_floating_point() and out.numel() else []
    if isinstance(out, dict):
        return [tensor for value in out.values() for tensor in flat(value)]
    if isinstance(out, (list, tuple)):
        return [tensor for value in out for tensor in flat(value)]
    return [tensor for value in vars(out).values() for tensor in flat(value)] if hasattr(out, "__dataclass_fields__") else []
