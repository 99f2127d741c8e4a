"""Rates by name in a comparison: what a pattern names need not be in every variant, as it is not in the baseline, but in one it must be."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..training.groups import own_rates, rates_in_use
from .plan import Plan

__all__ = ["rate_notes", "with_rates_of"]


def with_rates_of(plan: Plan, trained: Mapping[str, Sequence[str]]) -> Plan:
    """The plan that leaves each variant those patterns of the recipe's rates that decide something in it.

    Args:
        plan: of the comparison.
        trained: names of the parameters that are trained, by variant.

    Raises:
        ValueError: a pattern that decides no rate in any variant, as in training a single one.
    """
    rates = plan.recipe.optim.lr_of
    own_rates(rates, list(dict.fromkeys(name for names in trained.values() for name in names)))
    used = {arm: rates_in_use(rates, names) for arm, names in trained.items()}
    return replace(plan, unnamed=tuple((arm, pattern) for arm in trained for pattern in rates if pattern not in used[arm]))


def rate_notes(plan: Plan) -> list[str]:
    """Which variants learn without a rate of the recipe's, a line a pattern; nothing where all have them all."""
    there = {arm.name for arm in plan.arms}
    by_pattern: dict[str, list[str]] = {}
    for arm, pattern in plan.unnamed:
        if arm in there:
            by_pattern.setdefault(pattern, []).append(arm)
    return [
        f"{len(arms)} of {len(plan.arms)} variants train nothing whose rate the pattern {pattern!r} of lr_of decides, and learn without it: {', '.join(arms)}"
        for pattern, arms in by_pattern.items()
    ]
