"""Whether the probes of a sample become one vector, and whether gradients come through to the first of their modules.

Both stand together: nearly equal queries get nearly equal outputs, and the gradient of a softmax vanishes where all that it mixes is alike. Here they are
measured behind every module, on weights and tokens as they are.

Source     ours; the published form had cosines of 1.000000 everywhere, and a gradient norm of 4e-41 in the first of twelve modules, on a ViT-S/14

Shapes     B samples, N tokens of a sample, P probes, C channels
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...convert._digest import refuse_empty
from .visual import Hidden, VisualProbes

__all__ = ["ProbeCollapse", "ProbeLayer", "probe_collapse", "probe_collapse_in"]


@dataclass(frozen=True)
class ProbeLayer:
    """Behind one module, or in front of the first."""

    layer: int | None
    """The layer that it reads, from 0; None of the probes as they begin, P_0."""
    similarity: float | None
    """Mean cosine between two probes of a sample, see :meth:`VisualProbes.similarity`; None of a single probe."""
    gradient: float
    """Norm of the gradient of the module's output projection (W_O), of P_0 that of P_0 itself."""


@dataclass(frozen=True)
class ProbeCollapse:
    """What :func:`probe_collapse` found; ``print`` shows it, a line a module."""

    start: ProbeLayer
    """P_0."""
    layers: tuple[ProbeLayer, ...]
    """Behind each module, in turn."""
    samples: int
    """Of how many samples it is the mean."""
    dtype: str
    """What it was computed in, ``float32`` or ``float64``: below 1e-45 the first has 0."""
    about: str
    """The probes in words."""

    def __str__(self) -> str:
        head = f"{'':>10}{'cosine of two probes':>22}{'gradient norm of W_O':>22}"
        rows = [_line("P_0", self.start, " (of P_0)"), *(_line(f"layer {one.layer}", one) for one in self.layers)]
        counted = f"{self.samples} sample{'s' if self.samples > 1 else ''}, {self.dtype}"
        return "\n".join([f"{self.about}; {counted}; gradients of a fixed random readout of the last probes", head, *rows])


def _line(name: str, one: ProbeLayer, behind: str = "") -> str:
    alike = "–" if one.similarity is None else f"{one.similarity:.6f}"
    return f"{name:>10}{alike:>22}{one.gradient:>22.1e}{behind}"


def probe_collapse(
    probes: VisualProbes,
    hidden: Hidden,
    mask: Tensor | None = None,
    frame: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> ProbeCollapse:
    """Measure it, on a copy in evaluation mode: neither weights nor gradients of ``probes`` are touched, and it does not matter whether they are trained.

    The readout is the mean over samples of ⟨R, P_L⟩ with one normal R ``(num_probes, C)`` for all of them, so that it does not depend on padding, packing or
    the number of samples.

    Args:
        probes: as they are.
        hidden: what they read, and ``mask`` and ``frame``: see :meth:`VisualProbes.forward`.
        mask: padded samples, or several in a row.
        frame: with ``time``.
        dtype: float32 or float64. None: that of the probes, and float32 where they have half of it. Gradients of many published modules need float64.
        seed: of R.

    Raises:
        ValueError: what :meth:`VisualProbes.forward` refuses; another ``dtype``; weights on the meta device; an attention without an output projection
            ``proj``.

    Example:
        >>> probes = VisualProbes(32, num_heads=4, layers=[0, 2], num_probes=5)
        >>> found = probe_collapse(probes, [torch.randn(2, 49, 32) for _ in range(3)])
        >>> [one.layer for one in found.layers], found.samples
        ([0, 2], 2)
    """
    wide = torch.float64 if probes.probes.dtype == torch.float64 else torch.float32
    dtype = wide if dtype is None else dtype
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"small gradients are measured in torch.float32 or torch.float64, got {dtype}")
    refuse_empty(probes.state_dict())
    without = [layer for layer, one in zip(probes.layers, probes.attentions, strict=True) if _output(one) is None]
    if without:
        raise InputError(f"the attention at layer {without[0]}, {probes.config.attention!r}, has no output projection proj with a weight to measure")
    tokens = dict(zip(probes.layers, probes._chosen(hidden), strict=True))
    in_a_row = 1 if mask is None or mask.ndim != 3 else mask.shape[1] // probes.num_probes
    # autocast would round small gradients
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(probes.probes.device.type, enabled=False):
        own = copy.deepcopy(probes).to(dtype).eval().requires_grad_(True)
        behind = [own.begin(len(tokens[own.layers[0]]), in_a_row)]
        for layer in own.layers:
            behind.append(own.read(layer, behind[-1], _kept(tokens[layer]).to(dtype), *(None if one is None else _kept(one) for one in (mask, frame))))
        samples = [one.reshape(-1, own.num_probes, own.dim) for one in behind]
        drawn = torch.randn(own.num_probes, own.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        readout = (samples[-1] * drawn.to(samples[-1])).sum() / len(samples[-1])
        weights: list[Any] = [own.probes, *(_output(one) for one in own.attentions)]
        gradients = torch.autograd.grad(readout, weights, materialize_grads=True)
    alike = [None if own.num_probes < 2 else float(VisualProbes.similarity(one.detach())) for one in samples]
    start, *layers = (ProbeLayer(layer, cosine, float(gradient.norm())) for layer, cosine, gradient in zip((None, *own.layers), alike, gradients, strict=True))
    words = f"{own.num_probes} {own.config.attention} probe{'s' if own.num_probes > 1 else ''}, {'' if own.residual else 'no '}residual, "
    words += "normed tokens" if own.norm else "tokens as they are"
    return ProbeCollapse(start, tuple(layers), len(samples[-1]), str(dtype).removeprefix("torch."), words)


def probe_collapse_in(model: nn.Module, call: Callable[[], Any], *, dtype: torch.dtype | None = None, seed: int = 0) -> ProbeCollapse:
    """The same of probes in a model, on what they read when it is called: once, without gradients, as ``call`` says.

    Args:
        model: has one :class:`VisualProbes` in it, as :class:`~foveal.models.VideoLanguageModel`, or a VideoLLaMA 3 with attached ones.
        call: calls it. Only the first time that probes read is looked at.
        dtype: see :func:`probe_collapse`.
        seed: and so on.

    Raises:
        ValueError: no probes, or several; ``call`` does not come to them.

    Example:
        >>> probes = VisualProbes(32, num_heads=4, layers=[0, 2], num_probes=5)
        >>> len(probe_collapse_in(probes, lambda: probes([torch.randn(2, 49, 32) for _ in range(3)])).layers)
        2
    """
    found = {name: one for name, one in model.named_modules() if isinstance(one, VisualProbes)}
    if not found:
        raise InputError(f"this {type(model).__name__} has no visual probes; give them to it first, with VideoLanguageModel(probes=…) or attach_probes_")
    if len(found) > 1:
        raise InputError(
            f"there are probes at {', '.join(found)}; give those that are meant in place of the model, as model.get_submodule({next(iter(found))!r})"
        )
    (probes,), read = found.values(), list[tuple[Any, Any]]()

    def keep(module: nn.Module, args: Any, options: Any) -> None:
        if not read:
            read.append((args, options))

    hook = probes.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            call()
    finally:
        hook.remove()
    if not read:
        raise InputError("the call did not come to the probes; call the model with a video or an image")
    (args, options) = read[0]
    return probe_collapse(probes, *args, **options, dtype=dtype, seed=seed)


def _kept(given: Tensor) -> Tensor:
    """What was made in inference mode cannot be kept for gradients."""
    return given.clone() if given.is_inference() else given.detach()


def _output(attention: Any) -> Tensor | None:
    weight = getattr(getattr(attention, "proj", None), "weight", None)
    return weight if isinstance(weight, Tensor) else None
