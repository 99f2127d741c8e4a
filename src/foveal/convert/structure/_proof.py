"""What was found is believed where ours, built from it, gives what the module gives on tokens that nothing was found from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError
from ...attention import SoftmaxAttention, TokenAttention
from .._sources import settled
from .._transfer import build
from ._arguments import Call
from ._masks import MASKS
from ._packed import split_otherwise
from ._place import place_of
from ._plan import Plan
from ._position import position_of
from ._reading import Reading
from ._seen import run, stirred
from ._shell import answer

__all__ = ["TOLERANCE", "holds", "or_why", "ours_of", "proven"]

TOLERANCE = 1e-5
"""Of the output's largest number, in float32."""


def proven(copy: nn.Module, plan: Plan, call: Call, tokens: set[str]) -> Plan | str:
    """The plan, if it holds for this call; also as that of a module that is causal where no mask says otherwise. Else why it does not."""
    reason = _differs(copy, plan, call, tokens)
    if not reason:
        return plan
    if (plan.mask or _mask_of(call)) and plan.layout == "tokens" and not plan.asks_apart:
        # PyTorch's kernel is told that a module is causal where no mask says otherwise
        causal = replace(plan, causal_alone=True)
        if not _differs(copy, causal, call, tokens):
            return causal
    return reason


def holds(module: nn.Module, plan: Plan, reading: Reading) -> str:
    """Why a plan is not what a module computes in the calls of a reading; empty where it is."""

    def found() -> str:
        copy = stirred(module)
        return next((reason for call, tokens in reading.calls if (reason := _differs(copy, plan, call, set(tokens)))), "")

    return str(or_why(found))


def or_why(found: Callable[[], Any]) -> Any:
    """What was found, or why a module of others could not be run."""
    try:
        return found()
    except InputError as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return f"it could not be run by itself ({'' if isinstance(error, RuntimeError) else f'{type(error).__name__}: '}{' '.join(str(error).split())[:120]})"


def ours_of(copy: nn.Module, plan: Plan) -> TokenAttention:
    """Softmax attention with the copy's parts."""
    place, _ = settled(replace(place_of(copy, plan, None, ""), attn_drop=0.0, proj_drop=0.0), {}, None)
    ours, _ = build(SoftmaxAttention.Config(), place, "exact")
    return ours.eval()


def _differs(copy: nn.Module, plan: Plan, call: Call, tokens: set[str]) -> str:
    """With the masks and biases that the call has, and without; with its tokens of one image and of several."""
    ours, inlet, position = ours_of(copy, plan), copy.get_submodule(plan.inlet) if plan.inlet else None, position_of(copy, plan.table)
    calls = [call.fresh(tokens, seed) for seed in (3, 4)]
    if plan.ends:
        count = int(call.values[plan.ends][-1])
        calls += [split_otherwise(calls[1], plan.ends, cuts) for cuts in ([0, count // 4, count], [0, count // 2, count])]
    optional = [name for name in (plan.mask, *(name for name, _, _ in plan.given)) if isinstance(call.values.get(name), Tensor)]
    if optional:
        calls.append(Call(call.names, call.defaults, calls[1].values | dict.fromkeys(optional)))
    for other in calls:
        try:
            wanted = run(copy, other.given).output
        except (RuntimeError, ValueError, TypeError):
            if optional and other is calls[-1]:
                # it cannot do without its mask, and its model gives it one
                continue
            raise
        made = answer(ours, plan, plan.called((), other.values), "", False, inlet=inlet, position=position)
        for what, (want, have) in zip(plan.returns or ("out",), _pairs(wanted, made), strict=True):
            if what in ("none", "each"):
                continue
            if have.shape != want.shape:
                return f"built from what was found, it gives {tuple(have.shape)} and not {tuple(want.shape)}"
            worst = float((have - want).abs().max() / want.abs().max().clamp_min(1e-12))
            if not worst <= TOLERANCE:
                return f"built from what was found, it differs by {worst:.1e} of its largest number"
    return ""


def _mask_of(call: Call) -> str:
    return next((name for name in MASKS if name in call.names or name in call.values), "")


def _pairs(wanted: Any, made: Any) -> list[tuple[Any, Any]]:
    return list(zip(wanted, made, strict=True)) if isinstance(wanted, tuple) else [(wanted, made)]
