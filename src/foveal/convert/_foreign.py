"""Attentions that somebody registered, of whatever class, as conversion calls them."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._errors import InputError
from ..attention import AttentionConfig, TokenAttention
from ..attention._transfer import HostLayers, Transfer, WarmStart, adopt_by_name

__all__ = ["Called", "is_ours", "made_by_user", "taken_of"]


def is_ours(cls: type[nn.Module]) -> bool:
    """Whether a class can be made without memory and initialized afterwards, as all of ours can."""
    return cls.__module__.startswith("foveal.attention.")


class Called(TokenAttention):
    """A registered module that is no :class:`TokenAttention`, where one is called.

    Args:
        attn: the module, ``(B, N, C) -> (B, N, C)``.
        dim: width C.
        num_heads: heads of the host.
    """

    def __init__(self, attn: Any, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn, self.dim, self.num_heads = attn, dim, num_heads
        # the class's name is the registered one: maps and reports say it
        self.name, self.family, self.form = attn.name, attn.family, attn.form  # type: ignore[misc]
        parameters = inspect.signature(attn.forward).parameters
        every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self.takes = tuple(name for name in ("attn_mask", "is_causal") if every or name in parameters)

    @property
    def has_pairwise_logits(self) -> bool:
        return bool(getattr(self.attn, "has_pairwise_logits", False))

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        return adopt_by_name(self, place, self.attn)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; a mask and causality are handed on, or refused where the module does not take them."""
        out = self.attn(x, **self._options(attn_mask, is_causal))
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise InputError(f"{type(self.attn).__name__} is to give a tensor of what it is given, (B, N, C) = {tuple(x.shape)}, and gave {got}")
        return out

    def attention_map(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        if not callable(getattr(self.attn, "attention_map", None)):
            raise InputError(f"{type(self.attn).__name__} has no attention_map; give it one, (B, N, C) -> {{'combined': (B, H, N, N)}}, to look at it")
        return self.attn.attention_map(x, **self._options(attn_mask, is_causal))

    def macs(self, num_tokens: int) -> Any:
        """None where the module does not say."""
        return self.attn.macs(num_tokens) if callable(getattr(self.attn, "macs", None)) else None

    def no_weight_decay(self) -> set[str]:
        return {f"attn.{name}" for name in self.attn.no_weight_decay()} if callable(getattr(self.attn, "no_weight_decay", None)) else set()

    def _options(self, attn_mask: Tensor | None, is_causal: bool) -> dict[str, Any]:
        given: dict[str, Any] = {} if attn_mask is None else {"attn_mask": attn_mask}
        given |= {"is_causal": True} if is_causal else {}
        if refused := [name for name in given if name not in self.takes]:
            raise InputError(f"{type(self.attn).__name__} takes no {' and no '.join(refused)}, which this model gives; leave the module out of `where`")
        return given


def taken_of(cls: type[nn.Module], options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that a constructor takes."""
    parameters = inspect.signature(cls).parameters
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in options.items() if every or name in parameters}


def made_by_user(config: AttentionConfig, dim: int, num_heads: int, options: dict[str, Any], device: torch.device) -> TokenAttention:
    """With values from the start: whether such a class can be initialized later is not known. Of the options of a host it is given those that it takes.

    Raises:
        ValueError: it cannot be made so.
    """
    cls = type(config).module
    place = {"dim": dim, "num_heads": num_heads}
    given = taken_of(cls, place | options | {"device": device})
    first = [value for name, value in place.items() if name not in given]
    try:
        module = cls(*first, **(given | config.options()))
    except TypeError as error:
        raise InputError(
            f"{config.attention} attention cannot be made in this place: {error}; expected a class that is made as {cls.__name__}(dim, num_heads, …) with the "
            f"options of its Config, {', '.join(config.options()) or 'none'}"
        ) from error
    if any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
        raise InputError(f"{config.attention} attention has lazy layers, which have no size before the first batch; give them one from dim")
    module = module.to(device=device, dtype=options["dtype"])
    return module if isinstance(module, TokenAttention) else Called(module, dim, num_heads)
