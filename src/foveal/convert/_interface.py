"""transformers 5: attentions without parameters, by name. ``model.set_attn_implementation("foveal_linear")`` needs no conversion and keeps every weight."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .._errors import InputError, missing_extra
from ..functional import efficient_attention, efficient_attention_map, linear_attention, linear_attention_map, softmax_attention, softmax_attention_map

__all__ = ["register_attention_functions"]

_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], bool]] = {
    "foveal_softmax": (softmax_attention, softmax_attention_map, True),
    "foveal_efficient": (efficient_attention, efficient_attention_map, False),
    "foveal_linear": (linear_attention, linear_attention_map, False),
}
"""Function, its map, and whether it has pairs: those without take a mask of keys alone, and divide by what their papers divide by."""


def register_attention_functions() -> list[str]:
    """Enter the attentions that are functions of queries, keys and values alone into transformers' ``AttentionInterface``, each with its mask.

    After it ``model.set_attn_implementation(name)`` takes the names that are returned, for all towers that go through the interface. Maps are returned where
    ``output_attentions=True`` reaches the attention.

    Returns:
        ``foveal_softmax``, ``foveal_efficient`` and ``foveal_linear``.

    Raises:
        ValueError: transformers is not installed. In a forward pass: causality, fewer heads of keys than of queries, or a mask per query, where the attention
            cannot have it.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise missing_extra("transformers", "hf", "attention functions of transformers") from error
    for name, (_, _, of_pairs) in _FUNCTIONS.items():
        AttentionInterface.register(name, _Function(name))
        # without a mask function of the same name transformers gives no mask, and says nothing
        AttentionMaskInterface.register(name, sdpa_mask if of_pairs else _mask_of_keys)
    return list(_FUNCTIONS)


class _Function:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, N, H, D)``, and the map ``(B, H, N, N)`` where it is asked for."""
        function, function_map, of_pairs = _FUNCTIONS[self.name]
        if key.shape[1] != query.shape[1]:
            raise InputError(f"{self.name} expects as many heads of keys as of queries, got {key.shape[1]} and {query.shape[1]}")
        causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal) and attention_mask is None and query.shape[2] > 1
        if causal and not of_pairs:
            raise InputError(f"{self.name} cannot be causal: all queries read one summary of all keys; use foveal_softmax")
        options: dict[str, Any] = {"mask": attention_mask}
        if of_pairs:
            options |= {"is_causal": causal, "scale": scaling}
        out = function(query, key, value, dropout_p=dropout, **options).transpose(1, 2).contiguous()
        options.pop("scale", None)
        return out, function_map(query, key, **options) if kwargs.get("output_attentions") else None


def _mask_of_keys(*, attention_mask: Tensor | None = None, mask_function: Any = None, **kwargs: Any) -> Tensor | None:
    """``(B, 1, 1, Nk)``, True where a key takes part."""
    from transformers.masking_utils import bidirectional_mask_function

    if mask_function is not bidirectional_mask_function:
        raise InputError("an attention through one summary of all keys has no mask per query, as causal or sliding ones; use foveal_softmax")
    return None if attention_mask is None else attention_mask[:, None, None].bool()
