"""Denoising attention as a layer; see :mod:`foveal.functional.denoising` for the mathematics, the paper and what differs from it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import denoising_attention, denoising_attention_maps
from ..functional.softmax import Core as CoreFunction
from ._base import NormLayer, QKVAttention, Rotate, turned
from ._linear import project
from ._registry import AttentionConfig, register

__all__ = ["DenoisingAttention"]


@register("denoising", family="signed pairs")
class DenoisingAttention(QKVAttention):
    """Multi-head denoising attention: what a positive query gathers, minus λ times what a negative query gathers over the same keys.

    ``qkv`` holds Q⁺, K, V⁺ exactly as timm's ``Attention`` holds Q, K, V, so pretrained weights keep their names; ``q_neg``, ``v_neg`` and ``lambdas`` are new.
    With H heads it has 6C² weights against 4C² of softmax; with two thirds of the heads (and their width kept) it has as many.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``, ``q_neg`` and ``v_neg``.
        qk_norm: normalise both queries and the keys per head. The negative query is normalised first and negated then.
        scale_norm: normalise before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on both maps, drawn apart, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.
        shared_values: both branches read the same values (5C² weights); the paper's ablation.
        lambda_init: start of λ, which is free per head.
        core: the attention that is applied twice, over the same keys: ``"softmax"`` (the paper), ``"halo"``, ``"efficient"``, ``"linear"``, or any
            ``f(q, k, v, *, mask, dropout_p, scale)``. What a core owns, as the positions of ``"halo"``, belongs to the keys and serves both branches.
        core_options: options of a named core, as of the attention of that name: ``{"block_size": 4}``.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; an unknown core or option; what the core cannot do,
            as causality in all but softmax; a map or the cost is asked of a core that is a function.

    Example:
        >>> DenoisingAttention(dim=64, num_heads=4)(torch.randn(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        shared_values: bool = False
        lambda_init: float = 0.5
        core: str = "softmax"
        core_options: dict[str, Any] | None = None

        def __post_init__(self) -> None:
            # JSON has no tuples
            if self.core_options is not None:
                values = {name: tuple(value) if isinstance(value, list) else value for name, value in self.core_options.items()}
                object.__setattr__(self, "core_options", values)

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
        shared_values: bool = False,
        lambda_init: float = 0.5,
        core: str | CoreFunction = "softmax",
        core_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            scale_norm=scale_norm,
            proj_bias=proj_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=norm_layer,
            attn_head_dim=attn_head_dim,
            core=core,
            core_options=core_options,
            device=device,
            dtype=dtype,
        )
        self.shared_values = shared_values
        self.lambda_init = lambda_init
        factory = {"device": device, "dtype": dtype}
        self.q_neg = nn.Linear(dim, self.inner_dim, bias=qkv_bias, **factory)
        self.v_neg = None if shared_values else nn.Linear(dim, self.inner_dim, bias=qkv_bias, **factory)
        self.q_neg_norm = (norm_layer or nn.LayerNorm)(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.lambdas = nn.Parameter(torch.empty(num_heads, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """λ back to ``lambda_init``; the linear maps keep what they, or the host, set."""
        nn.init.constant_(self.lambdas, self.lambda_init)

    def attend(self, x: Tensor, context: Tensor | None, rotate: Rotate | None, options: dict[str, Any]) -> Tensor:
        q, k, v = self._qkv(x, context, rotate)
        v_neg = None if self.v_neg is None else self._heads(project(self.v_neg, x if context is None else context))
        return denoising_attention(q, k, v, q_neg=self._negative_query(x, rotate), v_neg=v_neg, lambdas=self.lambdas, core=self.core, **options)

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Tensor | None = None, rotate: Rotate | None = None
    ) -> dict[str, Tensor]:
        """``positive``, ``negative`` and ``combined`` = positive − λ · negative.

        With shared values ``combined`` applied to the values gives the output before ``proj``; with values apart each map belongs to its own.
        """
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _ = self._qkv(x, context, rotate)
        return denoising_attention_maps(q, k, q_neg=self._negative_query(x, rotate), lambdas=self.lambdas, core_map=self.core.map, **options)

    def macs(self, num_tokens: int) -> int:
        return self._projection_macs(num_tokens, 5 if self.shared_values else 6) + 2 * self.core.macs(num_tokens, self.num_heads)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"lambdas"}

    def extra_repr(self) -> str:
        return super().extra_repr() + (", shared_values=True" if self.shared_values else "")

    def _negative_query(self, x: Tensor, rotate: Rotate | None) -> Tensor:
        return turned(self.q_neg_norm(self._heads(project(self.q_neg, x))), rotate)
