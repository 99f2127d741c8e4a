"""Cores: how queries, keys and values meet, apart from the projections around them. A layer of pairs applies a core once, denoising attention twice.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from .._errors import InputError, unknown
from .._fx import Leaf
from .._registry import Registry
from ..functional.softmax import AttentionFunction

__all__ = ["CORES", "Core", "FunctionCore", "make_core", "register_core"]


class Core(Leaf, ABC):
    """How tokens meet. What it owns is shared by all heads, and by both branches of a denoising attention."""

    name: ClassVar[str]
    non_causal_reason: ClassVar[str] = ""
    """Why nothing can be causal here; empty where it can."""
    needs_grid: ClassVar[bool] = False
    """Whether it cuts windows out of a grid: it has the options ``num_prefix_tokens`` and ``grid_size``, and reads an attribute ``grid_size``."""

    def __init__(self, head_dim: int, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.head_dim = head_dim

    @abstractmethod
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """``(B, H, Nq, D)`` from checked input."""

    @abstractmethod
    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """How much each query takes from each key, ``(B, H, Nq, Nk)``; applied to the values it gives :meth:`forward`."""

    @abstractmethod
    def macs(self, num_tokens: int, num_heads: int) -> int:
        """Multiply-adds of its matrix multiplications for one sample."""

    def check(self, what: str, x: Tensor, attn_mask: Tensor | None, is_causal: bool, context: Tensor | None) -> None:
        """Refuse what this core cannot honor; ``what`` names the layer.

        Raises:
            ValueError: here, causality where a query cannot be kept from seeing later tokens; more in subclasses.
        """
        if is_causal and self.non_causal_reason:
            raise InputError(f"{what} cannot be causal: {self.non_causal_reason}; use softmax attention, or denoising attention with the softmax core")

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters that should not decay."""
        return set()


class FunctionCore(Core):
    """A core out of a function ``f(q, k, v, *, mask, dropout_p, scale)``. What it costs and how it looks is not known."""

    name = ""

    def __init__(self, function: AttentionFunction, head_dim: int) -> None:
        super().__init__(head_dim)
        self.function = function

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        causal = {"is_causal": True} if is_causal else {}
        return self.function(q, k, v, mask=mask, dropout_p=dropout_p, scale=scale, **causal)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        raise InputError(f"no map is known of the core {self.function}; name one of {', '.join(sorted(CORES))}, or call its own map function on both branches")

    def macs(self, num_tokens: int, num_heads: int) -> int:
        raise InputError(f"the analytic cost of the core {self.function} is not known; name one of {', '.join(sorted(CORES))}")

    def extra_repr(self) -> str:
        return str(self.function)


CoreClass = TypeVar("CoreClass", bound=type[Core])

CORES: Registry[type[Core]] = Registry("core")
"""Cores that a configuration can name."""


def register_core(name: str) -> Callable[[CoreClass], CoreClass]:
    """Enter a core class under ``name``. Its constructor takes the width of a head, ``device``, ``dtype`` and options of its own.

    Raises:
        ValueError: the name is taken.
    """

    def enter(cls: CoreClass) -> CoreClass:
        CORES.check_free(name)
        cls.name = name
        CORES.add(name, cls)
        return cls

    return enter


def make_core(given: str | AttentionFunction, head_dim: int, options: dict[str, Any] | None, *, device: Any, dtype: Any) -> Core:
    """The core that a name, or a function, stands for.

    Raises:
        ValueError: an unknown name or option; options for a function.
    """
    if callable(given):
        if options:
            raise InputError(f"core_options are for cores that are named, got {options} for {given}; bind them with functools.partial")
        return FunctionCore(given, head_dim)
    options = options or {}
    core = CORES[given]
    known = list(inspect.signature(core).parameters.keys() - {"head_dim", "device", "dtype"})
    for option in options:
        if option not in known:
            raise unknown(f"option of the {given} core", option, known)
    return core(head_dim, device=device, dtype=dtype, **options)
