"""CATT: a transformer encoder with a second stream that attends to a dictionary instead of to the sample, fused at the top.

Paper      Yang et al., "Causal Attention for Vision-Language Tasks", CVPR 2021 (arXiv 2103.03493).
Official   yangxuntu/lxmertcatt ``src/lxrt/modeling.py``, ``BertLayer`` and the encoders above it
Formula    in-sample      u = LN(h + A(h; h));  z = LN(u + MLP(u))
           cross-sample   u = LN(h + A'(h; D)); x = LN(u + MLP'(u))    A' and MLP' are A and MLP if shared
           top            W [z; x] + b
Differs    The official cross layers all get the same cross-sample input, and overwrite each other's output: all but the last get no gradient. Here what a
           layer makes is what the next one reads (``chained``, ``reinject``), or there is one such layer (``single``).
Note       The cross-sample stream, too, adds the sample's own h: what it hands on is not purely of other samples.
           ``chained`` reaches the dictionary through its first layer alone, and the gradient that arrives there is small; ``single`` is the better start.
Status     layer: outputs and gradients equal to the official one's; the whole official network is foveal.models.lxmert, around transformers' LXMERT

Shapes     B batch, N tokens, C channels, K entries of the dictionary
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._errors import InputError, unknown
from .._fx import Leaf
from ..attention import CrossSampleDictionary, CrossSamplePair, SoftmaxAttention
from ..attention.dictionary import DictionaryInit
from ._mlp import Mlp

__all__ = ["CattEncoder", "CattLayer", "Stacking"]

Stacking = Literal["single", "chained", "reinject"]
"""Where the dictionary is read: ``single`` in the last layer; ``chained`` in the first, and each further layer reads what the one below made of it;
``reinject`` in each layer, beside what the one below made of it."""


class PostNorm(nn.Module):
    """What stands around an attention in a BERT layer: residual and norm, MLP, residual and norm."""

    def __init__(self, dim: int, mlp_ratio: float, drop: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop = nn.Dropout(drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self.norm1(hidden + attended)
        return self.norm2(hidden + self.drop(self.mlp(hidden)))


class BertLayer(nn.Module):
    """A layer of one stream, as those below the only cross-sample layer."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop: float, norm_eps: float) -> None:
        super().__init__()
        self.attn = SoftmaxAttention(dim, num_heads, qkv_bias=True, attn_drop=drop, proj_drop=drop)
        self.own = PostNorm(dim, mlp_ratio, drop, norm_eps)

    def forward(self, hidden: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return self.own(hidden, self.attn(hidden, attn_mask))


class CattLayer(Leaf):
    """A layer of two streams.

    Args:
        dim: width C of the tokens.
        num_heads: heads; must divide ``dim``.
        mlp_ratio: hidden width of the MLPs relative to ``dim``.
        share: both streams have the same weights. Else each has its own.
        drop: dropout on feature maps and on what is added to a residual, in training.
        norm_eps: of the layer norms; BERT's by default.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, *, share: bool = True, drop: float = 0.1, norm_eps: float = 1e-12) -> None:
        super().__init__()
        self.attn = CrossSamplePair(dim, num_heads, qkv_bias=True, attn_drop=drop, proj_drop=drop, share=share)
        self.own = PostNorm(dim, mlp_ratio, drop, norm_eps)
        self.cross = None if share else PostNorm(dim, mlp_ratio, drop, norm_eps)

    def forward(
        self,
        hidden: Tensor,
        dictionary: Tensor,
        attn_mask: Tensor | None = None,
        dictionary_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """In-sample and cross-sample.

        Args:
            hidden: tokens, ``(B, N, C)``; the queries of both streams.
            dictionary: ``(B or 1, K, C)``.
            attn_mask: of the tokens, as in :class:`~foveal.SoftmaxAttention`; in the in-sample attention alone.
            dictionary_mask: of the dictionary, broadcastable to ``(B, H, N, K)``.

        Returns:
            Two streams, each ``(B, N, C)``.
        """
        own, cross = self.attn.pair(hidden, dictionary, attn_mask, dictionary_mask=dictionary_mask)
        return self.own(hidden, own), (self.cross or self.own)(hidden, cross)


class CattEncoder(Leaf):
    """A stack of layers over tokens of any kind (regions, words, patches), with a dictionary that stands for other samples.

    Args:
        dim: width C of the tokens.
        depth: layers.
        num_heads: heads; must divide ``dim``.
        dictionary_size: K.
        stacking: see :data:`Stacking`.
        share: see :class:`CattLayer`.
        init: how the dictionary starts, see :data:`~foveal.attention.dictionary.DictionaryInit`; ``"kmeans"`` asks for :func:`foveal.fit_dictionaries_`.
        mlp_ratio: see :class:`CattLayer`.
        drop: see :class:`CattLayer`.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: an unknown stacking or init; a depth or dictionary below 1; heads that do not divide ``dim``.

    Example:
        >>> CattEncoder(dim=32, depth=3, num_heads=4, dictionary_size=50)(torch.randn(2, 9, 32)).shape
        torch.Size([2, 9, 32])
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        *,
        dictionary_size: int = 500,
        stacking: Stacking = "single",
        share: bool = True,
        init: DictionaryInit = "normal",
        mlp_ratio: float = 4.0,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        if stacking not in get_args(Stacking):
            raise unknown("stacking", stacking, get_args(Stacking))
        if depth < 1:
            raise InputError(f"an encoder needs at least one layer, got depth={depth}")
        self.stacking: Stacking = stacking
        single = depth - 1 if stacking == "single" else 0
        self.layers = nn.ModuleList(BertLayer(dim, num_heads, mlp_ratio, drop, 1e-12) for _ in range(single))
        self.two_streams = nn.ModuleList(CattLayer(dim, num_heads, mlp_ratio, share=share, drop=drop) for _ in range(depth - single))
        self.dictionary = CrossSampleDictionary(dictionary_size, dim, init=init)
        self.fuse = nn.Linear(2 * dim, dim)
        self.grad_checkpointing = False

    def forward(self, hidden: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Encode and fuse.

        Args:
            hidden: tokens, ``(B, N, C)``.
            attn_mask: bool, ``(B, 1, 1, N)``, True where a token takes part. It holds for the tokens that a chained stream reads too, never for the dictionary.

        Returns:
            ``(B, N, C)``.

        Raises:
            ValueError: wrong width; a mask of another form; a dictionary that was to be fitted and was not.
        """
        if attn_mask is not None and (attn_mask.dtype != torch.bool or attn_mask.shape != (hidden.shape[0], 1, 1, hidden.shape[1])):
            wanted = (hidden.shape[0], 1, 1, hidden.shape[1])
            raise InputError(f"CattEncoder expects a bool attn_mask (B, 1, 1, N) = {wanted}, got {attn_mask.dtype} of {tuple(attn_mask.shape)}")
        for layer in self.layers:
            hidden = self._through(layer, hidden, attn_mask)
        entries = self.dictionary(hidden, None if attn_mask is None else attn_mask[:, 0, 0])
        cross, cross_mask = entries, None
        for depth, layer in enumerate(self.two_streams):
            if depth and self.stacking == "reinject":
                cross = torch.cat([cross, entries.expand(hidden.shape[0], -1, -1)], dim=1)
                if attn_mask is not None:
                    cross_mask = torch.cat([attn_mask, attn_mask.new_ones(hidden.shape[0], 1, 1, entries.shape[1])], dim=-1)
            hidden, cross = self._through(layer, hidden, cross, attn_mask, cross_mask)
            cross_mask = attn_mask
        return self.fuse(torch.cat([hidden, cross], dim=-1))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep what stands between layers alone, and compute each again in the backward pass."""
        self.grad_checkpointing = enable

    def _through(self, layer: nn.Module, *inputs: Tensor | None) -> Any:
        return checkpoint(layer, *inputs, use_reentrant=False) if self.grad_checkpointing else layer(*inputs)
