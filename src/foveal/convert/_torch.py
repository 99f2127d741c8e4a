"""PyTorch: ``nn.MultiheadAttention``, wherever it stands. torchvision's vision transformers are made of it."""

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from .._fx import Leaf
from ..attention import TokenAttention
from ._host import Place, register_host
from ._parts import linear_of

__all__ = ["AsMultiheadAttention"]


class AsMultiheadAttention(Leaf):
    """One of our attentions, called as ``nn.MultiheadAttention`` is: the same arguments, masks that are True where a key is left out, and a pair back."""

    in_proj_bias = None
    _qkv_same_embed_dim = False
    """Both are read by ``nn.TransformerEncoderLayer``, which would else go around this module on its own fast path."""

    def __init__(self, attn: TokenAttention, batch_first: bool) -> None:
        super().__init__()
        self.attn, self.batch_first = attn, batch_first
        self.embed_dim, self.num_heads = attn.dim, attn.num_heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As :meth:`torch.nn.MultiheadAttention.forward`; the weights are the ``combined`` map.

        Raises:
            ValueError: keys that are not the values; an input without a batch; what the attention itself cannot do.
        """
        if key is not value:
            raise InputError("a converted attention takes keys and values from one input, and got two; leave this module out of `where`")
        if query.ndim != 3:
            raise InputError(f"a converted attention expects a batch, three dimensions, got {tuple(query.shape)}; add one in front")
        context = None if key is query else key
        if not self.batch_first:
            query = query.transpose(0, 1)
            context = None if context is None else context.transpose(0, 1)
        options: dict[str, Any] = {"attn_mask": self._mask(query, key_padding_mask, attn_mask)}
        if is_causal and attn_mask is None:
            options["is_causal"] = True
        if context is not None:
            options["context"] = context
        out = self.attn(query, **options)
        weights = self.attn.attention_map(query, **options)["combined"] if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _mask(self, query: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        """One mask as ours are: True takes part, or a float that is added."""
        masks = []
        if key_padding_mask is not None:
            masks.append(_inverted(key_padding_mask)[:, None, None])
        if attn_mask is not None:
            # (B · H, Nq, Nk) or (Nq, Nk)
            masks.append(_inverted(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (query.shape[0], -1))))
        if len(masks) < 2:
            return masks[0] if masks else None
        if all(mask.dtype == torch.bool for mask in masks):
            return masks[0] & masks[1]
        first, second = (
            torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else mask
            for mask in masks
        )
        return first + second


def _inverted(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask


_POOLING = {"SiglipMultiheadAttentionPoolingHead", "Siglip2MultiheadAttentionPoolingHead"}
"""Classes of transformers that ask their attention with a query of their own."""


def _read(module: nn.Module, model: nn.Module, name: str) -> Place | None:
    assert isinstance(module, nn.MultiheadAttention), "registered for this class"
    owner = model.get_submodule(name.rpartition(".")[0])
    # in PyTorch's decoder the second attention reads the encoder
    if type(owner).__name__ in _POOLING or (isinstance(owner, nn.TransformerDecoderLayer) and name.endswith("multihead_attn")):
        return None
    if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
        raise InputError(f"{name} has keys or values of another width, bias_k or add_zero_attn, which no attention here has; leave it out of `where`")
    assert module.in_proj_weight is not None, "of one width"
    prefix, grid = _tokens(model, name)
    return Place(
        dim=module.embed_dim,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=linear_of(module.in_proj_weight, module.in_proj_bias),
        proj=linear_of(module.out_proj.weight, module.out_proj.bias),
        attn_drop=module.dropout,
        num_prefix_tokens=prefix,
        grid=grid,
    )


def _tokens(model: nn.Module, name: str) -> tuple[int | None, tuple[int, int] | None]:
    """torchvision's vision transformer has one class token, and images of one size."""
    above = name.split(".")
    for depth in range(len(above) - 1, -1, -1):
        owner = model.get_submodule(".".join(above[:depth]))
        if hasattr(owner, "class_token") and hasattr(owner, "image_size") and hasattr(owner, "patch_size"):
            side = owner.image_size // owner.patch_size  # type: ignore[operator]
            return 1, (side, side)  # type: ignore[return-value]
    return None, None


def _wrap(module: nn.Module, ours: nn.Module) -> nn.Module:
    assert isinstance(ours, TokenAttention), "conversion builds these"
    return AsMultiheadAttention(ours, module.batch_first)  # type: ignore[arg-type]


register_host("torch.nn.modules.activation.MultiheadAttention", _read, _wrap)
