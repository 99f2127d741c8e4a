"""Denoising attention as a layer; see :mod:`foveal.functional.denoising` for the mathematics, the paper and what differs from it."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from .._fx import leaf_method
from ..functional import denoising_attention, denoising_attention_maps
from ..functional._precision import less
from ..functional.pair import pair
from ..functional.softmax import AttentionFunction
from ._base import Context, NormLayer, QKVAttention, Rope, apply_rope, read_as, timm_half
from ._core import FunctionCore
from ._few import folds, gather_folded, gathered_values
from ._linear import is_plain, project
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, copy_rows, names_in, rest_is_new, rows_of

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
        qk_norm: normalize both queries and the keys per head. The negative query is normalized first and negated then.
        scale_norm: normalize before ``proj``.
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

    takes_warm_start = "any"
    maps_per_call = 2
    has_one_stream = True

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
        core: str | AttentionFunction = "softmax",
        core_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core=core,
            core_options=core_options,
        )
        self.shared_values = shared_values
        self.lambda_init = lambda_init
        factory = {"device": device, "dtype": dtype}
        self.q_neg = nn.Linear(dim, self.inner_dim, bias=qkv_bias, **factory)
        self.v_neg = None if shared_values else nn.Linear(dim, self.inner_dim, bias=qkv_bias, **factory)
        self.q_neg_norm = (norm_layer or nn.LayerNorm)(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.lambdas = nn.Parameter(torch.empty(num_heads, **factory))
        self.fused = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """λ back to ``lambda_init``; the linear maps keep what they, or the host, set."""
        nn.init.constant_(self.lambdas, self.lambda_init)

    @property
    def has_map_gradient(self) -> bool:
        return self.core.name == "softmax"

    @property
    def takes_softcap(self) -> bool:  # type: ignore[override]
        return self.core.name == "softmax"

    def value_weights(self) -> tuple[Tensor, ...]:
        if self.fused and not self.shared_values:
            raise InputError("the values of a fused denoising attention have λ folded in; take the angles before foveal.fuse_")
        maps = (self.qkv.weight[2 * self.inner_dim :], *(() if self.v_neg is None else (self.v_neg.weight,)))
        return tuple(weight.unflatten(0, (self.num_heads, -1)) for weight in maps)

    def head_lambdas(self) -> Tensor:
        return self.lambdas

    def weights_from_softmax(self, weights: Mapping[str, Tensor], warm_start: float) -> dict[str, Tensor]:
        """Q⁻ and V⁻ are ``warm_start`` times Q and V, as in :meth:`adopt_`.

        Raises:
            ValueError: values are shared, with which it cannot start as softmax.
        """
        made = {"lambdas", "q_neg.weight", "q_neg.bias", "v_neg.weight", "v_neg.bias", "q_neg_norm.weight", "q_neg_norm.bias"}
        missing = self.state_dict().keys() - weights.keys()
        if "lambdas" not in missing or not missing <= made or "qkv.weight" not in weights:
            return dict(weights)
        if self.shared_values:
            raise InputError(
                "denoising attention with shared values cannot start as softmax: its negative branch reads the same values; leave shared_values out"
            )
        out = {**weights, "lambdas": torch.full_like(self.lambdas, self.lambda_init)}
        for field in ("weight", "bias"):
            if f"qkv.{field}" in weights:
                q, _, v = weights[f"qkv.{field}"].chunk(3)
                out |= {f"q_neg.{field}": warm_start * q, f"v_neg.{field}": warm_start * v}
            if f"q_norm.{field}" in weights:
                out[f"q_neg_norm.{field}"] = weights[f"q_norm.{field}"]
        return out

    @torch.no_grad()
    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """Q⁻ and V⁻ are ``warm_start`` times the host's Q and V, as rjccv/DnA scales its copies by 1e-4; ``"exact"`` is V⁻ = 0."""
        out = adopt_layers(self, place)
        (q, _, v), scale = rows_of(place.qkv), 1.0 if warm_start == "exact" else float(warm_start)
        copy_rows(self.q_neg, q, scale)
        out.mapped += names_in(self, "q_neg")
        if self.v_neg is not None:
            copy_rows(self.v_neg, v, 0.0 if warm_start == "exact" else scale)
            out.mapped += names_in(self, "v_neg")
        else:
            # the values are those of the positive branch: only λ can make the second branch small
            self.lambdas.fill_(0.0 if warm_start == "exact" else scale)
        if not isinstance(place.q_norm, nn.Identity):
            # one norm cannot serve two queries once both are trained
            self.q_neg_norm = copy.deepcopy(place.q_norm)
            out.mapped += names_in(self, "q_neg_norm")
        if place.softcap is not None:
            self.core.softcap = place.softcap  # type: ignore[assignment]
        for name, value in self.core.named_parameters():
            if name.startswith("pos_embed."):
                value.zero_()
        if self.core.name == "softmax" and (warm_start == "exact" or scale <= 1e-3):
            out.function = "kept" if warm_start == "exact" else "nearly kept"
        return rest_is_new(self, out)

    def attend(self, x: Tensor, context: Context | None, rope: Rope | None, options: dict[str, Any]) -> Tensor:
        if self.fused:
            return self._attend_fused(x, context, rope, options)
        if folds(self, x.shape[1], context, rope, options, self._projections(), made=2 if self.v_neg is None else 3, gathered=4):
            return self._attend_folded(x, context, options)
        q, k, v = self._qkv(x, context, rope)
        v_neg = None if self.v_neg is None else self._heads(project(self.v_neg, read_as(x, context)[1]))
        return denoising_attention(q, k, v, q_neg=self._negative_query(x, rope), v_neg=v_neg, lambdas=self.lambdas, core=self.core, **options)

    def _attend_folded(self, x: Tensor, tokens: Any, options: dict[str, Any]) -> Tensor:
        """Both branches at once: their queries read the same tokens by the same keys."""
        q = self.q_norm(self._heads(project(self.qkv, x, slice(self.inner_dim))))
        both = torch.cat([q, -self._negative_query(x, None)], dim=2)
        rows, mask = self.qkv.weight.unflatten(0, (3, self.num_heads, -1)), options["mask"]
        if mask is not None and mask.ndim == 4 and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, 2, 1)
        elif mask is not None and mask.ndim == 2 and len(mask) > 1:
            mask = mask.repeat(2, 1)
        gathered = gather_folded(both, tokens, rows[1], mask=mask).chunk(2, dim=2)
        weights, biases = [rows[2]], [None if self.qkv.bias is None else self.qkv.bias[2 * self.inner_dim :]]
        if self.v_neg is not None:
            weights.append(self.v_neg.weight.unflatten(0, (self.num_heads, -1)))
            biases.append(self.v_neg.bias)
        positive, negative = (
            gathered_values(
                one, weights[at % len(weights)], None if (b := biases[at % len(biases)]) is None else b.unflatten(0, (self.num_heads, -1)), mask=options["mask"]
            )
            for at, one in enumerate(gathered)
        )
        return less(positive, self.lambdas.view(-1, 1, 1), negative)

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> dict[str, Tensor]:
        """``positive``, ``negative`` and ``combined`` = positive − λ · negative.

        With shared values ``combined`` applied to the values gives the output before ``proj``; with values apart each map belongs to its own.
        """
        options = self._check(x, attn_mask, is_causal, context)
        if self.fused:
            q, k, _, other, _ = self._fused_heads(x, context, rope)
            q_neg = -other
        else:
            (q, k, _), q_neg = self._qkv(x, context, rope), self._negative_query(x, rope)
        return denoising_attention_maps(q, k, q_neg=q_neg, lambdas=self.lambdas, core_map=self.core.map, **options)

    def macs(self, num_tokens: int) -> int:
        return self._projection_macs(num_tokens, 5 if self.shared_values else 6) + 2 * self.core.macs(num_tokens, self.num_heads)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"lambdas"}

    def extra_repr(self) -> str:
        return super().extra_repr() + (", shared_values=True" if self.shared_values else "") + (", fused=True" if self.fused else "")

    @leaf_method
    def values(self, x: Tensor) -> Tensor:
        if not self.fused:
            return super().values(x)
        return project(self.projections, x, slice(3 * self.inner_dim, 4 * self.inner_dim))

    @torch.no_grad()
    def fuse_(self) -> Self:
        """Fold the sign and λ into the weights, and all projections into one, for inference: the outputs are equal but for rounding.

        ``qkv``, ``q_neg`` and ``v_neg`` become ``projections``, with rows [−Q⁻, Q⁺, K, V⁺, −λV⁻]. ``lambdas`` stays for maps and, with shared values or a core
        that is a function, which need not be linear in the values, for the output. There is no way back: keep the original, or its state dict. A fused module
        does nothing new when it is fused again.

        Raises:
            ValueError: in training mode; projections that are more than linear maps, as adapters are before they are merged.
        """
        self.check_fusible()
        if self.fused:
            return self
        parts = self._projections()
        self.fuses_lambdas = self.v_neg is not None and not isinstance(self.core, FunctionCore)
        sign = self._fold_sign()
        rows: dict[str, Tensor | None] = {}
        for field in ("weight", "bias"):
            # copies: what the parts hold may belong to the module that this one was converted from
            qkv, q_neg, *v_neg = (getattr(part, field) for part in parts)
            if qkv is None:
                rows[field] = None
                continue
            if v_neg and self.fuses_lambdas:
                scale = -self.lambdas.repeat_interleave(self.head_dim)
                v_neg = [scale.view(-1, *[1] * (qkv.ndim - 1)).to(qkv.dtype) * v_neg[0]]
            rows[field] = torch.cat([sign * q_neg, qkv, *v_neg])
        weight, bias = rows["weight"], rows["bias"]
        assert weight is not None, "a linear map has weights"
        self.projections = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.projections.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.projections.bias = nn.Parameter(bias, requires_grad=False)
        self.projections.eval()
        self.trained_qkv = tuple(parameter.requires_grad for parameter in (self.qkv.weight, self.qkv.bias) if parameter is not None)
        # deleted, so that whoever reads them by name finds out; v_neg is None in other modules too
        del self.qkv, self.q_neg
        self.v_neg, self.fused = None, True
        return self

    @torch.no_grad()
    def folded_qkv(self) -> nn.Linear:
        """``qkv`` of a fused attention, as it stands in ``projections``: its rows are the ones that nothing was folded into."""
        rows = slice(self.inner_dim, 4 * self.inner_dim)
        weight, bias = self.projections.weight, self.projections.bias
        qkv = nn.Linear(weight.shape[1], 3 * self.inner_dim, bias=bias is not None, device="meta")
        for field, value, trained in zip(("weight", "bias"), (weight, bias), self.trained_qkv, strict=False):
            setattr(qkv, field, nn.Parameter(value[rows].clone(), requires_grad=trained))
        return qkv

    def check_fusible(self) -> None:
        """Refuse what :meth:`fuse_` refuses."""
        if self.fused:
            return
        if self.training:
            raise InputError("fuse_ folds λ into weights, where it cannot learn on its own: it is for inference; call .eval() first")
        for part in self._projections():
            if not is_plain(part, nn.Linear):
                raise InputError(f"fuse_ expects plain linear projections, got {type(part).__name__} or one with hooks; merge adapters and remove hooks first")

    def _projections(self) -> list[nn.Linear]:
        return [self.qkv, self.q_neg] + ([] if self.v_neg is None else [self.v_neg])

    def _fold_sign(self) -> int:
        """Where the sign of the negative query goes: −1 for its rows, or 1 and into its norm, or, where neither can be, to when it runs."""
        probe = torch.randn(7, self.head_dim, generator=torch.Generator().manual_seed(0)).to(self.lambdas.device, self.lambdas.dtype)
        self.negates = False
        want = -self.q_neg_norm(probe)
        if torch.equal(self.q_neg_norm(-probe), want):
            return -1
        # a bias spoils that; a norm that ends with weights and a bias is negated by negating these
        turned_over = copy.deepcopy(self.q_neg_norm)
        for parameter in turned_over.parameters():
            parameter.neg_()
        if torch.equal(turned_over(probe), want):
            self.q_neg_norm = turned_over
        else:
            self.negates = True
        return 1

    def _attend_fused(self, x: Tensor, context: Context | None, rope: Rope | None, options: dict[str, Any]) -> Tensor:
        if self.training:
            raise InputError("this denoising attention was fused for inference and cannot train; call .eval(), or train the original")
        q, k, v, other, v_other = self._fused_heads(x, context, rope)
        positive, negative = pair(q, k, v, q_other=other, v_other=v_other, core=self.core, **options)
        if self.fuses_lambdas:
            return positive + negative
        return positive - self.lambdas.to(negative.dtype).view(-1, 1, 1) * negative

    def _fused_heads(self, x: Tensor, context: Context | None, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Q⁺, K, V⁺, −Q⁻ and, where values are apart, V⁻ with its factor."""
        if context is None:
            other, q, k, v, *rest = rearrange(project(self.projections, x), "b n (t h d) -> t b h n d", h=self.num_heads, d=self.head_dim)
        else:
            keys, values = read_as(x, context)
            other, q = self._rows(x, 0, 2)
            k, v, *rest = self._rows(context, 2, None) if isinstance(context, Tensor) else (*self._rows(keys, 2, 3), *self._rows(values, 3, None))
        other = self.q_neg_norm(other)
        other = -other if self.negates else other
        # queries that are pooled are pooled as they are, and not with their sign turned over
        other = -apply_rope(-other, rope) if isinstance(rope, tuple) else apply_rope(other, rope)
        return apply_rope(self.q_norm(q), rope), apply_rope(self.k_norm(k), rope, of_keys=True), v, other, rest[0] if rest else None

    def _rows(self, x: Tensor, first: int, last: int | None) -> Iterable[Tensor]:
        """Some of the projections' parts of ``x``, each ``(B, H, N, D)``."""
        rows = slice(first * self.inner_dim, None if last is None else last * self.inner_dim)
        return rearrange(project(self.projections, x, rows), "b n (t h d) -> t b h n d", h=self.num_heads, d=self.head_dim)

    def _negative_query(self, x: Tensor, rope: Rope | None) -> Tensor:
        return apply_rope(self.q_neg_norm(self._heads(project(self.q_neg, x))), rope)
