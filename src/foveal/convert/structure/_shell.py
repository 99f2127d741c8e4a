"""One of our attentions, called as the host calls its own: arguments by the same names, and as many things back."""

from typing import Any

from torch import Tensor, nn

from ..._errors import InputError
from ...attention import TokenAttention
from ...attention._base import Context, QKVAttention
from ...attention._linear import project
from .._parts import PrefixRotary
from .._placed import Placed
from ._bias import as_pairs
from ._converted import with_settings
from ._packed import in_pieces
from ._plan import Part, Plan, as_tokens, like_tokens, rotated, turn_of
from ._position import Decomposed, TableBias, position_of

__all__ = ["answer", "shell"]


def answer(
    attn: TokenAttention,
    plan: Plan,
    values: dict[str, Any],
    name: str,
    weights: bool,
    *,
    inlet: nn.Module | None = None,
    position: TableBias | Decomposed | None = None,
) -> Any:
    """What the host would answer.

    Args:
        attn: ours.
        plan: how the host is called.
        values: its arguments by name.
        name: of the place, for errors.
        weights: whether maps are asked for.
        inlet: the host's norm before its maps.
        position: the host's own bias of pairs.

    Raises:
        ValueError: an argument that was not given when the structure was read, and that nobody knows.
    """
    known = {source for part in plan.parts for source in part.sources} | {plan.mask, plan.rotary, plan.ends, *(one for one, _, _ in plan.given), *plan.harmless}
    for key, value in values.items():
        if isinstance(value, Tensor) and key not in known:
            raise InputError(
                f"{name or 'a converted attention'} is given {key}, which it was not given when it was read; convert with the inputs that it will have "
                "(convert_(…, inputs=…)), or leave it out of `where`"
            )
    for key, value in plan.fixed if position is not None else ():
        if key in values and values[key] is not None and values[key] != value:
            raise InputError(
                f"{name or 'a converted attention'} is given {key}={values[key]}, and its positions were read with {value}; convert with the inputs that "
                "it will have (convert_(…, inputs=…)), or leave it out of `where`"
            )
    # a norm in training may count what it sees, so that it sees each of the tokens once
    summed: dict[tuple[str, ...], Tensor] = {}
    for part in plan.parts:
        if part.sources not in summed:
            tokens = _summed(part, values)
            summed[part.sources] = tokens if inlet is None else inlet(tokens)
    q, k, v = (summed[part.sources] for part in plan.parts)
    if q.ndim != {"tokens": 3, "packed": 2}.get(plan.layout, 4):
        expected = {"tokens": "tokens (B, N, C)", "packed": "tokens of all images (N, C)"}.get(plan.layout, "maps")
        raise InputError(
            f"{name or 'a converted attention'} is given {tuple(q.shape)}, and was read with {expected}; convert with the inputs that it will have "
            "(convert_(…, inputs=…)), or leave it out of `where`"
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
    turn = turn_of(values.get(plan.rotary)) if plan.rotary else None
    mask = values.get(plan.mask) if plan.mask else None
    causal = bool(values.get("is_causal")) or (plan.causal_alone and mask is None and tokens.shape[1] > 1)
    bias = _biases(attn, plan, values, tokens, like, position, name)
    asked = plan.returns is not None and ({"weights", "folded"} & set(plan.returns) or (weights and {"none", "each"} & set(plan.returns)))

    def attend(x: Tensor, turn: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor | None]:
        rope = None if turn is None else PrefixRotary(lambda part: rotated(part, *turn, plan.rotation), 0)
        given = Placed.options(_NoPosition(attn), mask=mask, bias=bias, rope=rope, is_causal=causal)  # type: ignore[arg-type]
        return attn(x, **options, **given), attn.attention_map(x, **options, **given)["combined"] if asked else None

    if plan.ends:
        out, each = in_pieces(tokens, turn, values[plan.ends], attend)
        made = each[0]
    else:
        out, made = attend(tokens, turn)
        each = [made]
    out = like_tokens(out, plan.layout, like)
    if plan.returns is None:
        return out
    forms = {"out": out, "each": each, "folded": None if made is None else made.flatten(0, 1)}
    return tuple(forms.get(what, made) for what in plan.returns)


def _biases(attn: TokenAttention, plan: Plan, values: dict[str, Any], tokens: Tensor, like: Tensor, position: Any, name: str) -> Tensor | None:
    """All that is added to the logits, ``(B or 1, H or 1, Nq, Nk)``; None where nothing is, or there are no pairs to add it to."""
    parts: list[Tensor] = []
    for key, form, gain in plan.given:
        if (value := values.get(key)) is None:
            continue
        if form == "windows" and not attn.has_pairwise_logits:
            raise InputError(f"{name or 'a converted attention'} is given {key}, a mask a window; {type(attn).__name__} has no pairs to mask")
        parts.append(as_pairs(value, form, len(tokens)) * gain if gain != 1 else as_pairs(value, form, len(tokens)))
    if position is not None and position.of_queries:
        grid = like.shape[1:3] if plan.layout == "rows" else like.shape[2:]
        if tuple(grid) != position.grid:
            raise InputError(f"{name or 'a converted attention'} has positions of {position.grid[0]} × {position.grid[1]} tokens, got {grid[0]} × {grid[1]}")
        q = project(attn.qkv, tokens, slice(attn.inner_dim)).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # type: ignore[arg-type]
        parts.append(position(q))
    elif position is not None:
        parts.append(position())
    if not parts or not attn.has_pairwise_logits:
        return None
    return sum(parts[1:], start=parts[0]) if len(parts) > 1 else parts[0]


class _NoPosition:
    """What :meth:`Placed.options` asks of a placed attention; the bias is given with the call."""

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
    values = self.plan.called(args, kwargs)
    return answer(self.attn, self.plan, values, self.__dict__.get("place_name", ""), weights, inlet=self.inlet, position=self.position)


def shell(module: nn.Module, ours: nn.Module, plan: Plan, owner: nn.Module | None = None) -> Any:
    """An instance of a subclass of the host's class: what asks for its class, its settings or its maps by class goes on to find them."""
    position = position_of(owner or module, plan.table)
    if position is not None and position.of_queries and not isinstance(ours, QKVAttention):
        raise InputError(f"its positions are multiplied with queries, and {type(ours).__name__} has none to multiply; leave it out of `where`")
    replacement = with_settings(module, _forward)
    replacement.plan, replacement.attn = plan, ours
    replacement.inlet = module.get_submodule(plan.inlet) if plan.inlet else None
    replacement.position = position if ours.has_pairwise_logits else None
    return replacement
