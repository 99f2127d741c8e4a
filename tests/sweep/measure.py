"""One model, measured: what becomes of its attentions, its function, its state and its maps."""

import copy
import re
import traceback
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, EfficientAttention, ExternalAttention, SoftmaxAttention
from tests.sweep.seen import NOT_SPATIAL, Softmax, called_attentions, run, softmaxes

__all__ = ["measure", "stirred"]

TOLERANCE = 1e-4
"""Of an output's largest number, in float32 and through all layers; what is wrong differs by orders of magnitude more."""
TEXT = re.compile(r"(?:^|[._])(?:text|language|decoder\.bert|qformer)")


def stirred(model: nn.Module, strength: float = 0.5) -> nn.Module:
    """With weights all over, where a library starts some at zero: a head, a layer scale or a flat map of zeros would hide every difference."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.is_floating_point():
                scale = 0.1 if value.ndim < 2 else strength / max(1, value[0].numel()) ** 0.5
                value.add_(scale * torch.randn_like(value))
    # what is kept for evaluation is made anew
    return model.train().eval()


def measure(model: nn.Module, inputs: Any, quick: bool = False) -> dict[str, Any]:
    """All that the table says of one model; if quick, without what denoising, external and efficient attention make of it."""
    warnings.simplefilter("ignore")
    before = run(model.eval(), inputs)
    stirred(model)
    want = run(model, inputs)
    if not all(torch.isfinite(value).all() for value in want) and all(torch.isfinite(value).all() for value in before):
        raise ValueError("not finite once stirred")
    found, called = softmaxes(model, inputs)
    spatial = {one.owner: one.kind for one in found if one.of_pairs and not NOT_SPATIAL.search(one.kind)}
    named = {one.owner: one.kind for one in found} | called_attentions(model, called)
    others = {name: kind for name, kind in named.items() if name and not any(_within(name, owner) for owner in spatial)}
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "attentions": len(spatial), "others": _counts(others)}
    row |= _converted(model, inputs, want, spatial, others, quick)
    if not spatial and not others and row["verdict"] == "no softmax":
        return row | {"verdict": "no attention"}
    for name, config in (("external", ExternalAttention.Config()), ("efficient", EfficientAttention.Config())) if not quick else ():
        row[name] = _changed(model, inputs, config)
    row["maps"] = _maps(model, inputs, found, list(spatial))
    return row


def _within(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _counts(kinds: dict[str, str]) -> dict[str, int]:
    return dict(Counter(kinds.values()))


def _difference(got: list[Tensor], want: list[Tensor]) -> float:
    if [value.shape for value in got] != [value.shape for value in want]:
        return float("inf")
    if any(not torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(got, want, strict=True)):
        return float("inf")
    worst = [float((a - b).abs().nan_to_num(posinf=0.0).max() / b[torch.isfinite(b)].abs().max().clamp_min(1e-12)) for a, b in zip(got, want, strict=True)]
    return max(worst, default=0.0)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.rpartition('/site-packages/')[2].rpartition('/src/')[2]}:{frames[-1].lineno}" if frames else ""


def _converted(model: nn.Module, inputs: Any, want: list[Tensor], spatial: dict[str, str], others: dict[str, str], quick: bool) -> dict[str, Any]:
    """To softmax, and back; then to denoising attention that begins as softmax."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    out: dict[str, Any] = {"converted": 0, "missed": _counts(spatial)}
    try:
        report = _softmax(model, inputs, out)
    except foveal.InputError as error:
        out |= {"verdict": "refused" if spatial else "no softmax", "message": str(error)} | _untouched(model, state, kinds)
        wanted = [name for name in spatial if not TEXT.search(name)]
        return out | ({"by name": _by_name(model, inputs, want, wanted)} if wanted and out["untouched"] else {})
    except Exception as error:
        return out | {"verdict": "crash", "message": f"{_said(error)} at {_where(error)}"} | _untouched(model, state, kinds)
    swapped = [swap.name for swap in report.swaps]
    left = {one.name: one.reason for one in report.left}
    text = [name for name in spatial if TEXT.search(name) and any(_within(name, one) for one in left)]
    missed = {name: kind for name, kind in spatial.items() if name not in text and not any(_within(name, one) for one in swapped)}
    unsaid = [name for name in missed if not any(_within(name, one) for one in left)]
    out |= {
        "swaps": len(swapped),
        "converted": sum(any(_within(name, one) for one in swapped) for name in spatial),
        "missed": _counts(missed),
        "text": len(text),
        "unsaid": _counts({name: spatial[name] for name in unsaid}),
        "others_left": _counts({name: kind for name, kind in others.items() if not any(_within(name, one) for one in swapped)}),
        "function": dict(Counter(swap.output for swap in report.swaps)),
        "reasons": dict(Counter(re.sub(r"^\S*\d\S* ", "", reason)[:200] for reason in left.values())),
        "dropped": sorted({re.sub(r"\d+", "#", part) for swap in report.swaps for part in swap.dropped})[:4],
    }
    try:
        out["difference"] = _difference(run(model, inputs), want)
        late = ""
    except Exception as error:
        late = f"{_said(error)} at {_where(error)}"
    if not swapped:
        out["verdict"] = "silent" if spatial else "no softmax"
    elif late:
        out |= {"verdict": "late", "message": late}
    elif set(out["function"]) == {"identical"} and out["difference"] > TOLERANCE:
        out |= {"verdict": "wrong", "message": f"said to be identical, and differs by {out['difference']:.1e}"}
    elif missed:
        out["verdict"] = "part"
    else:
        out["verdict"] = "whole" if set(out["function"]) == {"identical"} else "changed"
    try:
        foveal.revert_(model)
        out |= _untouched(model, state, kinds)
        out["revert"] = out.pop("untouched") and all(_equal(a, b) for a, b in zip(run(model, inputs), want, strict=True))
    except Exception as error:
        out |= {"revert": False, "message": f"revert_: {_said(error)} at {_where(error)}"}
    if out["verdict"] == "part" and out["revert"]:
        wanted = [name for name in spatial if name not in text]
        out["by name"] = _by_name(model, inputs, want, wanted)
    if out["verdict"] in ("whole", "part", "changed") and out["revert"] and not quick:
        try:
            other = copy.deepcopy(model)
            foveal.convert_(other, DenoisingAttention.Config(), warm_start="exact")
            out["denoising"] = _difference(run(other, inputs), want)
        except Exception as error:
            out["denoising"] = _said(error)
    return out


def _by_name(model: nn.Module, inputs: Any, want: list[Tensor], wanted: list[str]) -> dict[str, Any]:
    """All attentions of images named, as cross attention and heads that pool ask to be; and back."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    try:
        report = _softmax(model, inputs, {}, lambda name, module: any(_within(name, owner) for owner in wanted))
    except foveal.InputError as error:
        return {"verdict": "refused", "message": str(error)} | _untouched(model, state, kinds)
    except Exception as error:
        return {"verdict": "crash", "message": f"{_said(error)} at {_where(error)}"} | _untouched(model, state, kinds)
    swapped = [swap.name for swap in report.swaps]
    out: dict[str, Any] = {"converted": sum(any(_within(name, one) for one in swapped) for name in wanted), "of": len(wanted)}
    kept = all(swap.output == "identical" for swap in report.swaps)
    try:
        out["difference"] = _difference(run(model, inputs), want)
        if kept and out["difference"] > TOLERANCE:
            out |= {"verdict": "wrong", "message": f"said to be identical, and differs by {out['difference']:.1e}"}
        else:
            out["verdict"] = "part" if out["converted"] < len(wanted) else "whole" if kept else "changed"
        foveal.revert_(model)
    except Exception as error:
        return out | {"verdict": "late", "message": f"{_said(error)} at {_where(error)}"}
    out |= _untouched(model, state, kinds)
    return out | {"revert": out.pop("untouched") and all(_equal(a, b) for a, b in zip(run(model, inputs), want, strict=True))}


def _softmax(model: nn.Module, inputs: Any, out: dict[str, Any], where: Any = "*") -> Any:
    """By itself, and where a batch is asked for, with one: a user has it."""
    try:
        report = foveal.convert_(model, SoftmaxAttention.Config(), where)
        if not any("give a batch with" in one.reason for one in report.left):
            return report
        foveal.revert_(model)
    except foveal.InputError as error:
        if "give a batch with" not in str(error):
            raise
    out["batch"] = "given, as asked for"
    return foveal.convert_(model, SoftmaxAttention.Config(), where, inputs=inputs)


def _untouched(model: nn.Module, state: dict[str, Tensor], kinds: dict[str, type]) -> dict[str, Any]:
    now = model.state_dict()
    same = list(now) == list(state) and all(_equal(now[key], value) for key, value in state.items())
    return {"untouched": same and {name: type(module) for name, module in model.named_modules()} == kinds}


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _changed(model: nn.Module, inputs: Any, config: Any) -> str:
    """Whether an attention without pairs runs and learns in it: ``runs``, or why not."""
    other = copy.deepcopy(model)
    try:
        report = foveal.convert_(other, config)
    except foveal.InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"crash: {_said(error)} at {_where(error)}"
    if not report.swaps:
        return "nothing"
    try:
        loss = sum(value.square().mean() for value in _graph(other, inputs) if value.requires_grad)
        if isinstance(loss, Tensor):
            loss.backward()
    except Exception as error:
        return f"late: {_said(error)} at {_where(error)}"
    return "runs"


def _graph(model: nn.Module, inputs: Any) -> list[Tensor]:
    from tests.sweep import seen

    return seen.flat(seen._call(model, inputs))


def _maps(model: nn.Module, inputs: Any, found: list[Softmax], owners: list[str]) -> dict[str, Any]:
    """Of every attention that runs: its maps against what its softmax gave, or what then met the values, in a run of its own.

    A map is wrong where no softmax gave it; those of a learned pooling may be there, and are not asked for.
    """
    out: dict[str, Any] = {"all": len(owners), "right": 0, "wrong": 0, "missing": 0}
    if not owners:
        return out
    try:
        maps = foveal.attention_maps(model, inputs)
    except foveal.InputError as error:
        return out | {"missing": len(owners), "message": str(error)[:300]}
    except Exception as error:
        return out | {"missing": len(owners), "message": f"crash: {_said(error)} at {_where(error)}"}
    open_, right, wrong = list(range(len(found))), set(), 0
    for layer in maps.values():
        given = layer["combined"]
        if pair := _signed(layer, [(index, found[index]) for index in open_]):
            open_ = [index for index in open_ if index not in pair]
            right |= {found[index].owner for index in pair} & set(owners)
            continue
        equal = next((index for index in open_ if any(_same(given, other) for other in (found[index].map, *found[index].used))), None)
        if equal is None:
            wrong += 1
            continue
        open_.remove(equal)
        if found[equal].owner in owners:
            right.add(found[equal].owner)
        if not torch.allclose(given.sum(-1), torch.ones(()), atol=1e-4):
            out["rows not one"] = out.get("rows not one", 0) + 1
    return out | {"right": len(right), "wrong": wrong, "missing": max(0, len(owners) - len(right) - wrong), "named": len(maps.missing)}


def _signed(layer: dict[str, Tensor], found: list[tuple[int, Softmax]]) -> list[int]:
    """Which two softmaxes a signed map is the difference of, times a number that the model multiplied with; none where it is not."""
    if not {"positive", "negative"} <= layer.keys():
        return []
    pair = [next((one for one in found if _same(layer[name], one[1].map)), None) for name in ("positive", "negative")]
    if pair[0] is None or pair[1] is None or pair[0][0] == pair[1][0]:
        return []
    first, second = layer["positive"], layer["negative"]
    right = any(_near(layer["combined"], first - factor * second) for factor in {1.0, *pair[0][1].factors, *pair[1][1].factors})
    return [pair[0][0], pair[1][0]] if right else []


def _same(given: Tensor, other: Tensor) -> bool:
    """Windows may be folded into the batch, before the heads or behind them, and heads may come first. The account runs on other kernels, whose rounding
    layers that were stirred make larger."""
    size = given.shape[-2:]
    if given.numel() != other.numel() or other.shape[-2:] != size:
        return False
    maps = other.reshape(-1, *size).float()
    orders = [given, given.transpose(0, 1)] if given.ndim == 4 else [given]
    orders += [given.unflatten(0, (batch, -1)).transpose(1, 2) for batch in (1, 2) if given.ndim == 4 and len(given) % batch == 0]
    return any(_near(order.reshape(-1, *size), maps) for order in orders)


def _near(given: Tensor, maps: Tensor) -> bool:
    """To a thousandth of the largest weight: among many tokens all weights are small."""
    return torch.allclose(given, maps, rtol=0.0, atol=1e-3 * float(maps.abs().amax()))
