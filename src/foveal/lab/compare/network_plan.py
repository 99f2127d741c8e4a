"""The plan of a comparison in a pretrained network: each attention at each place, beside the network as it is and the controls that are fair to it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..._errors import InputError, unknown
from ...attention import list_attentions
from ...convert import ConversionReport, find_host
from ...models import Arm
from ...models._config import NAMED_OPTIONS
from ...models.mixing import CONTROL
from ..finetuning import calibration_steps
from ..networks import WIDE, Pretrained
from ..training import Recipe
from .places import AT
from .plan import Plan, judged_by

__all__ = ["make_network_plan"]

_TOKENS, _MAPS = ("denoising", "denoising-shared", "external"), ("external_2d", "efficient_2d", "linear_2d")
_PLACES = ("all", "last_stage", "every_2nd")
_EVERYWHERE = ("all", "*")
_AS_MANY = 0.01
"""Parameters of the network, as a share, up to which two count as equal."""


def make_network_plan(
    recipe: Recipe,
    attentions: Sequence[str] = (),
    places: Sequence[str] = (),
    *,
    seeds: int = 5,
    controls: bool = True,
    calibrate: int | None = None,
    primary: tuple[str, ...] = (),
    margin: float | None = None,
    looks: tuple[int, ...] = (),
    tune: bool = False,
) -> tuple[Plan, list[str]]:
    """The network as it is first, then by place the controls and the attentions; and notes of what was left out.

    Controls are, in a network of tokens, its own attention with more heads and the same function at the start (``foveal.widen_``), as large as the first of
    the attentions that adds parameters; where all but attentions is frozen its own attention, learning in the same place; behind stages of a convolutional
    network two 1 × 1 convolutions.

    Args:
        recipe: a fine-tuning of the network as it is.
        attentions: names out of ``foveal list``, denoising-shared and softmax-centered; three by default.
        places: globs on names of attentions, ``all``, ``last_stage``, ``global_only``, ``every_2nd``; of a convolutional network names of stages.
        seeds: runs of each; with ``looks`` the last of them.
        controls: whether there are any.
        calibrate: steps a layer, before training, to fit what was put in to what it replaced; 100 where the function changes if None.
        primary: the comparison that decides, as ``denoising@all``, and what it is held against; the network as it is if that is left out.
        margin: differences below it do not matter, in the unit that the number is shown in.
        looks: numbers of seeds at which the comparison may end.
        tune: choose each variant's rates among half, one and two times the recipe's, that of what is new with the other, see :func:`make_plan`.

    Raises:
        ValueError: an unknown or repeated attention or place, two places that are the same modules, no seed, a primary comparison of what is not compared, a
            margin that is none, or looks that do not grow.
    """
    model = recipe.model
    assert isinstance(model, Pretrained), "of other networks arms are compared, by make_plan"
    side: int = recipe.data.img_size  # type: ignore[attr-defined]
    plain = model.rebuild(None, img_size=side, num_classes=2)
    own = [name for name, module in plain.named_modules() if find_host(module) is not None]
    maps = not own
    attentions = tuple(attentions) or (_MAPS if maps else _TOKENS)
    if maps and not places:
        parts = ", ".join(name for name, _ in plain.named_modules() if name and name.count(".") < 2)[:400]
        raise InputError(f"{model.name} has no attention, so one is put behind stages: name them with --places, out of {parts}")
    places = tuple(places) or _PLACES
    for what, names in (("attention", attentions), ("place", places)):
        if len(set(names)) < len(names):
            raise InputError(f"each {what} can be compared once, got {' '.join(names)}")
    if maps and (wrong := [place for place in places if place in (*_PLACES, "global_only")]):
        raise InputError(f"{wrong[0]} is a place of attentions, and {model.name} has none; name stages, such as {next(n for n, _ in plain.named_children())}")
    known = [*list_attentions(form="2d" if maps else "tokens"), *(() if maps else NAMED_OPTIONS)]
    for name in attentions:
        if name not in known:
            raise unknown(f"attention for {'feature maps' if maps else 'tokens'}", name, known)
    made, notes, pairs, chosen = [_own(model)], list[str](), list[tuple[str, str]](), dict[frozenset[str], str]()
    for place in places:
        put = {name: _variant(model, name, place, maps, calibrate, side, len(own)) for name in attentions}
        modules = frozenset(swap.name for swap in next(iter(put.values()))[1].swaps)
        if modules in chosen:
            raise InputError(f"{place} and {chosen[modules]} are the same {len(modules)} places of {model.name}; leave one out")
        chosen[modules] = place
        beside = _controls(model, place, maps, put, plain, side, len(own), notes) if controls else {}
        made += [arm for arm, _ in (beside | put).values()]
        pairs += [(arm.name, control) for arm, report in put.values() if (control := _control_of(report, beside, maps))]
        for arm, report in put.values():
            notes += [f"{arm.name}: {left.name} is left as it is: {left.reason}" for left in report.left]
    plan = Plan(recipe, tuple(made), (), own_data=True, controls=tuple(pairs))
    return judged_by(plan, seeds=seeds, primary=primary, margin=margin, looks=looks, tune=tune), notes


def _own(model: Pretrained) -> Arm:
    return Arm("own", "the network as it is, fine-tuned", model)


def _variant(model: Pretrained, name: str, place: str, maps: bool, calibrate: int | None, side: int, total: int) -> tuple[Arm, ConversionReport]:
    attention, _, options = NAMED_OPTIONS.get(name, (name, "", None))
    at: dict[str, Any] = {"insert_after": (place,)} if maps else {"where": "*" if place in _EVERYWHERE else place}
    changed = replace(model, attention=attention, attention_options=options, **at)
    try:
        report: Any = changed.rebuild(None, img_size=side, num_classes=2).conversion
    except InputError as error:
        raise InputError(f"{name} cannot be put at {place} of {model.name}: {error}") from error
    if not maps:
        changed = replace(changed, calibrate=calibration_steps(changed, report) if calibrate is None else calibrate)
    fitted = f"; fitted to what it replaced for {changed.calibrate} steps a layer first" if changed.calibrate else ""
    about = f"behind {place}" if maps else f"in {len(report.swaps)} of {total} attentions{fitted}"
    return Arm(f"{name}{AT}{place.replace('*', '_')}", f"{name} {about}", changed), report


def _controls(
    model: Pretrained, place: str, maps: bool, put: dict[str, tuple[Arm, ConversionReport]], plain: nn.Module, side: int, total: int, notes: list[str]
) -> dict[str, tuple[Arm, ConversionReport]]:
    found = {}
    if maps:
        return {} if CONTROL in put else {CONTROL: _variant(model, CONTROL, place, maps, None, side, total)}
    if model.freeze == "all-but-attention" and "softmax" not in put:
        found["softmax"] = _variant(model, "softmax", place, maps, 0, side, total)
    heads, why = _heads(put, plain)
    if heads is None:
        notes.append(f"no {WIDE}{AT}{place}: {why}")
        return found
    at = "*" if place in _EVERYWHERE else place
    wide = replace(model, attention=WIDE, attention_options={"num_heads": heads[1]}, where=at)
    report: Any = wide.rebuild(None, img_size=side, num_classes=2).conversion
    arm = Arm(f"{WIDE}{AT}{place.replace('*', '_')}", f"its own attention with {heads[1]} heads for {heads[0]}, the same function at the start", wide)
    return found | {WIDE: (arm, report)}


def _heads(put: dict[str, tuple[Arm, ConversionReport]], plain: nn.Module) -> tuple[tuple[int, int] | None, str]:
    """Heads now, and those that make as many parameters as the first attention that adds any."""
    for _, report in put.values():
        before, after = report.parameters
        if after <= before:
            continue
        modules = [plain.get_submodule(swap.name) for swap in report.swaps]
        now = {_num_heads(module) for module in modules}
        if len(now) > 1 or None in now:
            return None, f"its attentions have {sorted(map(str, now))} heads, and it takes one number of them"
        (heads,) = now
        assert heads is not None, "asked above"
        wanted = round(heads * after / before)
        return ((heads, wanted), "") if wanted > heads else (None, "what is put in adds less than a head's parameters")
    return None, "no attention that is put in adds parameters"


def _num_heads(module: Any) -> int | None:
    for name in ("num_heads", "num_attention_heads"):
        for holder in (module, getattr(module, "attention", None), getattr(module, "config", None)):
            if isinstance(heads := getattr(holder, name, None), int):
                return heads
    return None


def _control_of(report: ConversionReport, beside: dict[str, tuple[Arm, ConversionReport]], maps: bool) -> str | None:
    """The control that is fair to it: as large where there is one, else that which learns in the same place."""
    if maps:
        return beside[CONTROL][0].name if CONTROL in beside else None
    if WIDE in beside and abs(report.parameters[1] / beside[WIDE][1].parameters[1] - 1) < _AS_MANY:
        return beside[WIDE][0].name
    return beside["softmax"][0].name if "softmax" in beside else None
