"""Differential attention as a layer; see :mod:`foveal.functional.differential`."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from ..functional import differential_attention, differential_attention_maps
from ..functional._precision import wide
from ._base import Context, NormLayer, QKVAttention, Rope
from ._linear import project
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, make_the_rest, names_in, rest_is_new

__all__ = ["DifferentialAttention"]


@register("differential", family="signed pairs")
class DifferentialAttention(QKVAttention):
    """Multi-head differential attention, equal to timm's ``DiffAttention`` weight for weight.

    Queries and keys are split in two halves per head; values keep the whole head. As many parameters as softmax attention.
    The paper advises to halve the number of heads rather than their width.

    Args:
        dim: width C of the tokens.
        num_heads: heads, of even width.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per half head.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on both maps, drawn apart, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        depth: index of the layer in its model, from 0; sets λ_init = 0.8 − 0.6 exp(−0.3 depth).

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or gives heads of odd width.

    Example:
        >>> DifferentialAttention(dim=64, num_heads=4)(torch.randn(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        depth: int = 0

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
        norm_layer: NormLayer | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        depth: int = 0,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            qk_norm=False,
            scale_norm=scale_norm,
            proj_bias=proj_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=norm_layer,
            attn_head_dim=None,
            core="softmax",
            device=device,
            dtype=dtype,
        )
        if self.head_dim % 2:
            raise InputError(f"differential attention splits heads in halves: dim / num_heads must be even, got {dim} / {num_heads} = {self.head_dim}")
        factory = {"device": device, "dtype": dtype}
        half = self.head_dim // 2
        if qk_norm:
            self.q_norm, self.k_norm = ((norm_layer or nn.LayerNorm)(half, **factory) for _ in range(2))
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (nn.Parameter(torch.empty(half, device=device, dtype=torch.float32)) for _ in range(4))
        self.sub_norm = nn.RMSNorm(self.head_dim, eps=1e-5, **factory)
        self.set_lambda_init(depth)
        self.reset_parameters()

    def set_lambda_init(self, depth: int) -> None:
        """Take the place of layer ``depth``. ``foveal.models`` calls this; timm tells the depth to its own class alone."""
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * depth)

    def reset_parameters(self) -> None:
        """The λ vectors back to N(0, 0.1²); the linear maps keep what they, or the host, set."""
        for vector in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2):
            nn.init.normal_(vector, std=0.1)

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """Values and output mean the same. Queries and keys are split in halves, and meet at half the width."""
        self.qkv, self.proj = place.qkv, place.proj  # type: ignore[assignment]
        out = Transfer(kept=names_in(place, "qkv", "proj"), dropped=names_in(place, "q_norm", "k_norm", "norm"))
        make_the_rest(self, place)
        return rest_is_new(self, out)

    def unfit_for(self, place: HostLayers) -> str:
        reason = "queries and keys are turned by their positions, which differential attention cannot do with heads that it reads in halves"
        return reason if place.rotary else ""

    def current_lambda(self) -> Tensor:
        """λ, one number for the layer."""
        first, second = (wide(q) * wide(k) for q, k in ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2)))
        return first.sum().exp() - second.sum().exp() + self.lambda_init

    def attend(self, x: Tensor, context: Context | None, rope: Rope | None, options: dict[str, Any]) -> Tensor:
        q, k, v, q_neg, k_neg = self._halves(x, context, rope)
        out = differential_attention(q, k, v, q_neg=q_neg, k_neg=k_neg, lambdas=self.current_lambda(), **options)
        # under autocast the head norm stays in the precision of its weight
        return self._normed(out.to(self.sub_norm.weight.dtype)) * (1 - self.lambda_init)

    def _normed(self, out: Tensor) -> Tensor:
        norm = self.sub_norm
        if type(norm) is not nn.RMSNorm or norm.eps is None or not torch.jit.is_tracing():
            return norm(out)
        # written out for ONNX's old exporter, which does not know it
        return out * (out.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> dict[str, Tensor]:
        """``positive``, ``negative`` and ``combined`` = positive − λ · negative. ``combined`` applied to the values gives the output before the head norm."""
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _, q_neg, k_neg = self._halves(x, context, rope)
        return differential_attention_maps(q, k, q_neg=q_neg, k_neg=k_neg, lambdas=self.current_lambda(), **options)

    def macs(self, num_tokens: int) -> int:
        return self._projection_macs(num_tokens, 4) + 3 * num_tokens**2 * self.inner_dim

    def no_weight_decay(self) -> set[str]:
        return {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"}

    def _halves(self, x: Tensor, context: Context | None, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        if rope is not None:
            raise InputError("differential attention reads each head in halves, and rotary positions are made for whole heads; use denoising attention")
        if context is None:
            q, k, v = project(self.qkv, x).chunk(3, dim=-1)
        elif isinstance(context, Tensor):
            q = project(self.qkv, x, slice(self.inner_dim))
            k, v = project(self.qkv, context, slice(self.inner_dim, None)).chunk(2, dim=-1)
        else:
            keys, values = context
            q = project(self.qkv, x, slice(self.inner_dim))
            k = project(self.qkv, keys, slice(self.inner_dim, 2 * self.inner_dim))
            v = project(self.qkv, values, slice(2 * self.inner_dim, None))
        q, q_neg = rearrange(q, "b n (h t d) -> t b h n d", h=self.num_heads, t=2)
        k, k_neg = rearrange(k, "b n (h t d) -> t b h n d", h=self.num_heads, t=2)
        return self.q_norm(q), self.k_norm(k), self._heads(v), self.q_norm(q_neg), self.k_norm(k_neg)
