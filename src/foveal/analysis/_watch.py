"""Attention as it happens: while a model runs, fused kernels are replaced by the same formula in the open, and each map is handed over.

Nothing is computed twice: the map that is shown is the one that the output was made with, so masks, windows, biases and rotary positions of the host are in it.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..attention import attention_class, list_attentions
from ..convert import find_host
from ..functional import softmax_attention_map

__all__ = ["Watch", "is_ours"]


def is_ours(module: nn.Module) -> bool:
    """Whether this is an attention of ours that shows its own maps."""
    return hasattr(module, "attention_map") and isinstance(module, tuple(attention_class(name) for name in list_attentions()))


class Watch(TorchFunctionMode):
    """Within it, every map of an attention that is not ours is computed in the open.

    Seen are ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention`` wherever they are called, and a softmax over keys where the module is a host that
    conversion knows, or has ``num_heads`` and makes as many maps of just the tokens that it was given: a softmax elsewhere may be anything.

    Args:
        model: what will run.
        wanted: whether to look at the attention of a module; a kernel that is not wanted stays as it is.
        keep: what to do with a map, ``f(module, map)``, ``(B, H, Nq, Nk)``.
        into_ours: look at the kernels in attentions of ours too, which otherwise are left to show their own maps.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[nn.Module], bool], keep: Callable[[nn.Module, Tensor], None], *, into_ours: bool = False) -> None:
        super().__init__()
        self.model, self.wanted, self.keep, self.into_ours = model, wanted, keep, into_ours
        self._running: list[tuple[nn.Module, tuple[int, ...]]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at all that runs within."""
        handles = []
        for module in self.model.modules():
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield
        finally:
            self._running.clear()
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        tokens = args[0] if args else None
        self._running.append((module, tuple(tokens.shape) if isinstance(tokens, Tensor) else ()))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running and self._running[-1][0] is module:
            self._running.pop()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        # not all that comes here can be hashed
        opened = _OPENED.get(func) if callable(func) and getattr(func, "__name__", "") in _NAMES else None
        owner = None if opened is None else self._owner(opened)
        if opened is None or owner is None or not self.wanted(owner[0]):
            return func(*args, **kwargs)
        output, weights = opened(func, *args, **kwargs)
        if weights is not None and (opened is not _softmax or _is_over_tokens(weights, *owner)):
            self.keep(owner[0], weights)
        return output

    def _owner(self, opened: Callable[..., Any]) -> tuple[nn.Module, tuple[int, ...]] | None:
        """The module that the map belongs to."""
        ours = next((entry for entry in self._running if is_ours(entry[0])), None)
        if ours is not None:
            return ours if self.into_ours else None
        if opened is _softmax:
            return next((entry for entry in reversed(self._running) if find_host(entry[0]) is not None or hasattr(entry[0], "num_heads")), None)
        return self._running[-1] if self._running else None


def _sdpa(
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], dim=-3) for part in (key, value))
    weights = softmax_attention_map(query, key, mask=attn_mask, is_causal=is_causal, scale=scale)
    return F.dropout(weights, dropout_p) @ value, weights


_MULTIHEAD = inspect.signature(F.multi_head_attention_forward)


def _multihead(func: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
    bound = _MULTIHEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    asked = dict(bound.arguments)
    output, weights = func(**asked | {"need_weights": True, "average_attn_weights": False})
    given = weights.mean(-3) if asked["average_attn_weights"] else weights
    return (output, given if asked["need_weights"] else None), weights if weights.ndim == 4 else weights[None]


def _softmax(func: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    output = func(*args, **kwargs)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return output, output if output.ndim == 4 and dim in (-1, 3) else None


def _is_over_tokens(weights: Tensor, module: nn.Module, given: tuple[int, ...]) -> bool:
    """Attention between channels has a softmax too; its map is no map of tokens. Tokens are given as ``(B, N, C)``, or on a grid that falls into windows."""
    if len(given) not in (3, 4):
        return find_host(module) is not None
    if weights.shape[1] != (getattr(module, "num_heads", None) or getattr(module, "num_attention_heads", None)):
        return False
    queries, keys = weights.shape[-2:]
    if len(given) == 3:
        return keys == given[1] and queries in (1, keys)
    # a grid that does not fall into windows is padded, which is known of hosts alone
    return queries == keys and (len(weights) * keys == given[0] * given[1] * given[2] or find_host(module) is not None)


_OPENED: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _sdpa,
    F.multi_head_attention_forward: _multihead,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
}
_NAMES = {func.__name__ for func in _OPENED}
