"""One of our attentions, called as the host calls its own: arguments by the same names, and as many things back."""

from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError
from ...attention import TokenAttention
from ...attention._base import Context
from .._parts import PrefixRotary
from .._placed import Placed
from ._plan import Part, Plan, as_tokens, like_tokens, rotated

__all__ = ["answer", "shell"]


def answer(attn: TokenAttention, plan: Plan, values: dict[str, Any], name: str, weights: bool, inlet: nn.Module | None = None) -> Any:
    """What the host would answer.

    Args:
        attn: ours.
        plan: how the host is called.
        values: its arguments by name.
        name: of the place, for errors.
        weights: whether maps are asked for.
        inlet: the host's norm before its maps.

    Raises:
        ValueError: an argument that was not given when the structure was read, and that nobody knows.
    """
    known = {source for part in plan.parts for source in part.sources} | {plan.mask, plan.rotary, *plan.harmless}
    for key, value in values.items():
        if isinstance(value, Tensor) and key not in known:
            raise InputError(
                f"{name or 'a converted attention'} is given {key}, which it was not given when it was read; convert with the inputs that it will have "
                "(convert_(…, inputs=…)), or leave it out of `where`"
            )
    # a norm in training may count what it sees, so that it sees each of the tokens once
    summed: dict[tuple[str, ...], Tensor] = {}
    for part in plan.parts:
        if part.sources not in summed:
            tokens = _summed(part, values)
            summed[part.sources] = tokens if inlet is None else inlet(tokens)
    q, k, v = (summed[part.sources] for part in plan.parts)
    if q.ndim != {"tokens": 3}.get(plan.layout, 4):
        raise InputError(
            f"{name or 'a converted attention'} is given {tuple(q.shape)}, and was read with {'tokens (B, N, C)' if plan.layout == 'tokens' else 'maps'}; "
            "convert with the inputs that it will have (convert_(…, inputs=…)), or leave it out of `where`"
        )
    like = q
    sources = [part.sources for part in plan.parts]
    tokens = as_tokens(q, plan.layout)
    options: dict[str, Any] = {}
    context: Context | None = None
    if sources[1] != sources[2]:
        context = (tokens if sources[1] == sources[0] else as_tokens(k, plan.layout), as_tokens(v, plan.layout))
    elif sources[0] != sources[1]:
        context = as_tokens(k, plan.layout)
    if context is not None:
        options["context"] = context
    rotate = None
    if plan.rotary and values.get(plan.rotary) is not None:
        cos, sin = values[plan.rotary]
        rotate = PrefixRotary(lambda x: rotated(x, cos, sin, plan.rotation), 0)
    mask = values.get(plan.mask) if plan.mask else None
    given = Placed.options(_NoPosition(attn), mask=mask, rotate=rotate, is_causal=bool(values.get("is_causal")))  # type: ignore[arg-type]
    out = attn(tokens, **options, **given)
    made = None
    if plan.returns is not None and ("weights" in plan.returns or (weights and "none" in plan.returns)):
        made = attn.attention_map(tokens, **options, **given)["combined"]
    out = like_tokens(out, plan.layout, like)
    if plan.returns is None:
        return out
    return tuple(out if what == "out" else made for what in plan.returns)


class _NoPosition:
    """What :meth:`Placed.options` asks of a placed attention."""

    position = None

    def __init__(self, attn: TokenAttention) -> None:
        self.attn = attn


def _summed(part: Part, values: dict[str, Any]) -> Tensor:
    """Positions may be left out of a call."""
    if values.get(part.sources[0]) is None:
        raise InputError(f"expected {part.sources[0]}, as when the attention was read, got none")
    first, *others = [values[name] for name in part.sources if values.get(name) is not None]
    for other in others:
        first = first + other
    return first


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """As the host's own ``forward``."""
    weights = getattr(getattr(self, "config", None), "_attn_implementation", "") == "eager"
    return answer(self.attn, self.plan, self.plan.called(args, kwargs), self.__dict__.get("place_name", ""), weights, self.inlet)


def shell(module: nn.Module, ours: nn.Module, plan: Plan) -> Any:
    """An instance of a subclass of the host's class: what asks for its class, its settings or its maps by class goes on to find them."""
    family = type(module)
    replacement = _empty(family)
    nn.Module.__init__(replacement)
    machinery = set(nn.Module().__dict__)
    plain = (int, float, bool, str, type(None), tuple, list)
    for name, value in vars(module).items():
        if name not in machinery and (isinstance(value, plain) or name == "config"):
            replacement.__dict__[name] = value
    replacement.plan, replacement.attn = plan, ours
    replacement.inlet = module.get_submodule(plan.inlet) if plan.inlet else None
    return replacement


@lru_cache
def _subclass(family: Any) -> Any:
    return type(f"Converted{family.__name__}", (family,), {"forward": _forward, "__module__": __name__, "__reduce_ex__": _reduce})


def _reduce(self: nn.Module, protocol: Any) -> Any:
    # the class is made at run time, so it is found again by the one that it is made from
    return _empty, (type(self).__mro__[1],), self.__dict__


def _empty(family: Any) -> Any:
    made = _subclass(family)
    return made.__new__(made)
