"""Hosts: which foreign attention modules can be converted, and how each is read and replaced. One file a library enters its classes here.

Shapes     C width of the tokens, I = heads · head width
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import InputError

__all__ = ["HOSTS", "Host", "Place", "find_host", "host_key", "known_hosts", "refuse_what_cannot_be_read", "register_host"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an attention module of pairs is, whoever wrote it. Parts that are the host's own modules or parameters are used as they are, not copied."""

    dim: int
    num_heads: int
    head_dim: int
    qkv: nn.Module
    """A linear map to queries, keys and values, ``(3 · I, C)``."""
    proj: nn.Module
    """A linear map back, ``(C, I)``."""
    q_norm: nn.Module = field(default_factory=nn.Identity)
    k_norm: nn.Module = field(default_factory=nn.Identity)
    norm: nn.Module = field(default_factory=nn.Identity)
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    num_prefix_tokens: int | None = None
    """Tokens in front that are not of the grid; None where the host does not say."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the other tokens; None where the host does not say, or they change."""
    position: nn.Module | None = None
    """The host's own bias of pairs, which its ``wrap`` adds; dropped where an attention has no pairs."""
    rotary: bool = False
    """Whether the host turns queries and keys by their positions, and its ``wrap`` says how."""
    needs_pairs: str = ""
    """Why only an attention of pairs can stand here; empty where any can."""
    lost: tuple[str, ...] = ()
    """Parameters of the host that no attention here has a place for, so that the function changes."""

    @property
    def weight(self) -> Tensor:
        return self.proj.weight  # type: ignore[return-value]

    @property
    def num_tokens(self) -> int | None:
        return None if self.grid is None or self.num_prefix_tokens is None else self.num_prefix_tokens + self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Host:
    """How one class of attention modules is read, and how an attention of ours takes its place."""

    read: Callable[[nn.Module, nn.Module, str], Place | None]
    """From the module, the model and the module's name in it; None for an attention over other tokens than those that ask."""
    wrap: Callable[[nn.Module, nn.Module], nn.Module]
    """From the module and ours, the module that is called as the first was."""


HOSTS: dict[str, Host] = {}


def register_host(key: str, read: Callable[[nn.Module, nn.Module, str], Place | None], wrap: Callable[[nn.Module, nn.Module], nn.Module] | None = None) -> None:
    """Teach conversion a class of attention modules.

    Args:
        key: the class, ``"package.module.Class"``. Subclasses are not meant: they may compute something else.
        read: ``f(module, model, name) -> Place``, raising ``ValueError`` for a setting that cannot be converted. None says that the module is asked by other
            tokens than it reads, as a pooling head: it is left alone unless it is meant by name, which is an error.
        wrap: ``f(module, ours) -> replacement``, where the host calls its attention in another way than ``ours(x, attn_mask=None, is_causal=False)``.

    Raises:
        ValueError: the class is known already.

    Example:
        >>> class Mine(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.to_qkv, self.to_out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
        >>> def read(module, model, name):
        ...     return Place(dim=8, num_heads=2, head_dim=4, qkv=module.to_qkv, proj=module.to_out)
        >>> register_host(host_key(Mine()), read)
        >>> host_key(Mine()) in known_hosts()
        True
    """
    if key in HOSTS:
        raise InputError(f"the host {key} is known already")
    HOSTS[key] = Host(read, wrap or _as_it_is)


def host_key(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def find_host(module: nn.Module) -> Host | None:
    return HOSTS.get(host_key(module))


def known_hosts() -> list[str]:
    """Classes that can be converted."""
    return sorted(HOSTS)


def refuse_what_cannot_be_read(name: str, parts: Iterator[tuple[str, nn.Module]]) -> None:
    """Weights that are not plain floating point, as those of quantised layers, cannot be carried over.

    Raises:
        ValueError: there are such.
    """
    for part, module in parts:
        for key, value in module.named_parameters():
            if not value.is_floating_point() or type(value.data) is not Tensor:
                raise InputError(f"{name}: {part}.{key} is {type(value.data).__name__} of {value.dtype}, quantised or packed; convert first and quantise then")
        weight = getattr(module, "weight", None)
        if part in ("qkv", "proj") and not isinstance(weight, Tensor):
            raise InputError(f"{name}: {part} is a {type(module).__name__} without a plain weight, quantised or packed; convert first and quantise then")


def _as_it_is(module: nn.Module, ours: nn.Module) -> nn.Module:
    return ours


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An ``nn.Linear`` around parameters that exist: nothing is copied or drawn."""
    with torch.device("meta"):
        out = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    out.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        out.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return out


def joined(layers: list[Any]) -> nn.Linear:
    """Several linear maps of one input as one; a copy. A map without a bias among others with one gets zeros."""
    biases = [layer.bias for layer in layers]
    given = [bias for bias in biases if bias is not None]
    with torch.no_grad():
        whole = [layer.weight.new_zeros(len(layer.weight)) if bias is None else bias for layer, bias in zip(layers, biases, strict=True)]
        out = linear_of(torch.cat([layer.weight for layer in layers]), torch.cat(whole) if given else None)
    out.weight.requires_grad_(layers[0].weight.requires_grad)
    if given:
        out.bias.requires_grad_(given[0].requires_grad)
    return out


def with_separate_bias(qkv: Any, q_bias: Tensor | None, v_bias: Tensor | None) -> nn.Linear:
    """A ``qkv`` whose bias the host keeps beside it, for queries and values alone. The weight is the host's own."""
    if q_bias is None or v_bias is None:
        return linear_of(qkv.weight, None)
    with torch.no_grad():
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    out = linear_of(qkv.weight, bias)
    out.bias.requires_grad_(q_bias.requires_grad)
    return out


def only(module: nn.Module, kept: tuple[str, ...]) -> nn.Module:
    """A module of the host's class with its settings and, of its parameters, buffers and submodules, those that are named; they are the same ones.

    What the host computes from them, it goes on to compute.
    """
    other = type(module).__new__(type(module))
    nn.Module.__init__(other)
    machinery = set(nn.Module().__dict__)
    other.__dict__.update({name: value for name, value in module.__dict__.items() if name not in machinery})
    other._parameters.update({name: value for name, value in module._parameters.items() if name in kept})
    other._buffers.update({name: value for name, value in module._buffers.items() if name in kept})
    other._modules.update({name: value for name, value in module._modules.items() if name in kept})
    other._non_persistent_buffers_set |= module._non_persistent_buffers_set & set(kept)
    return other


class Unit(nn.Module):
    """``(…, D)`` to length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class ScaledUnit(nn.Module):
    """Queries of cosine attention, ``(B, H, N, D)``: of the length that the host learns, times √D since a core divides by it."""

    def __init__(self, logit_scale: nn.Parameter) -> None:
        super().__init__()
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * (self.logit_scale.clamp(max=math.log(100.0)).exp() * x.shape[-1] ** 0.5)


class Turn:
    """Rotary positions of all but the first tokens."""

    def __init__(self, apply: Callable[[Tensor], Tensor], num_prefix_tokens: int) -> None:
        self.apply, self.num_prefix_tokens = apply, num_prefix_tokens

    def __call__(self, x: Tensor) -> Tensor:
        first = self.num_prefix_tokens
        return torch.cat([x[:, :, :first], self.apply(x[:, :, first:])], dim=2).type_as(x)
