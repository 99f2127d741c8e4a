"""How near a layer in half precision is to itself in float64, with the plainest layer of the same width around PyTorch's fused kernel as the yardstick.

The rounding of projections counts on both sides: what a mechanism adds of its own has to stay below what it began with.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALVES = [torch.bfloat16, torch.float16]
SIZES = [1.0, 4.0, 8.0]
"""How much larger queries are than at the start: logits of a trained layer."""
_QUERIES = ("q", "q_neg", "conv1")
_FLOOR = 0.3
"""A gradient that is small beside the largest, as of what cancels, is judged beside this share of it."""

Call = Callable[[nn.Module, Tensor], Tensor]


class Plain(nn.Module):
    """Softmax attention as anybody would write it, on tokens ``(B, N, C)`` or on the pixels of maps."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        tokens = x.flatten(2).mT if x.ndim == 4 else x
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, -1))
        out = self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask).transpose(1, 2).flatten(2))
        return out.mT.unflatten(-1, x.shape[2:]) if x.ndim == 4 else out


@torch.no_grad()
def sharpened(module: nn.Module, size: float) -> nn.Module:
    """The layer with queries of ``size`` times the length, by the weights that make them."""
    for name, part in module.named_modules():
        last = name.rpartition(".")[2]
        if last in _QUERIES:
            rows = slice(None)
        elif last == "qkv":
            rows = slice(getattr(module, "key_channels", len(part.weight) // 3))
        else:
            continue
        for parameter in part.parameters(recurse=False):
            parameter[rows] *= size
    return module


def yardstick(dim: int, num_heads: int, size: float) -> nn.Module:
    torch.manual_seed(1)
    plain = Plain(dim, num_heads).double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return sharpened(plain, size)


def errors(module: nn.Module, x: Tensor, dtype: torch.dtype, call: Call = lambda module, x: module(x), device: torch.device | str = "cpu") -> dict[str, float]:
    """Relative, by name: of the output, of the output without gradients, and of the gradient of the input and of every parameter.

    ``call`` says of which part of the output, and ``device`` where it is computed in ``dtype``; float64 is of the processor.
    """
    half, x = copy.deepcopy(module).to(dtype), x.to(dtype)
    exact = copy.deepcopy(half).double()
    half = half.to(device)
    with torch.no_grad():
        want, plain = call(exact, x.double()), call(half, x.to(device)).cpu()
    # what is near 0 may fall on the other side of a ReLU at the end of a block, and lose its gradient
    cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(5)).to(dtype).double() * ((plain == 0) == (want == 0))
    want_grads = _gradients(exact, x.double(), call, cotangent)[1]
    got, grads = _gradients(half, x.to(device), call, cotangent)
    assert got.dtype == plain.dtype == dtype
    assert all(value.isfinite().all() for value in (got, plain, *grads.values())), "not finite"
    found = {"output": _apart(got, want), "output without gradients": _apart(plain, want)}
    largest = max((grad.norm().item() for name, grad in want_grads.items() if name != "x"), default=0.0)
    for name, grad in want_grads.items():
        found[f"gradient of {name}"] = _apart(grads[name], grad, 0.0 if name == "x" else _FLOOR * largest)
    return found


def hold(found: dict[str, float], of_yardstick: dict[str, float], times: float = 2.0) -> None:
    """No output off by more than so many times that of the yardstick, and no gradient by half as many times again: logits of two layers are not alike in size.

    With the same inputs on both sides, ``tests/attention/test_precision.py`` holds gradients to the same.
    """
    worst = max(value for name, value in of_yardstick.items() if name.startswith("gradient"))
    for name, value in found.items():
        allowed = times * (1.5 * worst if name.startswith("gradient") else of_yardstick["output"])
        assert value <= allowed, f"{name} is off by {value:.4f}, allowed is {allowed:.4f}"


@torch.no_grad()
def of_autocast(module: nn.Module, x: Tensor) -> float:
    """Relative error of the output in bfloat16 by autocast, queries as they are."""
    want = copy.deepcopy(module).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        return _apart(copy.deepcopy(module).float()(x.float()), want)


def _gradients(module: nn.Module, x: Tensor, call: Call, cotangent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    x = x.detach().requires_grad_()
    out = call(module, x)
    inputs = {"x": x, **dict(module.named_parameters())}
    grads = torch.autograd.grad(out, tuple(inputs.values()), cotangent.to(out.device, out.dtype), allow_unused=True)
    return out.detach().cpu(), {name: grad.cpu() for name, grad in zip(inputs, grads, strict=True) if grad is not None}


def _apart(got: Tensor, want: Tensor, floor: float = 0.0) -> float:
    return ((got.double() - want).norm() / want.norm().clamp_min(max(floor, 1e-30))).item()
