"""External attention as layers, on tokens and on maps; see :mod:`foveal.functional.external` for the mathematics, the paper and what differs from it.

Shapes     B batch, N tokens, C channels, H heads, D head width, S slots
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError, unknown
from .._fx import Leaf
from .._renamed import renamed_arguments, renamed_attribute
from ..functional import external_attention, external_attention_map, external_token_map
from ..functional._masks import keys_that_take_part
from ..functional.external import ExternalNorm
from ._base import Cost, NormLayer, TokenAttention, check_maps, head_width
from ._feature_map import FeatureMapAttention
from ._linear import project
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, copy_rows, make_the_rest, names_in, rest_is_new, rows_of

__all__ = ["ExternalAttention", "ExternalAttention2d", "ExternalMemory"]

Tie = Literal["none", "init", "hard"]


class ExternalMemory(Leaf):
    """The two memories and the mixing through them, without projections; both layers below own one.

    Args:
        dim: width D of what is stored in a slot.
        slots: S. Tokens exchange at most ``heads × slots`` numbers per sample and layer; give at least as many as there are facts to pass on.
        bias: biases on both memories, as in the official multi-head code. The paper has none.
        tie: ``"init"`` starts the memories equal (the authors' choice), ``"none"`` apart, ``"hard"`` keeps one memory for both.
        normalization: ``"double"`` (the paper), ``"token"`` or ``"slot"``.
        eps: added to the divisor over slots; 0 is the paper, the official code has 1e-9.
    """

    norm = renamed_attribute("ExternalMemory", "norm", "normalization", silent=True)

    @renamed_arguments("ExternalMemory", norm="normalization")
    def __init__(
        self,
        dim: int,
        slots: int = 64,
        *,
        bias: bool = False,
        tie: Tie = "init",
        normalization: ExternalNorm = "double",
        eps: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if slots < 1:
            raise InputError(f"slots must be at least 1, got {slots}")
        if tie not in ("none", "init", "hard"):
            raise unknown("tie of external memories", tie, ("none", "init", "hard"))
        if normalization not in ("double", "token", "slot"):
            raise unknown("normalization of external attention", normalization, ("double", "token", "slot"))
        factory = {"device": device, "dtype": dtype}
        self.dim, self.slots, self.tie, self.normalization, self.eps = dim, slots, tie, normalization, eps
        self.memory_k = nn.Parameter(torch.empty(slots, dim, **factory))
        # one Parameter under one name: a second name for it would be saved, decayed and counted twice
        self.memory_v = None if tie == "hard" else nn.Parameter(torch.empty(slots, dim, **factory))
        self.bias_k = nn.Parameter(torch.empty(slots, **factory)) if bias else None
        self.bias_v = nn.Parameter(torch.empty(dim, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' N(0, 2 / dim) for the memories, 0 for biases."""
        std = (2 / self.dim) ** 0.5
        nn.init.normal_(self.memory_k, std=std)
        if self.memory_v is not None:
            nn.init.normal_(self.memory_v, std=std)
            if self.tie == "init":
                with torch.no_grad():
                    self.memory_v.copy_(self.memory_k)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, q: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        """``(B, H, N, D) -> (B, H, N, D)``; ``mask`` is bool, ``(B, N)``."""
        memory_v = self.memory_k if self.memory_v is None else self.memory_v
        return external_attention(q, self.memory_k, memory_v, bias_v=self.bias_v, dropout_p=dropout_p, **self._map_options(mask))

    def attention_map(self, q: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        options = self._map_options(mask)
        return {"combined": external_token_map(q, self.memory_k, **options), "slots": external_attention_map(q, self.memory_k, **options)}

    def macs(self, num_tokens: int) -> int:
        """Of one head."""
        return 2 * num_tokens * self.slots * self.dim

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters()}

    def extra_repr(self) -> str:
        return f"dim={self.dim}, slots={self.slots}, tie={self.tie!r}, normalization={self.normalization!r}"

    def _map_options(self, mask: Tensor | None) -> dict[str, Any]:
        return {"bias_k": self.bias_k, "mask": mask, "normalization": self.normalization, "eps": self.eps}


@register("external", family="memory")
class ExternalAttention(TokenAttention):
    """Multi-head external attention (MEA), a drop-in for timm's ``attn_layer``, linear in the number of tokens.

    Tokens learn of each other only through ``heads × slots`` numbers per sample. "External" means that the memories are parameters, the same for every
    sample: at inference a sample's output does not depend on the rest of the batch.

    Args:
        dim: width C of the tokens.
        num_heads: heads before expansion. All heads share the memories, as in the paper.
        qkv_bias: bias of the query projection ``q``.
        qk_norm: normalize queries per head; the memory keys are free parameters already.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on the map, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        slots: S, see :class:`ExternalMemory`.
        expand: widen the queries to ``expand · C`` in ``expand · num_heads`` heads of the old width. The official EAMLP has 4, the paper 1.
        bias: biases on the memories; the official EAMLP has them.
        tie: see :class:`ExternalMemory`.
        normalization: see :class:`ExternalMemory`. With ``"slot"`` tokens do not mix at all.
        eps: see :class:`ExternalMemory`.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``; slots or expand below 1; an unknown tie or normalization.

    Example:
        >>> ExternalAttention(dim=64, num_heads=4)(torch.randn(2, 196, 64)).shape
        torch.Size([2, 196, 64])
    """

    old_names: ClassVar[dict[str, str]] = {"norm": "normalization"}

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        slots: int = 64
        expand: int = 1
        bias: bool = False
        tie: Tie = "init"
        normalization: ExternalNorm = "double"
        eps: float = 0.0

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
        slots: int = 64,
        expand: int = 1,
        bias: bool = False,
        tie: Tie = "init",
        normalization: ExternalNorm = "double",
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        if expand < 1:
            raise InputError(f"expand must be at least 1, got {expand}")
        factory = {"device": device, "dtype": dtype}
        norm_layer = norm_layer or nn.LayerNorm
        self.dim, self.num_heads, self.head_dim = dim, num_heads * expand, head_width(dim, num_heads, None)
        inner_dim = dim * expand
        self.q = nn.Linear(dim, inner_dim, bias=qkv_bias, **factory)
        self.q_norm = norm_layer(self.head_dim, **factory) if qk_norm else nn.Identity()
        self.memory = ExternalMemory(self.head_dim, slots, bias=bias, tie=tie, normalization=normalization, eps=eps, **factory)
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = norm_layer(inner_dim, **factory) if scale_norm else nn.Identity()
        self.proj = nn.Linear(inner_dim, dim, bias=proj_bias, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    @torch.no_grad()
    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """Queries keep their map, the output too where it has the same width. Keys and values have no counterpart: the memories are the same for all images."""
        if self.q.out_features != place.dim:
            make_the_rest(self, place)
            return rest_is_new(self, Transfer(dropped=names_in(place, "qkv", "proj")))
        self.proj = place.proj  # type: ignore[assignment]
        self.q_norm, self.norm = place.q_norm, place.norm
        make_the_rest(self, place)
        copy_rows(self.q, rows_of(place.qkv)[0], 1.0)
        out = Transfer(kept=names_in(place, "proj", "q_norm", "norm"), mapped=names_in(self, "q"))
        out.dropped = ["qkv rows of keys and values", *names_in(place, "k_norm")]
        return rest_is_new(self, out)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend.

        Args:
            x: tokens, ``(B, N, C)``.
            attn_mask: mask of keys, ``(B, 1, 1, N)``, True or 0 where a token takes part, False or -inf where not. Others neither send nor receive.
            is_causal: not possible; here to be refused.

        Returns:
            ``(B, N, C)``; for tokens that take no part, that of a zero vector.

        Raises:
            ValueError: wrong width or dtype; causality; a mask per query, per head or of other floats than 0 and -inf.
        """
        mask = self._check(x, attn_mask, is_causal)
        out = self.memory(self._queries(x), mask, self.attn_drop.p if self.training else 0.0)
        out = self.norm(rearrange(out, "b h n d -> b n (h d)"))
        return self.proj_drop(project(self.proj, out))

    def attention_map(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """``slots``: tokens over memory, ``(B, H, N, S)``; applied to the value memory it gives the output before ``proj``.

        ``combined``: the implied map from tokens to tokens, ``(B, H, N, N)``, rows sum to one. It shows who shapes whom; it does not reproduce the output.
        """
        mask = self._check(x, attn_mask, is_causal)
        return self.memory.attention_map(self._queries(x), mask)

    def macs(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.dim * self.num_heads * self.head_dim + self.num_heads * self.memory.macs(num_tokens)

    def no_weight_decay(self) -> set[str]:
        return {f"memory.{name}" for name in self.memory.no_weight_decay()}

    def _queries(self, x: Tensor) -> Tensor:
        return self.q_norm(rearrange(project(self.q, x), "b n (h d) -> b h n d", h=self.num_heads))

    def _check(self, x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor | None:
        self._check_tokens(x)
        if is_causal:
            raise InputError("ExternalAttention cannot be causal: every token reads and writes one shared memory; use softmax or denoising attention")
        if attn_mask is None:
            return None
        if not isinstance(attn_mask, Tensor):
            raise InputError(f"ExternalAttention expects attn_mask to be a tensor, got {type(attn_mask).__name__}")
        if not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point()) or tuple(attn_mask.shape) not in [
            (x.shape[0], 1, 1, x.shape[1]),
            (1, 1, 1, x.shape[1]),
        ]:
            raise InputError(
                "ExternalAttention can leave out tokens for all queries at once, "
                f"by an attn_mask, bool or 0 and -inf, of shape (B, 1, 1, N) = {(x.shape[0], 1, 1, x.shape[1])}, "
                f"got {attn_mask.dtype} of {tuple(attn_mask.shape)}; "
                "a mask per query has no meaning for a shared memory"
            )
        return keys_that_take_part("external attention", attn_mask)[:, 0, 0].expand(x.shape[0], -1)


@register("external_2d", family="memory", form="2d")
class ExternalAttention2d(FeatureMapAttention):
    """The external attention block of the segmentation network: 1×1 convolution, memories, 1×1 convolution and batch norm, a residual, ReLU.

    Args:
        channels: C.
        slots: S, see :class:`ExternalMemory`.
        tie: see :class:`ExternalMemory`.
        normalization: see :class:`ExternalMemory`.
        eps: see :class:`ExternalMemory`.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, any H and W; channels-last stays channels-last. At 1×1 every pixel gives the same output.

    Raises:
        ValueError: wrong number of channels; slots below 1; an unknown tie or normalization.

    Example:
        >>> ExternalAttention2d(32)(torch.randn(2, 32, 7, 9)).shape
        torch.Size([2, 32, 7, 9])
    """

    old_names: ClassVar[dict[str, str]] = {"norm": "normalization"}

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        slots: int = 64
        tie: Tie = "init"
        normalization: ExternalNorm = "double"
        eps: float = 0.0

    def __init__(
        self,
        channels: int,
        *,
        slots: int = 64,
        tie: Tie = "init",
        normalization: ExternalNorm = "double",
        eps: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(channels)
        self.channels: int = channels
        factory = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(channels, channels, 1, **factory)
        self.memory = ExternalMemory(channels, slots, tie=tie, normalization=normalization, eps=eps, **factory)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False, **factory)
        self.bn = nn.BatchNorm2d(channels, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' N(0, 2 / C) for both convolutions."""
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=(2 / self.channels) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        out = self.memory(self._queries(x))
        out = rearrange(out, "b 1 (h w) c -> b c h w", h=x.shape[-2])
        return F.relu(self.bn(self.conv2(out)) + x)

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        """``slots``, ``(B, 1, H·W, S)``, and the implied ``combined``, ``(B, 1, H·W, H·W)``, as in :meth:`ExternalAttention.attention_map`."""
        return self.memory.attention_map(self._queries(x))

    def summary_maps(self, x: Tensor) -> Tensor:
        """How much of each slot every pixel takes, ``(B, S, H, W)``: what is linear in pixels and can be drawn over an image of any size."""
        slots = external_attention_map(self._queries(x), self.memory.memory_k, **self.memory._map_options(None))
        return rearrange(slots, "b 1 (h w) s -> b s h w", h=x.shape[-2])

    def cost(self, height: int, width: int) -> Cost:
        """Parameters, and multiply-adds for one sample of that size."""
        pixels = height * width
        return Cost(parameters=sum(p.numel() for p in self.parameters()), macs=2 * pixels * self.channels**2 + self.memory.macs(pixels))

    def no_weight_decay(self) -> set[str]:
        return {f"memory.{name}" for name in self.memory.no_weight_decay()}

    def extra_repr(self) -> str:
        return f"channels={self.channels}"

    def _queries(self, x: Tensor) -> Tensor:
        check_maps(type(self).__name__, x, self.channels, self.conv1)
        return rearrange(self.conv1(x), "b c h w -> b 1 (h w) c")
