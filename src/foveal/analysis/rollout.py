"""Attention through all layers: rollout, and rollout weighted by the gradient of an answer.

Papers     Abnar & Zuidema, "Quantifying Attention Flow in Transformers", 2020 (arXiv 2005.00928): the product of ½(W + I) over layers.
           Chefer et al., "Generic Attention-model Explainability", 2021 (arXiv 2103.15679), eq. 5 and 6: R ← R + mean_h (∇A ⊙ A)⁺ R.
Differs    Abnar & Zuidema divide each row by its sum. ½(W + I) has rows that sum to one wherever those of W do, so that we do not; for signed maps there is
           nothing that such a division would mean.

Shapes     B batch, H heads, N tokens
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import TokenAttention
from ..convert import Where
from ._names import Names, unwrapped
from ._watch import Found, Watch, is_ours
from .maps import call, evaluating, nothing_seen, refuse_missing, seen_maps

__all__ = ["Flow", "Heads", "Signed", "gradient_rollout", "rollout", "rollout_of"]

Heads = Literal["mean", "max", "min"]
Signed = Literal["positive", "negative", "combined", "magnitude"]

_FUSED: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda x: x.mean(1), "max": lambda x: x.amax(1), "min": lambda x: x.amin(1)}


def rollout(model: nn.Module, images: Any, *, where: Where = "*", heads: Heads = "mean", signed: Signed = "positive", residual: float = 0.5) -> Tensor:
    """How much each token at the end has of each token at the start, if all that layers do is to mix tokens: the product of all layers' maps.

    All layers count but a pooling head, which asks with one query. The maps of one layer at a time are in memory.

    What a signed map (denoising, differential) means along many layers is a choice, and it is yours:

    - ``positive`` follows what is gathered, and forgets what is subtracted. Rows sum to one.
    - ``negative`` follows what is subtracted, in every layer. Rows sum to one.
    - ``combined`` follows A⁺ − λA⁻ with its sign, two subtractions being a gain. Rows sum to the product over layers of ``1 − (1 − residual) · mean λ``, and
      entries may be negative: it is a flow, no distribution. With values apart the two maps carry different values, and this is a summary of where.
    - ``magnitude`` follows the magnitudes of A⁺ − λA⁻, rows divided by their sums: how much was exchanged, for or against.

    Unsigned layers are the same under all four.

    Args:
        model: as for :func:`attention_maps`.
        images: as for :func:`attention_maps`.
        where: which layers.
        heads: how heads are made one. ``max`` and ``min`` are divided by their row sums afterwards (Abnar & Zuidema's ``mean`` needs no such thing).
        signed: which map of a signed layer.
        residual: share of a token that goes past the layer, 0.5 in the paper; from 0 to 1.

    Returns:
        ``(B, N, N)``; row i is what token i has, so ``[:, 0]`` is the class token's.

    Raises:
        ValueError: no maps, or of another number of tokens from a layer on; an option that is not.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> rollout(layer, torch.randn(2, 9, 16)).sum(-1).allclose(torch.ones(2, 9))
        True
    """
    _check(heads, signed, residual)
    fused = seen_maps(model, images, where, lambda layer, maps: None if _pools(maps["combined"]) else _fuse(_of(maps, signed), heads, signed))
    refuse_missing(fused.missing, "rollout")
    if not fused:
        raise nothing_seen(where, fused.missing)
    return rollout_of([value for value in fused.values() if value is not None], residual=residual)


def rollout_of(layers: Iterable[Tensor], *, residual: float = 0.5) -> Tensor:
    """The product of ``residual · I + (1 − residual) · W`` over layers, the last on the left.

    Args:
        layers: one map a layer, heads made one, ``(…, N, N)``, first layer first.
        residual: share of the identity.

    Raises:
        ValueError: no layers; layers of different numbers of tokens.
    """
    out: Tensor | None = None
    for weights in layers:
        out = _behind(out, weights, residual)
    if out is None:
        raise _no_maps()
    return out


class Flow:
    """Rollout of a run whose maps come layer by layer: the mean over heads, half of each token going past a layer."""

    def __init__(self) -> None:
        self._flows: dict[Signed, Tensor | None] = {"combined": None}
        self._error: InputError | None = None

    def take(self, maps: dict[str, Tensor]) -> None:
        """The maps of the next layer; what makes a rollout impossible is said by :meth:`result`."""
        if _pools(maps["combined"]) or self._error is not None:
            return
        if "negative" in maps and len(self._flows) == 1:
            # up to the first signed layer all are the same
            self._flows = dict.fromkeys(("positive", "negative", "combined"), self._flows["combined"])
        try:
            self._flows = {kind: _behind(flow, _fuse(_of(maps, kind), "mean", kind), 0.5) for kind, flow in self._flows.items()}
        except InputError as error:
            self._error = error

    def result(self) -> dict[Signed, Tensor]:
        """``positive``, ``negative`` and ``combined`` where a layer was signed, else ``combined``; each ``(B, N, N)``.

        Raises:
            ValueError: as for :func:`rollout`.
        """
        if self._error is not None:
            raise self._error
        found = {kind: flow for kind, flow in self._flows.items() if flow is not None}
        if not found:
            raise _no_maps()
        return found


def _behind(before: Tensor | None, weights: Tensor, residual: float) -> Tensor:
    """What tokens have behind a layer of these weights."""
    if weights.shape[-1] != weights.shape[-2]:
        raise _change(weights.shape[-1], weights.shape[-2])
    mixed = (1 - residual) * weights
    mixed.diagonal(dim1=-2, dim2=-1).add_(residual)
    if before is None:
        return mixed
    if before.shape != mixed.shape:
        raise _change(tuple(before.shape), tuple(mixed.shape))
    return mixed @ before


def gradient_rollout(model: nn.Module, images: Any, target: int | Sequence[int] | Tensor | Callable[[Any], Tensor], *, where: Where = "*") -> Tensor:
    """Which tokens at the start speak for an answer: each map times the answer's gradient by it, what is negative left out, through all layers.

    Signed maps need no choice here. Both branches' maps are in it with their own gradients, in which the sign of the second, λ and the values already are.

    Args:
        model: plain, of softmax or denoising attention, or a mix. Of ``nn.MultiheadAttention`` the map is off the path of gradients: convert it to softmax
            attention first, which keeps the function.
        images: as for :func:`attention_maps`. Not one gradient reaches the model's parameters.
        target: a class or one for each image, of logits ``(B, classes)``; or ``f(output) -> (B,)`` or a number.
        where: which layers.

    Returns:
        ``(B, N, N)``, nothing but I where nothing spoke for the answer; not normalized. Compare columns of a row.

    Raises:
        ValueError: as for :func:`rollout`; an attention whose maps have no gradient, by name; a model that was made in inference mode.
    """
    names, layers = Names(model), list[Found]()
    model = unwrapped(model)
    chosen = names.chosen(where)

    def refuse(module: nn.Module) -> InputError:
        return InputError(
            f"{names[module] or 'the model'} is a {_shown(module)}, whose map is off the path of gradients; leave it out of `where`, or if it is an "
            "nn.MultiheadAttention, call foveal.convert_(model, foveal.SoftmaxAttention.Config()) first, which keeps the function"
        )

    def wanted(module: nn.Module) -> bool:
        if not chosen(module):
            return False
        if is_ours(module) and not _has_gradient(module):
            raise refuse(module)
        return True

    def keep(found: Found) -> None:
        if found.off_path:
            raise refuse(found.module)
        # the maps of one call come one after the other, and each has its own gradient
        each = found.module.maps_per_call if isinstance(found.module, TokenAttention) else 1
        if layers and layers[-1].module is found.module and len(layers[-1].terms) < each:
            layers[-1].terms += found.terms
        else:
            layers.append(found)

    if any(value.is_inference() for value in (*model.parameters(), *model.buffers())):
        raise InputError("the model was made under torch.inference_mode(), and nothing in it can have a gradient; make it, or load its weights, outside of it")
    watch = Watch(names, wanted, keep, ours=None, in_path=True)
    trained = [value for value in model.parameters() if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), evaluating(model), watch.watching():
            output = call(model, _detached(images))
            answer = _answer(output, target)
    finally:
        for value in trained:
            value.requires_grad_(True)
    unseen = {module: reason for module, reason in watch.missing().items() if chosen(module)}
    for module in unseen:
        if is_ours(module):
            raise refuse(module)
    missing = {names[module]: reason for module, reason in unseen.items()}
    refuse_missing(missing, "gradient_rollout")
    if not layers:
        raise nothing_seen(where, missing)
    layers = [layer for layer in layers if not _pools(layer.arrange(layer.terms[0]))]
    gradients = iter(_gradients(answer, [weights for layer in layers for weights in layer.terms]))
    out: Tensor | None = None
    for layer in layers:
        # a map that nothing of the answer comes from has no gradient
        shares = [layer.arrange((gradient * weights).detach()) for weights, gradient in zip(layer.terms, gradients, strict=False) if gradient is not None]
        relevance = layer.arrange(layer.terms[0].detach()) * 0 if not shares else torch.stack(shares).sum(0).clamp_min(0)
        if relevance.shape[-1] != relevance.shape[-2]:
            raise _change(relevance.shape[-1], relevance.shape[-2])
        relevance = relevance.mean(1)
        if out is None:
            out = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device).expand_as(relevance)
        if out.shape != relevance.shape:
            raise _change(tuple(out.shape), tuple(relevance.shape))
        out = out + relevance @ out
    if out is None:
        raise _no_maps()
    return out


def _gradients(answer: Tensor, maps: list[Tensor]) -> Sequence[Tensor | None]:
    if not maps or not answer.requires_grad:
        return [None] * len(maps)
    return torch.autograd.grad(answer, maps, allow_unused=True)


def _shown(module: nn.Module) -> str:
    """With its options, where these decide: softmax attention that is centered is refused, and plain is not."""
    return f"{type(module).__name__}({module.extra_repr()})" if isinstance(module, TokenAttention) else type(module).__name__


def _has_gradient(module: nn.Module) -> bool:
    return isinstance(module, TokenAttention) and module.has_map_gradient


def _detached(images: Any) -> Any:
    """Apart from what the caller does with them; tensors of inference mode cannot be saved for backward."""
    if isinstance(images, Tensor):
        return images.detach().clone() if images.is_inference() else images.detach()
    if hasattr(images, "items"):
        return {name: _detached(value) for name, value in images.items()}
    return type(images)(_detached(value) for value in images) if type(images) in (list, tuple) else images


def _answer(output: Any, target: int | Sequence[int] | Tensor | Callable[[Any], Tensor]) -> Tensor:
    if callable(target):
        return target(output).sum()
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if logits is None or logits.ndim != 2:
        raise InputError(f"a class needs logits (B, classes), got {type(output).__name__}; give target as a function of what the model returns")
    index = torch.as_tensor(target, device=logits.device).expand(len(logits))
    if index.min() < 0 or index.max() >= logits.shape[1]:
        raise InputError(f"expected classes from 0 to {logits.shape[1] - 1}, got {target}")
    return logits.gather(1, index[:, None]).sum()


def _check(heads: str, signed: str, residual: float) -> None:
    for what, got, known in (("heads", heads, list(_FUSED)), ("signed", signed, ["positive", "negative", "combined", "magnitude"])):
        if got not in known:
            raise InputError(f"expected {what} to be one of {', '.join(known)}, got {got!r}")
    if not 0 <= residual <= 1:
        raise InputError(f"expected residual from 0 to 1, got {residual}")


def _pools(weights: Tensor) -> bool:
    """One query beside the tokens that it reads: a head behind the layers."""
    return weights.shape[-2] == 1 < weights.shape[-1]


def _no_maps() -> InputError:
    return InputError("rollout needs square maps, of tokens that look at themselves, and there are none")


def _change(before: Any, after: Any) -> InputError:
    return InputError(
        f"tokens change between layers, from {before} to {after}: rollout needs one set of tokens, as windows and pyramids have not; "
        "choose layers of one size with `where`"
    )


def _of(maps: dict[str, Tensor], signed: Signed) -> Tensor:
    combined = maps["combined"]
    if "negative" not in maps or signed == "combined":
        return combined
    if signed == "magnitude":
        magnitude = combined.abs()
        return magnitude / magnitude.sum(-1, keepdim=True).clamp_min(torch.finfo(magnitude.dtype).tiny)
    return maps[signed]


def _fuse(maps: Tensor, heads: Heads, signed: Signed) -> Tensor:
    fused = _FUSED[heads](maps)
    if heads == "mean" or signed == "combined":
        return fused
    return fused / fused.sum(-1, keepdim=True).clamp_min(torch.finfo(fused.dtype).tiny)
