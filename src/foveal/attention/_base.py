"""What token attentions share: the timm constructor, checks of what comes in, and the promise to show maps and cost.

Shapes     B batch, N tokens (Nq queries, Nk keys), C = dim, H heads, D head width, I = H·D inner width
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from .._fx import leaf_method
from .._renamed import renamed_arguments
from ..functional._transforms import transformed
from ..functional.softmax import AttentionFunction
from ._core import Core, make_core
from ._linear import check_dtype, project
from ._registry import AttentionConfig, AttentionModule
from ._transfer import HostLayers, Transfer, WarmStart, adopt_by_name

__all__ = [
    "Context",
    "Cost",
    "NormLayer",
    "QKVAttention",
    "Rope",
    "TokenAttention",
    "apply_rope",
    "check_channels",
    "check_maps",
    "check_mask",
    "head_width",
    "is_channels_last",
    "read_as",
    "timm_half",
]

NormLayer = Callable[..., nn.Module]
Turn = Callable[[Tensor], Tensor]
Rope = Turn | tuple[Turn | None, Turn | None]
"""Rotary positions: queries or keys ``(B, H, N, D)`` to the same, turned by where each token lies; or a pair of such, for queries and for keys, of which the
first may also give fewer queries than it is given, as where queries are pooled."""
Context = Tensor | tuple[Tensor, Tensor]
"""Tokens that keys and values are made from, ``(B, Nk, C)``; two of them, for keys and for values, where only keys have positions added, as in DETR."""


@dataclass(frozen=True)
class Cost:
    """What a module costs for one sample: ``parameters``, and ``macs`` of its matrix multiplications. Biases, softmax and norms are not counted as MACs."""

    parameters: int
    macs: int


def head_width(dim: int, num_heads: int, attn_head_dim: int | None) -> int:
    """Width of a head.

    Raises:
        ValueError: neither given nor ``dim / num_heads``.
    """
    if dim < 1 or num_heads < 1:
        raise InputError(f"dim and num_heads must be at least 1, got dim={dim} and num_heads={num_heads}")
    if attn_head_dim is not None:
        if attn_head_dim < 1:
            raise InputError(f"attn_head_dim must be at least 1, got {attn_head_dim}")
        return attn_head_dim
    if dim % num_heads:
        nearest = min((h for h in range(1, dim + 1) if dim % h == 0), key=lambda h: abs(h - num_heads))
        raise InputError(f"num_heads must divide dim, got dim={dim} and num_heads={num_heads}; try num_heads={nearest}, or give attn_head_dim")
    return dim // num_heads


def check_channels(name: str, x: Tensor, dim: int, shape: str, channel: int) -> None:
    if x.ndim != shape.count(",") + 1 or x.shape[channel] != dim or not x.is_floating_point():
        raise InputError(f"{name} expects {shape} with C={dim} in floating point, got {tuple(x.shape)} of {x.dtype}")


def check_maps(name: str, x: Tensor, channels: int, layer: nn.Module | None = None) -> None:
    """Maps with something on them; in the dtype of the layer that they go through first, where that has a plain weight."""
    check_channels(name, x, channels, "(B, C, H, W)", 1)
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise InputError(f"{name} expects maps of at least one pixel, got {tuple(x.shape)}")
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point():
        check_dtype("maps", x, weight)


def is_channels_last(x: Tensor) -> bool:
    """Whether maps are laid out so. Those that fit both layouts (one channel, one pixel) are not."""
    # inside vmap a layout cannot be asked for, and is of no matter
    return not transformed() and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def check_mask(name: str, what: str, mask: Tensor, full: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A mask of pairs, ``(Nq, Nk)`` or broadcastable to ``full`` = (B, H, Nq, Nk); float ones in ``dtype``."""
    if not isinstance(mask, Tensor):
        raise InputError(f"{name} expects {what} to be a tensor, got {type(mask).__name__}")
    if mask.ndim not in (2, 4) or any(got not in (1, want) for got, want in zip(mask.shape[::-1], full[::-1], strict=False)):
        raise InputError(f"{name} expects {what} to be (Nq, Nk) or broadcastable to (B, H, Nq, Nk) = {full}, got {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise InputError(f"{name} expects a bool {what} (True takes part) or a float one (added to the logits), got {mask.dtype}; try .bool()")
    return mask.to(dtype)


def read_as(x: Tensor, context: Context | None) -> tuple[Tensor, Tensor]:
    """The tokens that keys are made from, and those that values are made from."""
    return context if isinstance(context, tuple) else (x, x) if context is None else (context, context)


_TIMM_HALF = (*("dim", "num_heads", "qkv_bias", "qk_norm", "scale_norm", "proj_bias", "attn_drop", "proj_drop", "norm_layer"), "device", "dtype")


def timm_half(given: dict[str, Any]) -> dict[str, Any]:
    """The positional half of a constructor, as timm's ``Attention`` has it, to be passed on: ``super().__init__(**timm_half(locals()), …)``."""
    return {name: given[name] for name in _TIMM_HALF}


def apply_rope(x: Tensor, rope: Rope | None, *, of_keys: bool = False) -> Tensor:
    turn = rope[of_keys] if isinstance(rope, tuple) else rope
    return x if turn is None else turn(x)


class TokenAttention(AttentionModule, ABC):
    """An attention on tokens, ``(B, N, C) -> (B, N, C)``, that timm accepts as ``attn_layer``."""

    Config: ClassVar[type[AttentionConfig]]

    takes_rotary: ClassVar[bool] = False
    """Whether ``forward`` takes ``rope``, rotary positions of queries and keys."""
    takes_warm_start: ClassVar[Literal["", "exact", "any"]] = ""
    """Which ``warm_start`` means something to :meth:`adopt_`: none, ``"exact"`` alone, or a number too."""
    maps_per_call: ClassVar[int] = 1
    """Maps with a gradient of their own that one call makes."""
    class_token_note: ClassVar[str] = ""
    """What conversion says of this attention in a network that is read off a class token; nothing of most."""
    fuses_streams: ClassVar[bool] = False
    """Whether its streams are fused at the width of ``dim``, so that heads of another total width have no place in it."""

    takes_other_width: ClassVar[bool] = False
    """Whether keys and values may be made of tokens of another width than queries: it has no projections beside the host's."""
    takes_softcap: bool = False
    """Whether it keeps its logits within what the host keeps its own, where that does."""
    has_one_stream: ClassVar[bool] = False
    """Whether every layer of a host has its place, ``qkv`` is called once, and what the heads gathered goes once through ``norm`` and ``proj``."""

    dim: int
    num_heads: int
    proj: nn.Linear

    @property
    def has_pairwise_logits(self) -> bool:
        """Whether every query meets every key by itself, so that masks and biases of pairs have a meaning."""
        return False

    @property
    def takes_values_apart(self) -> bool:
        """Whether ``forward`` takes as ``context`` a pair, of tokens for keys and of others for values."""
        return False

    @property
    def has_map_gradient(self) -> bool:
        """Whether its map lies on the path of gradients, as one that is computed in the open does."""
        return False

    def value_weights(self) -> tuple[Tensor, ...]:
        """Weights of its maps to values, ``(H, D, C)`` each: one, or two where branches have values apart. None where there are no values of tokens.

        Raises:
            ValueError: they cannot be told any more, as after :func:`foveal.fuse_`.
        """
        return ()

    def head_lambdas(self) -> Tensor | None:
        """How much each head takes off, ``(H,)``, where that is a parameter."""
        return None

    def set_depth(self, depth: int) -> None:
        """Take the place of layer ``depth``, counted from 0. Models call this; it means nothing to most."""

    def weights_from_softmax(self, weights: Mapping[str, Tensor], warm_start: float) -> dict[str, Tensor]:
        """The state dict of softmax attention in the same place, and what can be made of it for layers of one's own; what is then missing cannot be."""
        return dict(weights)

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """Take what can be kept of the weights of the attention in whose place this one is put, and start the rest.

        Here, layers of the same name and shape are the host's, and all else stays as it was made. A mechanism that knows better overrides it.

        Args:
            place: the host's layers.
            warm_start: see :func:`foveal.convert_`; has no effect where :attr:`takes_warm_start` says so.
        """
        return adopt_by_name(self, place)

    def unfit_for(self, place: HostLayers) -> str:
        """Why this attention cannot be put in a place; empty where it can. What every attention is asked, conversion asks itself."""
        return ""

    @abstractmethod
    def attention_map(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The maps of this input, each ``(B, H, Nq, Nk)``; ``combined`` is always among them. Computed in the open, without dropout."""

    @abstractmethod
    def macs(self, num_tokens: int) -> int:
        """Multiply-adds of the matrix multiplications of one sample with ``num_tokens`` tokens."""

    def cost(self, num_tokens: int) -> Cost:
        """Parameters and multiply-adds for one sample."""
        return Cost(parameters=sum(p.numel() for p in self.parameters()), macs=self.macs(num_tokens))

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters that are not the weights of a linear map, and should not decay."""
        return set()

    def _check_tokens(self, x: Tensor, what: str = "") -> None:
        check_channels(type(self).__name__ + what, x, self.dim, "(B, N, C)", -1)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}"


class QKVAttention(TokenAttention):
    """An attention of pairs: queries, keys and values from one ``qkv``, in timm's names and order, a core in which they meet, and a ``proj`` behind.

    Whoever has further projections makes them in its own constructor, and gives :meth:`attend`.
    """

    takes_rotary = True
    few_queries: bool = False
    """Whether keys and values of a context are left unmade where few queries read it, see :mod:`foveal.attention._few`. Outputs then differ in rounding, so
    that whoever reads so says it."""

    core: Core

    @property
    def has_pairwise_logits(self) -> bool:
        return not self.core.non_causal_reason

    @property
    def takes_values_apart(self) -> bool:
        return not self.core.needs_grid

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        qk_norm: bool,
        scale_norm: bool,
        proj_bias: bool,
        attn_drop: float,
        proj_drop: float,
        norm_layer: NormLayer | None,
        attn_head_dim: int | None,
        core: str | AttentionFunction,
        core_options: dict[str, Any] | None = None,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = head_width(dim, num_heads, attn_head_dim)
        self.inner_dim = num_heads * self.head_dim
        norm_layer = norm_layer or nn.LayerNorm
        self.qkv = nn.Linear(dim, 3 * self.inner_dim, bias=qkv_bias, **factory)
        self.q_norm = norm_layer(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.core = make_core(core, self.head_dim, core_options, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = norm_layer(self.inner_dim, **factory) if scale_norm else nn.Identity()
        self.proj = nn.Linear(self.inner_dim, dim, bias=proj_bias, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    @property
    def context_dim(self) -> int:
        """Width of the tokens that keys and values are made from: ``dim``, but where the layers of a host say otherwise."""
        return getattr(getattr(self, "qkv", None), "context_features", self.dim)

    def attend(self, x: Tensor, context: Context | None, rope: Rope | None, options: dict[str, Any]) -> Tensor:
        """``(B, H, Nq, D)`` from checked input; ``options`` are ``mask``, ``is_causal`` and ``dropout_p``."""
        return self.core(*self._qkv(x, context, rope), **options)

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> dict[str, Tensor]:
        """``combined``: the map of the core, ``(B, H, Nq, Nk)``. Applied to the values it gives the output before ``proj``."""
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _ = self._qkv(x, context, rope)
        return {"combined": self.core.map(q, k, **options)}

    def macs(self, num_tokens: int) -> int:
        return self._projection_macs(num_tokens, 4) + self.core.macs(num_tokens, self.num_heads)

    def no_weight_decay(self) -> set[str]:
        return {f"core.{name}" for name in self.core.no_weight_decay()}

    @renamed_arguments("attention", rotate="rope")
    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None) -> Tensor:
        """Attend.

        Args:
            x: tokens, ``(B, N, C)``.
            attn_mask: bool (True takes part) or float (added to the logits), ``(Nq, Nk)`` or ``(B or 1, H or 1, Nq or 1, Nk)``.
                A mask of keys alone is ``mask[:, None, None, :]``.
            is_causal: a token looks only at itself and those before it.
            context: tokens that keys and values are made from, ``(B, Nk, C)``, or a pair of them, for keys and for values; ``x`` if None.
            rope: rotary positions, applied to all queries and to the keys after their norms, ``(B, H, N, D)`` to the same; or a pair, for queries and for keys.

        Returns:
            ``(B, N, C)``. A query whose every key is masked attends to nothing: its output is that of a zero vector.

        Raises:
            ValueError: wrong width, shape or dtype; causality together with a context; rotary positions where heads are read in halves.
        """
        options = self._check(x, attn_mask, is_causal, context)
        out = self.attend(x, context, rope, options | {"dropout_p": self.attn_drop.p if self.training else 0.0})
        out = self.norm(rearrange(out, "b h n d -> b n (h d)"))
        return self.proj_drop(project(self.proj, out))

    def _check(self, x: Tensor, attn_mask: Tensor | None, is_causal: bool, context: Context | None) -> dict[str, Any]:
        name = type(self).__name__
        self._check_tokens(x)
        keys, values = read_as(x, context)
        if context is not None:
            for part in (keys, values):
                check_channels(f"{name} context", part, self.context_dim, "(B, N, C)", -1)
                if part.shape[0] != x.shape[0]:
                    raise InputError(f"{name} got {x.shape[0]} samples in x and {part.shape[0]} in context; they must be as many")
            if keys.shape != values.shape:
                raise InputError(f"{name} expects as many tokens for keys as for values, got {tuple(keys.shape)} and {tuple(values.shape)}")
            if is_causal:
                raise InputError(f"{name} cannot be causal over a context: its tokens have no order relative to the queries; give attn_mask instead")
        if attn_mask is not None:
            full = (x.shape[0], self.num_heads, x.shape[1], keys.shape[1])
            attn_mask = check_mask(name, "attn_mask", attn_mask, full, x.dtype)
        self.core.check(name, x, attn_mask, is_causal, None if context is None else keys)
        return {"mask": attn_mask, "is_causal": is_causal}

    def _qkv(self, x: Tensor, context: Context | None, rope: Rope | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of ``x``, keys and values of ``context``, normalized and turned, each ``(B, H, N, D)``."""
        if context is None:
            q, k, v = rearrange(project(self.qkv, x), "b n (t h d) -> t b h n d", t=3, h=self.num_heads)
        elif isinstance(context, tuple):
            parts = zip((x, *context), range(0, 3 * self.inner_dim, self.inner_dim), strict=True)
            q, k, v = (self._heads(project(self.qkv, tokens, slice(first, first + self.inner_dim))) for tokens, first in parts)
        else:
            q = self._heads(project(self.qkv, x, slice(self.inner_dim)))
            k, v = rearrange(project(self.qkv, context, slice(self.inner_dim, None)), "b n (t h d) -> t b h n d", t=2, h=self.num_heads)
        return apply_rope(self.q_norm(q), rope), apply_rope(self.k_norm(k), rope, of_keys=True), v

    @leaf_method
    def values(self, x: Tensor) -> Tensor:
        """What tokens are read as, all heads side by side, ``(B, N, H·D)``."""
        return project(self.qkv, x, slice(2 * self.inner_dim, 3 * self.inner_dim))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)

    def _projection_macs(self, num_tokens: int, projections: int) -> int:
        return projections * num_tokens * self.dim * self.inner_dim
