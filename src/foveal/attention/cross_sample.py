"""Cross-sample attention as a layer; see :mod:`foveal.functional.cross_sample` for the mathematics, the paper and what differs from it.

Shapes     B batch, N tokens, C channels, H heads, D head width, K entries of the dictionary
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from ..functional import cross_sample_attention, cross_sample_attention_maps
from ._base import NormLayer, QKVAttention, Rotate, check_mask, turned
from ._linear import project
from ._registry import AttentionConfig, register

__all__ = ["CrossSampleAttention", "CrossSampleDictionary", "CrossSamplePair", "DictionaryInit", "fit_dictionaries_"]

DictionaryInit = Literal["normal", "uniform", "kmeans"]
"""``normal`` is N(0, 1), the size of normalised tokens; ``uniform`` is the official code's U(0, 1) / 100; ``kmeans`` is the paper's, and has to be fitted."""


class CrossSampleDictionary(nn.Module):
    """K entries that stand for the tokens of all samples.

    Args:
        size: K.
        dim: width C of the tokens.
        init: how the entries start, see :data:`DictionaryInit`. The official code means to cluster and never does: a constant switches it off.
        trainable: the task's loss moves the entries.
        prior: keep how often each entry occurred when it was fitted, and add its logarithm to the logits of that entry.

    Raises:
        ValueError: a size or width below 1; an unknown init; ``prior`` without ``init="kmeans"``. When read: entries that were to be fitted and were not.
    """

    entries: nn.Parameter
    log_prior: Tensor | None

    def __init__(
        self, size: int, dim: int, *, init: DictionaryInit = "normal", trainable: bool = True, prior: bool = False, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise InputError(f"a dictionary needs at least one entry of at least one channel, got {size} entries of {dim}")
        if init not in get_args(DictionaryInit):
            raise unknown("init of a dictionary", init, get_args(DictionaryInit))
        if prior and init != "kmeans":
            raise InputError(f'a prior counts what fell to each entry in fitting, so it needs init="kmeans"; got init={init!r}')
        self.size, self.dim, self.init, self.fitted = size, dim, init, init != "kmeans"
        self.entries = nn.Parameter(torch.empty(size, dim, device=device, dtype=dtype), requires_grad=trainable)
        self.register_buffer("log_prior", torch.empty(size, device=device, dtype=dtype) if prior else None)
        self.register_load_state_dict_post_hook(_was_loaded)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As at the start; a dictionary of clusters has to be fitted again."""
        self.fitted = self.init != "kmeans"
        if self.init == "uniform":
            nn.init.uniform_(self.entries, 0.0, 0.01)
        else:
            nn.init.normal_(self.entries)
        if self.log_prior is not None:
            self.log_prior.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """The entries, ``(1, K, C)``. ``tokens`` are those that will be compared with them; they are looked at only while fitting."""
        if not self.fitted:
            raise InputError(
                "this dictionary is to hold clusters of the training tokens and was not fitted: "
                'call foveal.fit_dictionaries_(model, batches), load a state dict, or choose init="normal"'
            )
        return self.entries[None]

    @property
    def mask(self) -> Tensor | None:
        """What is added to the logits of the entries, ``(1, 1, 1, K)``."""
        return None if self.log_prior is None else self.log_prior.view(1, 1, 1, -1)

    @torch.no_grad()
    def fit(self, tokens: Tensor | Iterable[Tensor], *, seed: int = 0, max_tokens: int = 262_144) -> Tensor:
        """Put the entries at the centres of K clusters of the tokens.

        Args:
            tokens: of the whole training set, ``(…, C)``, or batches of them; read once.
            seed: of the sampling and the clustering.
            max_tokens: that are kept; of more, a uniform sample.

        Returns:
            How many of them fell to each entry, ``(K,)``; never 0: a cluster that stayed empty is moved to a token.

        Raises:
            ValueError: tokens of another width or not finite; fewer different tokens than entries.
        """
        try:
            from sklearn.cluster import MiniBatchKMeans
        except ImportError as error:
            raise missing_extra("scikit-learn", "train", "fitting a dictionary") from error
        generator = torch.Generator().manual_seed(seed)
        sample = _sample([tokens] if isinstance(tokens, Tensor) else tokens, self.dim, max_tokens, generator)
        distinct = sample.unique(dim=0)
        if len(distinct) < self.size:
            raise InputError(
                f"a dictionary of {self.size} entries needs as many different tokens, got {len(distinct)}; give more tokens or a smaller dictionary"
            )
        clusters = MiniBatchKMeans(self.size, batch_size=max(1024, 4 * self.size), max_iter=10, n_init=1, random_state=seed)
        centres = torch.from_numpy(clusters.fit(sample.numpy()).cluster_centers_).to(sample)
        counts = _counts(sample, centres)
        while (empty := (counts == 0).nonzero().flatten()).numel():
            # an entry that lies on a token keeps that token, so there is one more of these each time round, and an end
            distance = _distances(distinct, centres, lambda distances: distances.amin(-1))
            farthest = distance.topk(min(len(empty), int((distance > 0).sum()))).indices
            centres[empty[: len(farthest)]] = distinct[farthest]
            counts = _counts(sample, centres)
        self.entries.copy_(centres)
        if self.log_prior is not None:
            self.log_prior.copy_((counts / counts.sum()).log())
        self.fitted = True
        return counts

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.dim}, init={self.init!r}"


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

    def pair(
        self,
        x: Tensor,
        dictionary: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        dictionary_mask: Tensor | None = None,
        context: Tensor | None = None,
        rotate: Rotate | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both streams.

        Args:
            x: tokens, ``(B, N, C)``.
            dictionary: ``(B or 1, K, C)``.
            attn_mask: of the sample's tokens, as in :class:`~foveal.SoftmaxAttention`; it does not touch the dictionary.
            is_causal: a token looks only at itself and those before it, and at all of the dictionary.
            dictionary_mask: of the entries, broadcastable to ``(B, H, N, K)``, bool (True takes part) or float (added to the logits).
            context: tokens that keys and values of the sample are made from; ``x`` if None.
            rotate: rotary positions of the sample; the dictionary lies nowhere.

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
            turned(q, rotate),
            turned(k, rotate),
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
        qk_norm: normalise queries and keys per head, those of the dictionary too.
        scale_norm: normalise before ``proj``.
        proj_bias: bias in ``proj`` and ``fuse``.
        attn_drop: dropout on both maps, drawn apart, in training.
        proj_drop: dropout on both streams, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.
        dictionary_size: K; 500 is the authors'.
        share: read the dictionary with the weights of the sample, as the paper does; else with weights of its own.
        init: how the dictionary starts, see :data:`DictionaryInit`. ``"kmeans"`` asks for :func:`fit_dictionaries_` before anything else.
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

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Tensor | None = None, rotate: Rotate | None = None
    ) -> Tensor:
        """Attend to the sample and to the dictionary.

        Args:
            x: tokens, ``(B, N, C)``.
            attn_mask: of the sample's tokens, as in :class:`~foveal.SoftmaxAttention`; the dictionary is seen always.
            is_causal: a token looks only at itself and those before it, and at all of the dictionary.
            context: tokens that keys and values of the sample are made from, ``(B, Nk, C)``; ``x`` if None.
            rotate: rotary positions of the sample; the dictionary lies nowhere.

        Returns:
            ``(B, N, C)``. A token whose every key is masked still has its cross-sample half.

        Raises:
            ValueError: wrong width, shape or dtype; causality together with a context; a dictionary that was to be fitted and was not.
        """
        self._check_tokens(x)
        streams = self.pair(x, self.dictionary(x), attn_mask, is_causal, self.dictionary.mask, context, rotate)
        return project(self.fuse, torch.cat(streams, dim=-1))

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Tensor | None = None, rotate: Rotate | None = None
    ) -> dict[str, Tensor]:
        """``combined``: the in-sample map, all that tokens learn of each other. ``dictionary``: over its entries, ``(B, H, N, K)``. Rows sum to one.

        Applied to the values of the sample and of the dictionary they give the two streams before ``proj``.
        """
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _ = self._qkv(x, context)
        q_cross, entries, _ = self._entries(x, q, self.dictionary(x))
        return cross_sample_attention_maps(
            turned(q, rotate), turned(k, rotate), dictionary_k=entries, q_cross=q_cross, dictionary_mask=self.dictionary.mask, **options
        )

    def macs(self, num_tokens: int) -> int:
        """Those of the dictionary's keys and values are spent once for a batch; here one sample bears them."""
        entries = self.dictionary.size
        projections = self._projection_macs(num_tokens, 5 if self.share else 6) + self._projection_macs(entries, 2)
        return projections + 2 * num_tokens * (num_tokens + entries) * self.inner_dim + 2 * num_tokens * self.dim**2

    def no_weight_decay(self) -> set[str]:
        return {"dictionary.entries"}


def fit_dictionaries_(model: nn.Module, batches: Iterable[Any], *, seed: int = 0, max_tokens: int = 262_144) -> dict[str, Tensor]:
    """Fit every dictionary of the model that waits for it, each in the space that it is read in, those of lower layers first.

    Args:
        model: any model with such dictionaries; it is run in evaluation mode and left in the mode it was in.
        batches: what the model takes, as often as there are dictionaries: a list or a loader, not a generator. The whole training set, or enough of it.
        seed: of the sampling and the clustering.
        max_tokens: see :meth:`CrossSampleDictionary.fit`.

    Returns:
        How many tokens fell to each entry, by name of the dictionary.

    Raises:
        ValueError: there is none to fit; ``batches`` can be read only once; a dictionary that the model does not reach.
    """
    waiting = {name: module for name, module in model.named_modules() if isinstance(module, CrossSampleDictionary) and not module.fitted}
    if not waiting:
        raise InputError('the model has no dictionary that waits to be fitted; build it with init="kmeans"')
    if iter(batches) is batches:
        raise InputError("batches are read once for each dictionary; give a list or a loader, not a generator")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return {name: dictionary.fit(_seen(model, dictionary, name, batches), seed=seed, max_tokens=max_tokens) for name, dictionary in waiting.items()}
    finally:
        for module, training in modes.items():
            module.training = training


class _Reached(Exception):
    """The forward pass has come as far as it was wanted."""


def _seen(model: nn.Module, dictionary: CrossSampleDictionary, name: str, batches: Iterable[Any]) -> Iterable[Tensor]:
    """The tokens that a dictionary is asked with, batch by batch."""
    tokens: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        tokens.append(args[0].detach())
        raise _Reached

    handle = dictionary.register_forward_pre_hook(hook)
    try:
        for batch in batches:
            try:
                model(batch)
            except _Reached:
                yield tokens.pop()
            else:
                raise InputError(f"the model does not come to the dictionary {name!r}, so there is nothing to fit it to")
    finally:
        handle.remove()


def _was_loaded(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, CrossSampleDictionary)
    module.fitted = module.fitted or "entries" not in {key.rpartition(".")[2] for key in incompatible.missing_keys}


def _sample(batches: Iterable[Tensor], dim: int, limit: int, generator: torch.Generator) -> Tensor:
    """At most ``limit`` rows, each with the same chance: those with the smallest of as many random numbers."""
    kept, keys = torch.empty(0, dim), torch.empty(0)
    for batch in batches:
        if batch.shape[-1] != dim or not batch.is_floating_point() or not batch.isfinite().all():
            raise InputError(f"a dictionary is fitted to finite tokens (…, {dim}) in floating point, got {tuple(batch.shape)} of {batch.dtype}")
        rows = batch.detach().reshape(-1, dim).float().cpu()
        kept, keys = torch.cat([kept, rows]), torch.cat([keys, torch.rand(len(rows), generator=generator)])
        if len(kept) > limit:
            keys, order = keys.topk(limit, largest=False)
            kept = kept[order]
    return kept


def _counts(tokens: Tensor, centres: Tensor) -> Tensor:
    """How many tokens are nearest to each centre."""
    return _distances(tokens, centres, lambda distances: distances.argmin(-1)).bincount(minlength=len(centres))


def _distances(tokens: Tensor, centres: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Something of the distances of every token from all centres. Without the faster product, which loses what is near: a token must be at 0 from itself."""
    return torch.cat([of(torch.cdist(piece, centres, compute_mode="donot_use_mm_for_euclid_dist")) for piece in tokens.split(8192)])
