"""What stands for the tokens of all samples in cross-sample attention, and how it is fitted to them: clusters of what it will be compared with.

Shapes     C channels, K entries of the dictionary
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from .._fx import Leaf

__all__ = ["CrossSampleDictionary", "DictionaryInit", "fit_dictionaries_"]

DictionaryInit = Literal["normal", "uniform", "kmeans"]
"""``normal`` is N(0, 1), the size of normalized tokens; ``uniform`` is the official code's U(0, 1) / 100; ``kmeans`` is the paper's, and has to be fitted."""


class CrossSampleDictionary(Leaf):
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

    def forward(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """The entries, ``(1, K, C)``. ``tokens``, ``(B, N, C)``, are those that will be compared with them; they are looked at only while fitting, and padding
        not then: what bool ``there``, ``(B, N)``, leaves out.
        """
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
        """Put the entries at the centers of K clusters of the tokens.

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
        centers = torch.from_numpy(clusters.fit(sample.numpy()).cluster_centers_).to(sample)
        counts = _counts(sample, centers)
        while (empty := (counts == 0).nonzero().flatten()).numel():
            # an entry that lies on a token keeps that token, so there is one more of these each time round, and an end
            distance = _distances(distinct, centers, lambda distances: distances.amin(-1))
            farthest = distance.topk(min(len(empty), int((distance > 0).sum()))).indices
            centers[empty[: len(farthest)]] = distinct[farthest]
            counts = _counts(sample, centers)
        self.entries.copy_(centers)
        if self.log_prior is not None:
            self.log_prior.copy_((counts / counts.sum()).log())
        self.fitted = True
        return counts

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        # of this dictionary alone: what is missing of others, in the same load, says nothing of it
        wanted = {"entries": self.entries} | ({} if self.log_prior is None else {"log_prior": self.log_prior})
        if all(prefix + name in state_dict and state_dict[prefix + name].shape == value.shape for name, value in wanted.items()):
            self.fitted = True

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.dim}, init={self.init!r}"


def fit_dictionaries_(
    model: nn.Module, batches: Iterable[Any], *, seed: int = 0, max_tokens: int = 262_144, call: Callable[[nn.Module, Any], Any] | None = None
) -> dict[str, Tensor]:
    """Fit every dictionary of the model that waits for it, each in the space that it is read in, those of lower layers first.

    Args:
        model: any model with such dictionaries; it is run in evaluation mode and left in the mode it was in.
        batches: what the model takes, as often as there are dictionaries: a list or a loader, not a generator. The whole training set, or enough of it.
        seed: of the sampling and the clustering.
        max_tokens: see :meth:`CrossSampleDictionary.fit`.
        call: how the model is run on a batch; ``model(batch)`` if None. Models that take their inputs by name want ``lambda model, batch: model(**batch)``.

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
        return {name: dictionary.fit(_seen(model, dictionary, name, batches, call), seed=seed, max_tokens=max_tokens) for name, dictionary in waiting.items()}
    finally:
        for module, training in modes.items():
            module.training = training


class _Reached(Exception):
    """The forward pass has come as far as it was wanted."""


def _seen(
    model: nn.Module, dictionary: CrossSampleDictionary, name: str, batches: Iterable[Any], call: Callable[[nn.Module, Any], Any] | None
) -> Iterable[Tensor]:
    """The tokens that a dictionary is asked with, batch by batch."""
    tokens: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor | None, ...]) -> None:
        found, there = (*args, None)[:2]
        assert found is not None, "tokens come first"
        tokens.append((found if there is None else found[there]).detach())
        raise _Reached

    handle = dictionary.register_forward_pre_hook(hook)
    try:
        for batch in batches:
            try:
                model(batch) if call is None else call(model, batch)
            except _Reached:
                yield tokens.pop()
            else:
                raise InputError(f"the model does not come to the dictionary {name!r}, so there is nothing to fit it to")
    finally:
        handle.remove()


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


def _counts(tokens: Tensor, centers: Tensor) -> Tensor:
    """How many tokens are nearest to each center."""
    return _distances(tokens, centers, lambda distances: distances.argmin(-1)).bincount(minlength=len(centers))


def _distances(tokens: Tensor, centers: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Something of the distances of every token from all centers. Without the faster product, which loses what is near: a token must be at 0 from itself."""
    return torch.cat([of(torch.cdist(piece, centers, compute_mode="donot_use_mm_for_euclid_dist")) for piece in tokens.split(8192)])
