"""Cosine attention: softmax over the cosines of queries and keys, as in Swin Transformer V2 (arXiv 2111.09883, section 3.2)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.attention import Core, QKVAttention, register, register_core, timm_half
from foveal.functional import softmax_attention, softmax_attention_map


@register_core("cosine")
class CosineCore(Core):
    """How queries, keys and values meet, apart from the projections around them."""

    def __init__(self, head_dim: int, *, temperature: float = 0.1, device: Any = None, dtype: Any = None) -> None:
        super().__init__(head_dim)
        self.temperature = temperature
        self.log_scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_scale, -math.log(self.temperature))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        return softmax_attention(*self._turned(q, k), v, mask=mask, is_causal=is_causal, dropout_p=dropout_p)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return softmax_attention_map(*self._turned(q, k), mask=mask, is_causal=is_causal)

    def macs(self, num_tokens: int, num_heads: int) -> int:
        return 2 * num_tokens**2 * num_heads * self.head_dim

    def no_weight_decay(self) -> set[str]:
        return {"log_scale"}

    def _turned(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # softmax attention divides by the root of the width, which cosines have not grown by
        return F.normalize(q, dim=-1) * (self.log_scale.exp() * self.head_dim**0.5).to(q.dtype), F.normalize(k, dim=-1)


@register("cosine", family="pairs")
class CosineAttention(QKVAttention):
    """``qkv`` and ``proj`` are timm's; what stands behind the star are the options, of which ``CosineAttention.Config`` is made."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        attn_head_dim: int | None = None,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(**timm_half(locals()), attn_head_dim=attn_head_dim, core="cosine", core_options={"temperature": temperature})
