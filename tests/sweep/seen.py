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
NOT_SPATIAL = re.compile(r"channel|xca$|crosscovariance|lambda|linearselfattention|hsmssd|factorattn", re.IGNORECASE)
"""Classes whose softmax makes no map of pairs of tokens: over channels, or of keys alone as in linear attention and lambda layers."""


@dataclass
class Softmax:
    """One softmax, ``(…, Nq, Nk)``, and what of its owner's met values as a map of that size."""

    owner: str
    kind: str
    map: Tensor
    used: list[Tensor]


class _Watch(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack: list[tuple[str, nn.Module]] = []
        self.found: list[Softmax] = []
        self.called: list[str] = []
        self.handles = []
        for name, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(self._enter(name)))
            self.handles.append(module.register_forward_hook(self._leave, always_call=True))

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append((name, module))
            self.called.append(name)

        return enter

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self.stack.pop()

    def _owner(self) -> tuple[str, nn.Module] | None:
        """The innermost module that has weights: a softmax or a dropout of its own is only its part."""
        return next(((name, module) for name, module in reversed(self.stack) if any(p.ndim > 1 for p in module.parameters())), None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _SOFTMAXES:
            owner = self._owner()
            if owner is not None and out.ndim >= 3 and args[1] in (-1, out.ndim - 1) and out.shape[-1] > 1 and out.shape[-2] > 0:
                self.found.append(Softmax(owner[0], type(owner[1]).__name__, out.detach().clone(), []))
        elif func is torch.ops.aten.bmm.default and self.found:
            last, left = self.found[-1], args[0]
            if left.shape[-2:] == last.map.shape[-2:] and len(last.used) < 2:
                last.used.append(left.detach().clone())
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
