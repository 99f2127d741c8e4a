"""What ``foveal doctor`` computes: a few seconds of results that are known, on every device that is here. Torch and einops are enough."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import SoftmaxAttention, attention_class, list_attentions
from ..convert import convert_
from ..functional import denoising_attention, denoising_attention_reference

__all__ = ["CHECKS", "Failed"]

CHECKS: dict[str, Callable[[], str]] = {}
_DOUBLE, _SINGLE, _ACCELERATED = 1e-10, 1e-4, 1e-1
"""Largest difference, of numbers about 1. Float32 on an accelerator may be computed by shorter products (TF32): there only what is broken is told from what is
rounded."""


class Failed(Exception):
    """A result is not what it should be."""


def _check(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def enter(function: Callable[[], str]) -> Callable[[], str]:
        CHECKS[name] = function
        return function

    return enter


def _devices() -> list[torch.device]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return [torch.device("cpu"), *([accelerator] if accelerator is not None else [])]


def _numbers(*shape: int, seed: int) -> Tensor:
    # made on the CPU, so that all devices get the same
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _close(what: str, got: Tensor, wanted: Tensor, most: float) -> float:
    difference = (got.detach().cpu().double() - wanted.detach().cpu().double()).abs().max().item()
    # a NaN is in no order with a number, and is wrong
    if not difference <= most:
        raise Failed(f"{what} differ by {difference:.1e}, more than {most:.0e}")
    return difference


@_check("matrix products")
def matrix_products() -> str:
    """PyTorch's own: a library of linear algebra that does not fit the processor is told from a defect of ours."""
    a, b = _numbers(64, 96, seed=1), _numbers(96, 80, seed=2)
    wanted = (a[:, :, None] * b[None]).sum(1)
    worst = _close("products in float64 and sums of products", a @ b, wanted, _DOUBLE)
    for device in _devices():
        _close(f"products in float32 on {device} and in float64", a.float().to(device) @ b.float().to(device), wanted, _ACCELERATED)
    return f"largest difference {worst:.1e} in float64"


@_check("fused softmax")
def fused_softmax() -> str:
    """PyTorch's fused kernel against the formula, on each device."""
    q, k, v = (_numbers(2, 4, 33, 16, seed=seed) for seed in (1, 2, 3))
    wanted = (q @ k.mT / 4).softmax(-1) @ v
    found = []
    for device in _devices():
        single = [x.float().to(device) for x in (q, k, v)]
        got = F.scaled_dot_product_attention(single[0], single[1], single[2])
        most = _SINGLE if device.type == "cpu" else _ACCELERATED
        worst = _close(f"softmax attention in float32 on {device} and the formula", got, wanted, most)
        found.append(f"{worst:.1e} on {device}")
    return "largest difference in float32 " + ", ".join(found)


@_check("denoising")
def denoising() -> str:
    """One mechanism's parity: the fast path against the slow reference, outputs and all gradients."""
    tensors = [_numbers(2, 4, 33, 8, seed=seed) for seed in range(5)] + [torch.tensor([0.5, -0.25, 1.0, 0.0], dtype=torch.float64)]
    upstream = _numbers(2, 4, 33, 8, seed=9)
    wanted = _with_gradients(denoising_attention_reference, tensors, upstream)
    got = _with_gradients(denoising_attention, tensors, upstream)
    worst = max(_close("denoising attention in float64 and its reference", *pair, _DOUBLE) for pair in zip(got, wanted, strict=True))
    for device in _devices():
        got = _with_gradients(denoising_attention, [x.float().to(device) for x in tensors], upstream.float().to(device))
        for pair in zip(got, wanted, strict=True):
            _close(f"denoising attention in float32 on {device} and its reference", *pair, 1e-3 if device.type == "cpu" else _ACCELERATED)
    return f"outputs and gradients equal the reference, largest difference {worst:.1e} in float64; float32 on {', '.join(map(str, _devices()))}"


def _with_gradients(function: Callable[..., Tensor], tensors: list[Tensor], upstream: Tensor) -> list[Tensor]:
    q, k, v, q_neg, v_neg, lambdas = leaves = [x.clone().requires_grad_() for x in tensors]
    out = function(q, k, v, q_neg=q_neg, v_neg=v_neg, lambdas=lambdas)
    return [out, *torch.autograd.grad(out, leaves, upstream)]


@_check("attentions")
def attentions() -> str:
    """Every registered attention, forward and backward, on every device."""
    names = list_attentions()
    for device in _devices():
        for name in names:
            _try(name, device)
    return f"{len(names)} run forward and backward on {', '.join(map(str, _devices()))}"


def _try(name: str, device: torch.device) -> None:
    cls: Any = attention_class(name)
    tokens = cls.form == "tokens"
    module = (cls(16, num_heads=2) if tokens else cls(16)).to(device)
    # a class token and a square grid, for those that read one
    x = torch.randn((2, 17, 16) if tokens else (2, 16, 8, 8)).to(device).requires_grad_()
    out = module(x)
    (gradient,) = torch.autograd.grad(out.square().mean(), x)
    if out.shape != x.shape or not (out.isfinite().all() and gradient.isfinite().all()):
        raise Failed(f"{name} on {device} gives {tuple(out.shape)}, or numbers that are not finite")


@_check("conversion")
def conversion() -> str:
    """A layer of PyTorch, converted to softmax attention: the outputs are what they were."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).double().eval()
    x = _numbers(2, 9, 16, seed=4)
    before = layer(x)
    report = convert_(layer, SoftmaxAttention.Config())
    worst = _close("outputs before and after conversion to softmax attention", layer(x), before, _DOUBLE)
    if len(report.swaps) != 1:
        raise Failed(f"conversion says that it put {len(report.swaps)} attentions in, and there is one")
    return f"nn.TransformerEncoderLayer keeps its outputs, largest difference {worst:.1e}"
