"""Cross-sample attention as a layer; see :mod:`foveal.functional.cross_sample` for the mathematics, the paper and what differs from it.

Shapes     B batch, N tokens, C channels, H heads, D head width, K entries of the dictionary
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from .._fx import leaf_method
from .._renamed import renamed_arguments
from ..functional import cross_sample_attention, cross_sample_attention_maps
from ._base import Context, NormLayer, QKVAttention, Rope, apply_rope, check_mask
from ._linear import project
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new
from .dictionary import CrossSampleDictionary, DictionaryInit

__all__ = ["CrossSampleAttention", "CrossSamplePair"]


class CrossSamplePair(QKVAttention):
    """The two attentions for a dictionary that is given. Layers of an encoder own one each, :class:`CrossSampleAttention` is one with all around it.

    ``forward`` is the in-sample attention alone.

    Args:
        share: the dictionary is read with the weights of the sample. Else ``cross_qkv`` and ``cross_proj`` are its own.
    """

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
        share: bool = True,
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
            core="softmax",
            device=device,
            dtype=dtype,
        )
        factory = {"device": device, "dtype": dtype}
        norm_layer = norm_layer or nn.LayerNorm
        self.share = share
        self.cross_qkv = None if share else nn.Linear(dim, 3 * self.inner_dim, bias=qkv_bias, **factory)
        self.cross_proj = None if share else nn.Linear(self.inner_dim, dim, bias=proj_bias, **factory)
        apart = qk_norm and not share
        self.cross_q_norm = norm_layer(self.head_dim, **factory) if apart else None
        self.cross_k_norm = norm_layer(self.head_dim, **factory) if apart else None
        self.cross_norm = norm_layer(self.inner_dim, **factory) if scale_norm and not share else None

    @leaf_method
    def pair(
        self,
        x: Tensor,
        dictionary: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        dictionary_mask: Tensor | None = None,
        context: Context | None = None,
        rope: Rope | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both streams.

        Args:
            x: tokens, ``(B, N, C)``.
            dictionary: ``(B or 1, K, C)``.
            attn_mask: of the sample's tokens, as in :class:`~foveal.SoftmaxAttention`; it does not touch the dictionary.
            is_causal: a token looks only at itself and those before it, and at all of the dictionary.
            dictionary_mask: of the entries, broadcastable to ``(B, H, N, K)``, bool (True takes part) or float (added to the logits).
            context: tokens that keys and values of the sample are made from; ``x`` if None.
            rope: rotary positions of the sample; the dictionary lies nowhere.

        Returns:
            In-sample and cross-sample, each ``(B, N, C)``, projected.
        """
        options = self._check(x, attn_mask, is_causal, context)
        q, k, v = self._qkv(x, context)
        q_cross, entries_k, entries_v = self._entries(x, q, dictionary)
        if dictionary_mask is not None:
            full = (x.shape[0], self.num_heads, x.shape[1], dictionary.shape[1])
            dictionary_mask = check_mask(type(self).__name__, "dictionary_mask", dictionary_mask, full, q.dtype)
        own, cross = cross_sample_attention(
            apply_rope(q, rope),
            apply_rope(k, rope, of_keys=True),
            v,
            dictionary_k=entries_k,
            dictionary_v=entries_v,
            q_cross=q_cross,
            dictionary_mask=dictionary_mask,
            dropout_p=self.attn_drop.p if self.training else 0.0,
            **options,
        )
        own, cross = (rearrange(out, "b h n d -> b n (h d)") for out in (own, cross))
        own = project(self.proj, self.norm(own))
        cross = project(self.cross_proj or self.proj, (self.cross_norm or self.norm)(cross))
        return self.proj_drop(own), self.proj_drop(cross)

    def _entries(self, x: Tensor, q: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries to the dictionary, its keys and its values."""
        self._check_tokens(dictionary, " dictionary")
        if dictionary.shape[0] not in (x.shape[0], 1) or dictionary.shape[1] < 1:
            raise InputError(f"{type(self).__name__} expects a dictionary (1 or B, K, C) with B={x.shape[0]} and K ≥ 1, got {tuple(dictionary.shape)}")
        layer = self.cross_qkv or self.qkv
        k, v = rearrange(project(layer, dictionary, slice(self.inner_dim, None)), "b n (t h d) -> t b h n d", t=2, h=self.num_heads)
        if self.cross_qkv is not None:
            q = (self.cross_q_norm or nn.Identity())(self._heads(project(self.cross_qkv, x, slice(self.inner_dim))))
            return q, (self.cross_k_norm or nn.Identity())(k), v
        return q, self.k_norm(k), v


@register("cross_sample", family="memory")
class CrossSampleAttention(CrossSamplePair):
    """Cross-sample attention as one layer: in-sample and cross-sample attention, and a linear map of the two into one.

    ``qkv`` and ``proj`` are timm's; with ``fuse`` at [I | 0] the layer is the softmax attention of these weights. The paper fuses once, at the top of its
    network (``foveal.models.CattEncoder``); here every layer has a dictionary and fuses.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per head, those of the dictionary too.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj`` and ``fuse``.
        attn_drop: dropout on both maps, drawn apart, in training.
        proj_drop: dropout on both streams, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.
        dictionary_size: K; 500 is the authors'.
        share: read the dictionary with the weights of the sample, as the paper does; else with weights of its own.
        init: how the dictionary starts, see :data:`~foveal.attention.dictionary.DictionaryInit`. ``"kmeans"`` asks for
            :func:`~foveal.fit_dictionaries_` before anything else.
        trainable: the dictionary is trained.
        prior: see :class:`CrossSampleDictionary`.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; a dictionary that cannot be, see :class:`CrossSampleDictionary`.

    Example:
        >>> CrossSampleAttention(dim=64, num_heads=4, dictionary_size=100)(torch.randn(2, 49, 64)).shape
        torch.Size([2, 49, 64])
    """

    takes_warm_start = "exact"
    fuses_streams = True

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        dictionary_size: int = 500
        share: bool = True
        init: DictionaryInit = "normal"
        trainable: bool = True
        prior: bool = False

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
        dictionary_size: int = 500,
        share: bool = True,
        init: DictionaryInit = "normal",
        trainable: bool = True,
        prior: bool = False,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            qkv_bias,
            qk_norm,
            scale_norm,
            proj_bias,
            attn_drop,
            proj_drop,
            norm_layer,
            device,
            dtype,
            attn_head_dim=attn_head_dim,
            share=share,
        )
        self.dictionary = CrossSampleDictionary(dictionary_size, dim, init=init, trainable=trainable, prior=prior, device=device, dtype=dtype)
        self.fuse = nn.Linear(2 * dim, dim, bias=proj_bias, device=device, dtype=dtype)

    @torch.no_grad()
    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """The second half is not read at first."""
        out = adopt_layers(self, place)
        self.fuse.weight.copy_(torch.eye(self.dim, 2 * self.dim))
        if self.fuse.bias is not None:
            self.fuse.bias.zero_()
        out.function = "kept"
        return rest_is_new(self, out)

    def unfit_for(self, place: HostLayers) -> str:
        return "it changes the width of its tokens, at which cross-sample attention fuses its streams" if place.weight.shape[0] != place.dim else ""

    @renamed_arguments("attention", rotate="rope")
    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None) -> Tensor:
        """Attend to the sample and to the dictionary.

        Args:
            x: tokens, ``(B, N, C)``.
            attn_mask: of the sample's tokens, as in :class:`~foveal.SoftmaxAttention`; the dictionary is seen always.
            is_causal: a token looks only at itself and those before it, and at all of the dictionary.
            context: tokens that keys and values of the sample are made from, ``(B, Nk, C)``; ``x`` if None.
            rope: rotary positions of the sample; the dictionary lies nowhere.

        Returns:
            ``(B, N, C)``. A token whose every key is masked still has its cross-sample half.

        Raises:
            ValueError: wrong width, shape or dtype; causality together with a context; a dictionary that was to be fitted and was not.
        """
        self._check_tokens(x)
        streams = self.pair(x, self.dictionary(x), attn_mask, is_causal, self.dictionary.mask, context, rope)
        return project(self.fuse, torch.cat(streams, dim=-1))

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> dict[str, Tensor]:
        """``combined``: the in-sample map, all that tokens learn of each other. ``dictionary``: over its entries, ``(B, H, N, K)``. Rows sum to one.

        Applied to the values of the sample and of the dictionary they give the two streams before ``proj``.
        """
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _ = self._qkv(x, context)
        q_cross, entries, _ = self._entries(x, q, self.dictionary(x))
        return cross_sample_attention_maps(
            apply_rope(q, rope), apply_rope(k, rope, of_keys=True), dictionary_k=entries, q_cross=q_cross, dictionary_mask=self.dictionary.mask, **options
        )

    def macs(self, num_tokens: int) -> int:
        """Those of the dictionary's keys and values are spent once for a batch; here one sample bears them."""
        entries = self.dictionary.size
        projections = self._projection_macs(num_tokens, 5 if self.share else 6) + self._projection_macs(entries, 2)
        return projections + 2 * num_tokens * (num_tokens + entries) * self.inner_dim + 2 * num_tokens * self.dim**2

    def no_weight_decay(self) -> set[str]:
        return {"dictionary.entries"}
