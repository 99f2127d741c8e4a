"""Softmax attention as a layer; see :mod:`foveal.functional.softmax`, and for its centered form :mod:`foveal.functional.centered`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..functional import centered_attention, centered_attention_maps, softmax_attention, softmax_attention_map
from ._base import Context, NormLayer, QKVAttention, Rope, head_width, timm_half
from ._core import Core, register_core
from ._few import folds, gather_folded, gathered_values
from ._linear import project
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new

__all__ = ["SoftmaxAttention", "SoftmaxCore"]


@register_core("softmax")
class SoftmaxCore(Core):
    """Every pair of tokens once, through PyTorch's fused kernel; with ``softcap``, which no such kernel has, in the open."""

    def __init__(self, head_dim: int, *, softcap: float | None = None, device: Any = None, dtype: Any = None) -> None:
        super().__init__(head_dim, device=device, dtype=dtype)
        if softcap is not None and not softcap > 0:
            raise InputError(f"softcap must be above 0, got {softcap}")
        self.softcap = softcap

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        return softmax_attention(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale, softcap=self.softcap)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return softmax_attention_map(q, k, mask=mask, is_causal=is_causal, softcap=self.softcap)

    def macs(self, num_tokens: int, num_heads: int) -> int:
        return 2 * num_tokens**2 * num_heads * self.head_dim

    def extra_repr(self) -> str:
        return "" if self.softcap is None else f"softcap={self.softcap:g}"


@register("softmax", family="pairs")
class SoftmaxAttention(QKVAttention):
    """Multi-head softmax attention, equal to timm's ``Attention`` weight for weight. The baseline; with ``center=True`` the control of what subtracts.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per head.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on the map, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None. More makes a wider attention, the matched baseline of mechanisms with more parameters.
        center: subtract λ times the mean of the values that a query may look at, one λ a head: the map is A − λ/N. It is ours, see
            :func:`foveal.functional.centered_attention`; :attr:`lambdas` are None without.
        lambda_init: start of λ, with ``center``. A conversion starts it at 0, which leaves the function what it was.
        extra_heads: further heads of the same width, so that the attention has ``num_heads + extra_heads``; :func:`foveal.widen_` puts them into a model.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; ``extra_heads`` below 0; ``lambda_init`` without ``center``.

    Example:
        >>> SoftmaxAttention(dim=64, num_heads=4)(torch.randn(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    takes_warm_start = "exact"
    takes_other_width = True
    has_one_stream = True

    @property
    def has_map_gradient(self) -> bool:
        # the mean that is subtracted makes no map on the way
        return self.lambdas is None

    @property
    def takes_softcap(self) -> bool:  # type: ignore[override]
        # centered it is computed by a formula that has none
        return self.lambdas is None

    def head_lambdas(self) -> Tensor | None:
        return self.lambdas

    def value_weights(self) -> tuple[Tensor, ...]:
        return (self.qkv.weight[2 * self.inner_dim :].unflatten(0, (self.num_heads, -1)),)

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        center: bool = False
        lambda_init: float = 0.5
        extra_heads: int = 0

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
        attn_head_dim: int | None = None,
        center: bool = False,
        lambda_init: float = 0.5,
        extra_heads: int = 0,
    ) -> None:
        if extra_heads < 0:
            raise InputError(f"extra_heads must be at least 0, got {extra_heads}")
        if not center and lambda_init != self.Config.lambda_init:
            raise InputError("lambda_init starts λ, which plain softmax attention has not; give center=True, or leave it out")
        if extra_heads:
            attn_head_dim = head_width(dim, num_heads, attn_head_dim)
            num_heads += extra_heads
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core="softmax",
        )
        self.lambda_init = lambda_init
        self.lambdas = nn.Parameter(torch.empty(num_heads, device=device, dtype=dtype)) if center else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """λ back to ``lambda_init``; the linear maps keep what they, or the host, set."""
        if self.lambdas is not None:
            nn.init.constant_(self.lambdas, self.lambda_init)

    @torch.no_grad()
    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """All that the host has, ``softcap`` among it; λ starts at 0."""
        out = rest_is_new(self, adopt_layers(self, place))
        self.core.softcap = place.softcap  # type: ignore[assignment]
        if self.lambdas is not None:
            self.lambdas.zero_()
        out.function = "kept"
        return out

    def attend(self, x: Tensor, context: Context | None, rope: Rope | None, options: dict[str, Any]) -> Tensor:
        if self.lambdas is None and folds(self, x.shape[1], context, rope, options, (self.qkv,), made=2, gathered=2):
            return self._attend_folded(x, context, options)
        if self.lambdas is None:
            return super().attend(x, context, rope, options)
        return centered_attention(*self._qkv(x, context, rope), lambdas=self.lambdas, **options)

    def _attend_folded(self, x: Tensor, tokens: Any, options: dict[str, Any]) -> Tensor:
        q = self.q_norm(self._heads(project(self.qkv, x, slice(self.inner_dim))))
        keys, values = (self.qkv.weight[first * self.inner_dim :][: self.inner_dim].unflatten(0, (self.num_heads, -1)) for first in (1, 2))
        bias = None if self.qkv.bias is None else self.qkv.bias[2 * self.inner_dim :].unflatten(0, (self.num_heads, -1))
        return gathered_values(gather_folded(q, tokens, keys, mask=options["mask"]), values, bias, mask=options["mask"])

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> dict[str, Tensor]:
        """``combined``, ``(B, H, Nq, Nk)``: applied to the values it gives the output before ``proj``. Centered it is ``positive`` − λ · ``negative``, of
        which the second is 1/N for every key that a query may look at."""
        if self.lambdas is None:
            return super().attention_map(x, attn_mask, is_causal, context, rope)
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _ = self._qkv(x, context, rope)
        return centered_attention_maps(q, k, lambdas=self.lambdas, **options)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | (set() if self.lambdas is None else {"lambdas"})

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.lambdas is None else ", center=True")
