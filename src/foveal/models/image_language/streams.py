"""Layers of one stream and of two, over regions and over words: the second stream meets a dictionary, or is one of its controls.

Paper      Yang et al., "Causal Attention for Vision-Language Tasks", CVPR 2021 (arXiv 2103.03493). No code of its captioner and of its MCAN was released: this
           is a reconstruction from the formula and from the layers of the released LXMERT (:mod:`foveal.models.catt`).
Formula    self     u = LN(h + A(h; h)),       u' = LN(h + A'(h; D))            D a dictionary, or h itself, or left out with its attention
           context  z = MLP(LN(u + X(u; m))),  x  = MLP'(LN(u' + X'(u'; m')))   m, m' the two streams that are read; MLP with residual and norm
           top      W [z; x] + b                                               W starts at [I | 0]: the host's own function
Differs    Two streams in the last layer alone (``single`` of :class:`~foveal.models.CattEncoder`).

Shapes     B batch, N tokens, M tokens that are read, C channels, K entries
"""

from typing import Any, Unpack

import torch
from einops import rearrange
from torch import Tensor, nn

from ..._errors import InputError
from ...attention import SoftmaxAttention
from ...attention._linear import project
from ...functional import softmax_attention
from ..catt import BertLayer, CattLayer, PostNorm
from .second import Second, SecondOptions

__all__ = ["KeptAttention", "Reader", "ReadingLayer", "StreamEncoder", "Streams", "fuse_streams"]

Streams = tuple[Tensor, Tensor | None]
"""In-sample, and the second where there is one."""
_EPS = 1e-12


class KeptAttention(SoftmaxAttention):
    """Softmax attention whose keys and values can be made once and kept, for words one after the other."""

    def keys_values(self, tokens: Tensor) -> Tensor:
        """Side by side, ``(S, M, 2C)``."""
        return project(self.qkv, tokens, slice(self.inner_dim, None))

    def read(self, x: Tensor, kept: Tensor, mask: Tensor | None = None) -> Tensor:
        """What :meth:`forward` gives for such a context, in evaluation mode, ``(B, N, C)``.

        Args:
            x: queries.
            kept: of :meth:`keys_values`; of fewer samples than ``x`` has each is read by as many in a row, together and without a copy.
            mask: bool ``(S, 1, 1, M)``.
        """
        asked = x.reshape(len(kept), -1, x.shape[-1])
        q = self.q_norm(self._heads(project(self.qkv, asked, slice(self.inner_dim))))
        k, v = rearrange(kept, "b n (t h d) -> t b h n d", t=2, h=self.num_heads)
        out = rearrange(softmax_attention(q, self.k_norm(k), v, mask=mask), "b h n d -> b n (h d)")
        return project(self.proj, self.norm(out)).reshape(x.shape)


class _Skip(nn.Module):
    """A layer whose second stream has no attention: a norm and an MLP of the tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop: float) -> None:
        super().__init__()
        self.first = BertLayer(dim, num_heads, mlp_ratio, drop, _EPS)
        self.second = PostNorm(dim, mlp_ratio, drop, _EPS)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Streams:
        return self.first(hidden, mask), self.second(hidden, torch.zeros_like(hidden))


class StreamEncoder(nn.Module):
    """Self-attention, layer by layer; the last has two streams unless ``catt`` is ``none``.

    Args:
        dim: width C.
        depth: layers.
        num_heads: heads; must divide ``dim``.
        mlp_ratio: hidden width of the MLPs relative to ``dim``.
        drop: dropout on maps and before residuals.
        second: the fields of :class:`Second`.

    Raises:
        ValueError: an unknown ``catt`` or ``init``; a depth or dictionary below 1.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop: float = 0.1,
        **second: Unpack[SecondOptions],
    ) -> None:
        super().__init__()
        own = Second(**second)
        _check_depth(depth)
        self.catt = own.catt
        single = depth if own.catt == "none" else depth - 1
        self.layers = nn.ModuleList(BertLayer(dim, num_heads, mlp_ratio, drop, _EPS) for _ in range(single))
        self.two_streams: nn.Module | None = None
        if own.catt == "skip":
            self.two_streams = _Skip(dim, num_heads, mlp_ratio, drop)
        elif own.catt != "none":
            self.two_streams = CattLayer(dim, num_heads, mlp_ratio, share=not own.unshared, drop=drop)
        self.dictionary = own.dictionary(dim)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Streams:
        """Both streams of ``(B, N, C)``; ``mask`` bool ``(B, 1, 1, N)``, True where a token is."""
        for layer in self.layers:
            hidden = layer(hidden, mask)
        if self.two_streams is None:
            return hidden, None
        if self.catt == "skip":
            return self.two_streams(hidden, mask)
        if self.dictionary is not None:
            return self.two_streams(hidden, self.dictionary(hidden, None if mask is None else mask[:, 0, 0]), mask)
        return self.two_streams(hidden, hidden, mask, mask)


class ReadingLayer(nn.Module):
    """A stream that attends to itself, or to a dictionary, or to nothing, and then reads what an encoder gives."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop: float, *, itself: bool = True) -> None:
        super().__init__()
        options: dict[str, Any] = {"qkv_bias": True, "attn_drop": drop, "proj_drop": drop}
        self.self_attn = KeptAttention(dim, num_heads, **options) if itself else None
        self.self_norm = nn.LayerNorm(dim, eps=_EPS)
        self.attn = KeptAttention(dim, num_heads, **options)
        self.post = PostNorm(dim, mlp_ratio, drop, _EPS)

    def forward(
        self, hidden: Tensor, memory: Tensor, memory_mask: Tensor | None, *, entries: Tensor | None = None, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """``(B, N, C)``.

        Args:
            hidden: tokens.
            memory: what is read, ``(B, M, C)``.
            memory_mask: bool ``(B, 1, 1, M)``.
            entries: a dictionary, ``(1, K, C)``, for self-attention to read in place of the tokens; neither ``mask`` nor causality is of it.
            mask: of the tokens, bool ``(B, 1, 1, N)``.
            causal: a token sees only itself and those before it.
        """
        inner = self._itself(hidden, entries, mask, causal)
        return self.post(inner, self.attn(inner, memory_mask, context=memory))

    def _itself(self, hidden: Tensor, entries: Tensor | None, mask: Tensor | None, causal: bool) -> Tensor:
        if self.self_attn is None:
            return self.self_norm(hidden)
        context = None if entries is None else entries.expand(len(hidden), -1, -1)
        options = {"attn_mask": mask, "is_causal": causal} if entries is None else {}
        return self.self_norm(hidden + self.self_attn(hidden, context=context, **options))

    def look(self, hidden: Tensor, memory: Tensor, memory_mask: Tensor | None, *, causal: bool = False) -> Tensor:
        """What each token takes of the memory, a mean over heads, ``(B, N, M)``."""
        inner = self._itself(hidden, None, None, causal)
        return self.attn.attention_map(inner, memory_mask, context=memory)["combined"].mean(1)


class Reader(nn.Module):
    """Layers of :class:`ReadingLayer`; the last has two streams unless ``catt`` is ``none``. Arguments as in :class:`StreamEncoder`."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop: float = 0.1,
        **second: Unpack[SecondOptions],
    ) -> None:
        super().__init__()
        own = Second(**second)
        _check_depth(depth)
        self.catt = own.catt
        self.layers = nn.ModuleList(ReadingLayer(dim, num_heads, mlp_ratio, drop) for _ in range(depth))
        skips = own.catt == "skip"
        self.second = ReadingLayer(dim, num_heads, mlp_ratio, drop, itself=not skips) if skips or own.unshared else None
        self.dictionary = own.dictionary(dim)
        self.fuse = None if own.catt == "none" else fuse_streams(dim)

    @property
    def second_layer(self) -> ReadingLayer:
        """The layer of the second stream, which has the weights of the last where it shares them."""
        layer = self.second or self.layers[-1]
        assert isinstance(layer, ReadingLayer), "all are"
        return layer

    def forward(
        self,
        hidden: Tensor,
        memory: Streams,
        memory_mask: Tensor | None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        there: Tensor | None = None,
    ) -> Tensor:
        """Both streams, fused, ``(B, N, C)``; see :class:`ReadingLayer`. The second stream reads the memory's second, where it has one.

        ``there``, bool ``(B, N)``, says which tokens are no padding where there is no ``mask``: of these a dictionary is fitted.
        """
        options: dict[str, Any] = {"mask": mask, "causal": causal}
        for layer in self.layers[:-1]:
            hidden = layer(hidden, memory[0], memory_mask, **options)
        own = self.layers[-1](hidden, memory[0], memory_mask, **options)
        if self.fuse is None:
            return own
        entries = None if self.dictionary is None else self.dictionary(hidden, there if mask is None else mask[:, 0, 0])
        second = self.second_layer(hidden, memory[0] if memory[1] is None else memory[1], memory_mask, entries=entries, **options)
        return self.fuse(torch.cat([own, second], -1))

    def look(self, hidden: Tensor, memory: Streams, memory_mask: Tensor | None, *, causal: bool = False) -> Tensor:
        """What each token takes of the memory in the last layer's own stream, ``(B, N, M)``."""
        for layer in self.layers[:-1]:
            hidden = layer(hidden, memory[0], memory_mask, causal=causal)
        last = self.layers[-1]
        assert isinstance(last, ReadingLayer), "all are"
        return last.look(hidden, memory[0], memory_mask, causal=causal)


def fuse_streams(dim: int) -> nn.Linear:
    """Of two streams one; at first the first alone."""
    layer = nn.Linear(2 * dim, dim)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(dim, 2 * dim))
        layer.bias.zero_()
    return layer


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise InputError(f"expected at least one layer, got depth={depth}")
