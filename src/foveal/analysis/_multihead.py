"""The maps of PyTorch's own attention, asked for beside the run: with ``need_weights`` the run itself would take another path, with other numbers.

Shapes     B batch, H heads, Nq queries, Nk keys, E width
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional._kernel import kernel_logits

__all__ = ["FAST", "function_maps", "is_plain", "kernel_maps", "layer_maps", "module_maps"]

FAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that compute in another way where somebody watches the functions they call."""
_FORWARD = inspect.signature(nn.MultiheadAttention.forward)
_FUNCTION = inspect.signature(F.multi_head_attention_forward)
_LAYER = inspect.signature(nn.TransformerEncoderLayer.forward)


def is_plain(module: nn.Module, kinds: type | tuple[type, ...] = FAST) -> bool:
    """Whether it is one of PyTorch's modules, computing as PyTorch does."""
    return isinstance(module, kinds) and any(type(module).forward is kind.forward for kind in FAST)


def module_maps(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
    """``(B, H, Nq, Nk)``: the map that ``output`` was made with."""
    asked = _FORWARD.bind(module, *args, **kwargs)
    asked.apply_defaults()
    given = dict(asked.arguments)
    if given["query"].is_nested:
        return _nested_maps(module, given["query"])
    weights = nn.MultiheadAttention.forward(**given | {"need_weights": True, "average_attn_weights": False})[1]
    assert weights is not None, "they were asked for"
    return _as_run(weights, output[0] if module.batch_first else output[0].transpose(0, -2), given["need_weights"])


def layer_maps(layer: nn.TransformerEncoderLayer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """The map of an encoder layer's self attention where one kernel computed the whole layer."""
    asked = _LAYER.bind(layer, *args, **kwargs)
    asked.apply_defaults()
    src, mask, padding = (asked.arguments[name] for name in ("src", "src_mask", "src_key_padding_mask"))
    if src.is_nested:
        return _nested_maps(layer.self_attn, src, layer.norm1 if layer.norm_first else None)
    tokens = layer.norm1(src) if layer.norm_first else src
    given: dict[str, Any] = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": True, "average_attn_weights": False}
    weights = nn.MultiheadAttention.forward(layer.self_attn, tokens, tokens, tokens, **given)[1]
    assert weights is not None, "they were asked for"
    return _as_run(weights, output if layer.self_attn.batch_first else output.transpose(0, -2), False)


def function_maps(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
    """Of a call of ``F.multi_head_attention_forward``."""
    asked = _FUNCTION.bind(*args, **kwargs)
    asked.apply_defaults()
    given = dict(asked.arguments)
    weights = func(**given | {"need_weights": True, "average_attn_weights": False, "training": False})[1]
    return _as_run(weights, output[0].transpose(0, -2), given["need_weights"])


def _as_run(weights: Tensor, output: Tensor, asked: bool) -> Tensor:
    """A query without a key is zero on every path but that of a caller who asks for the map, where it is NaN as its output is."""
    weights = weights if weights.ndim == 4 else weights[None]
    if asked:
        return weights
    output = output if output.ndim == 3 else output[None]
    return torch.where(output.isfinite().all(-1)[:, None, :, None], weights.nan_to_num(nan=0.0), weights)


def _nested_maps(attention: nn.MultiheadAttention, tokens: Tensor, norm: nn.Module | None = None) -> Tensor:
    """Of samples of different lengths: padded, where those that are not there neither ask nor are asked."""
    padded = torch.nested.to_padded_tensor(tokens, 0.0)
    padded = padded if norm is None else norm(padded)
    lengths = torch.tensor([len(sample) for sample in tokens.unbind()], device=padded.device)
    absent = torch.arange(padded.shape[1], device=padded.device) >= lengths[:, None]
    weights = nn.MultiheadAttention.forward(attention, padded, padded, padded, key_padding_mask=absent, need_weights=True, average_attn_weights=False)[1]
    assert weights is not None, "they were asked for"
    return weights.masked_fill(absent[:, None, :, None], 0.0)


def kernel_maps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The map of ``F.scaled_dot_product_attention``, ``(…, Nq, Nk)``, in the precision that its kernels compute it in."""
    logits = kernel_logits(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    weights = logits.softmax(-1)
    if attn_mask is not None:
        # the kernels give zero to who may look at nothing
        weights = weights.masked_fill((logits == float("-inf")).all(-1, keepdim=True), 0.0)
    return weights.to(query.dtype)
