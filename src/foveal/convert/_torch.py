"""PyTorch: ``nn.MultiheadAttention``, wherever it stands. torchvision's and open_clip's vision transformers are made of it, and DETR's family."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from .._fx import Leaf
from ..attention import TokenAttention
from ..attention._apart import Apart
from ..attention._base import Context
from ._called import how_called
from ._host import Place, register_host
from ._layouts import causal_mask_above, tokens_of
from ._parts import Copied, linear_of

__all__ = ["AsMultiheadAttention"]


class AsMultiheadAttention(Leaf):
    """One of our attentions, called as ``nn.MultiheadAttention`` is: the same arguments, masks that are True where a key is left out, and a pair back.

    A nested tensor, which PyTorch's encoder makes of padded samples in inference, is padded here and comes back nested.
    """

    _qkv_same_embed_dim = False
    """Read by ``nn.TransformerEncoderLayer``, which would else go around this module on its own fast path."""
    place_name = ""

    def __init__(self, attn: TokenAttention, batch_first: bool) -> None:
        super().__init__()
        self.attn, self.batch_first = attn, batch_first
        self.embed_dim, self.num_heads = attn.dim, attn.num_heads

    # -- what PyTorch's encoder asks of its first layer before it makes a nested tensor: whether gradients are wanted ---------------------------------

    @property
    def in_proj_weight(self) -> Tensor:
        """Without any numbers: whoever wants them finds out."""
        asks = any(value.requires_grad for value in self.attn.parameters())
        like = next((value for value in (*self.attn.parameters(), *self.attn.buffers()) if value.is_floating_point()), torch.empty(0))
        return like.new_empty(0).requires_grad_(asks)

    @property
    def in_proj_bias(self) -> Tensor:
        return self.in_proj_weight

    @property
    def out_proj(self) -> Any:
        """Of an attention of the user's own, which need not have one, something with as few numbers."""
        own = getattr(self.attn, "proj", None)
        return own if hasattr(own, "weight") and hasattr(own, "bias") else SimpleNamespace(weight=self.in_proj_weight, bias=self.in_proj_bias)

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
        """As :meth:`torch.nn.MultiheadAttention.forward`; the weights are the ``combined`` map, without dropout.

        Raises:
            ValueError: values of other tokens than keys, where the attention cannot have it; what the attention itself cannot do.
        """
        if query.is_nested:
            return self._of_nested(query, key, value, key_padding_mask, need_weights, attn_mask)
        if key is not value and not self.attn.takes_values_apart:
            raise InputError(
                f"{self.place_name or 'a converted attention'} is asked for values of other tokens than its keys, as where positions are added to queries and "
                f"keys alone, which {self.attn.name} attention cannot have; use softmax or denoising attention there, or leave it out of `where`"
            )
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            shapes = ", ".join(str(tuple(part.shape)) for part in (query, key, value))
            raise InputError(
                f"{self.place_name or 'a converted attention'} expects (N, C), or with a batch three dimensions, of queries, keys and values; got {shapes}"
            )
        alone = query.ndim == 2
        inputs = {id(part): part[None] if alone else part if self.batch_first else part.transpose(0, 1) for part in (query, key, value)}
        tokens, keys, values = (inputs[id(part)] for part in (query, key, value))
        if alone and key_padding_mask is not None:
            key_padding_mask = key_padding_mask[None]
        options: dict[str, Any] = {"attn_mask": self._mask(tokens, key_padding_mask, attn_mask)}
        if is_causal and attn_mask is None:
            options["is_causal"] = True
        context: Context | None = (keys, values) if keys is not values else None if keys is tokens else keys
        if context is not None:
            options["context"] = context
        out = self.attn(tokens, **options)
        weights = self.attn.attention_map(tokens, **options)["combined"] if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if alone:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _of_nested(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None, need_weights: bool, attn_mask: Tensor | None
    ) -> tuple[Tensor, None]:
        """As PyTorch's fast path takes it: self-attention, batch first, without masks or weights."""
        plain = query is key is value and query.layout == torch.strided and self.batch_first
        if not plain or need_weights or key_padding_mask is not None or attn_mask is not None:
            raise InputError(
                f"{self.place_name or 'a converted attention'} takes a nested tensor as PyTorch's encoder gives it: the same one as query, key and value, of "
                "layout torch.strided, batch first, with need_weights=False and no masks; pad it and give key_padding_mask instead"
            )
        padded = query.to_padded_tensor(0.0)
        lengths = query._nested_tensor_size()[:, 0].to(padded.device)
        present = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        out = self.attn(padded, attn_mask=present[:, None, None])
        return torch._nested_tensor_from_mask(out, present, mask_check=False), None

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


_OTHERS = "is cross-attention or a pooling head: its queries are other tokens than its keys"
_POOLING = {"SiglipMultiheadAttentionPoolingHead", "Siglip2MultiheadAttentionPoolingHead"}
"""Classes of transformers that ask their attention with a query of their own."""


def _read(module: nn.Module, model: nn.Module, name: str) -> Place:
    assert isinstance(module, nn.MultiheadAttention), "registered for this class"
    owner = model.get_submodule(name.rpartition(".")[0])
    called = how_called(owner, name.rpartition(".")[2])
    # in PyTorch's decoder the second attention reads the encoder
    others = type(owner).__name__ in _POOLING or (isinstance(owner, nn.TransformerDecoderLayer) and name.endswith("multihead_attn"))
    if module.bias_k is not None or module.add_zero_attn or module.kdim != module.vdim:
        raise InputError(f"{name} has values of another width than its keys, bias_k or add_zero_attn, which no attention here has; leave it out of `where`")
    if not module._qkv_same_embed_dim:
        return replace(_of_two_widths(module), only_named=others)
    assert module.in_proj_weight is not None, "of one width"
    tokens, masked = tokens_of(model, name), causal_mask_above(model, name)
    return Place(
        dim=module.embed_dim,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=linear_of(module.in_proj_weight, module.in_proj_bias),
        proj=linear_of(module.out_proj.weight, module.out_proj.bias),
        attn_drop=module.dropout,
        num_prefix_tokens=tokens.prefix,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        needs_pairs=masked or (_OTHERS if called.reads_others or others else ""),
        values_apart=called.values_apart,
        asks_apart=called.reads_others or others,
        only_named=others,
    )


def _of_two_widths(module: nn.MultiheadAttention) -> Place:
    """It reads tokens of another width than those that ask, as where learned queries pool a tower."""
    weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    host, width, copied = module.in_proj_bias, module.embed_dim, []
    layers = []
    for index, weight in enumerate(weights):
        assert weight is not None, "of several widths"
        rows = slice(index * width, (index + 1) * width)
        layers.append(linear_of(weight, None if host is None else nn.Parameter(host.detach()[rows].clone(), requires_grad=host.requires_grad)))
        copied += [] if host is None else [Copied(layers[-1], "bias", slice(None), host, rows)]
    return Place(
        dim=width,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=Apart(*layers),
        proj=linear_of(module.out_proj.weight, module.out_proj.bias),
        attn_drop=module.dropout,
        needs_pairs=_OTHERS,
        asks_apart=True,
        copied=tuple(copied),
        notes=(f"queries of width {width}, keys and values of {module.kdim}",),
    )


def _wrap(module: nn.Module, ours: nn.Module) -> nn.Module:
    assert isinstance(ours, TokenAttention), "conversion builds these"
    return AsMultiheadAttention(ours, module.batch_first)  # type: ignore[arg-type]


register_host("torch.nn.modules.activation.MultiheadAttention", _read, _wrap)
