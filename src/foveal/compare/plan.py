"""The experiment: which arms, on what, how long. Fixed before anything runs, and written down."""

from dataclasses import dataclass, replace
from typing import Any

from .._errors import InputError, unknown
from ..attention import CORES, FAMILIES, attention_class, list_attentions
from ..models import ViT
from ..models.vit import Size, scaled_heads
from ..training import Recipe

__all__ = ["BASELINE", "DEFAULT_ARMS", "RIVALS", "Arm", "Plan", "list_arms", "make_plan"]

BASELINE = "softmax"
RIVALS = {"denoising": "softmax-wide"}
"""Arms that have more parameters than the baseline, and the softmax attention that has as many."""

DEFAULT_ARMS = ("softmax", "softmax-wide", "denoising", "denoising-equal", "external")


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    name: str
    about: str
    model: ViT


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]

    def run_recipe(self, arm: Arm, seed: int) -> Recipe:
        """The recipe of one run: the plan's, but for the attention and the seed."""
        return replace(self.recipe, model=arm.model, seed=seed, share_initial_weights=True, trackers=())

    def to_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_dict(),
            "arms": [{"name": arm.name, "about": arm.about, "model": vars(arm.model)} for arm in self.arms],
            "seeds": list(self.seeds),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        arms = tuple(Arm(arm["name"], arm["about"], ViT(**arm["model"])) for arm in values["arms"])
        return cls(Recipe.from_dict(values["recipe"]), arms, tuple(values["seeds"]))


def _matched(size: Size) -> dict[str, Arm]:
    """Arms whose parameters equal those of another, by construction."""
    return {
        "softmax-wide": Arm("softmax-wide", "softmax with 1.5 × the heads: as many weights as denoising", ViT(size=size, num_heads=scaled_heads(size, 3, 2))),
        "denoising-equal": Arm(
            "denoising-equal",
            "denoising with 2/3 of the heads: as many weights as softmax",
            ViT(attention="denoising", size=size, num_heads=scaled_heads(size, 2, 3)),
        ),
    }


def _special(size: Size) -> dict[str, Arm]:
    return _matched(size) | _over_cores(size)


def _over_cores(size: Size) -> dict[str, Arm]:
    """Denoising over what else tokens can meet in."""
    return {
        f"denoising-{core}": Arm(f"denoising-{core}", f"denoising over {core} attention", ViT(attention="denoising", options={"core": core}, size=size))
        for core in CORES
        if core != BASELINE
    }


def list_arms() -> list[str]:
    """Names that a comparison takes: every attention on tokens, denoising over every core, and the matched ones."""
    return sorted({*list_attentions(form="tokens"), *_special("tiny")})


def make_plan(recipe: Recipe, attentions: tuple[str, ...] = DEFAULT_ARMS, *, seeds: int = 3) -> Plan:
    """Put the arms in order, the baseline first; it is added where it was not asked for.

    Raises:
        ValueError: an unknown or repeated arm, or no seed.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    if len(set(attentions)) < len(attentions):
        raise InputError(f"each attention can be compared once, got {' '.join(attentions)}")
    size = recipe.model.size
    special = _special(size)
    arms = []
    for name in dict.fromkeys((BASELINE, *attentions)):
        if name not in list_arms():
            raise unknown("attention to compare", name, list_arms())
        arm = special.get(name) or Arm(name, FAMILIES[attention_class(name).family], ViT(attention=name, size=size))
        arms.append(replace(arm, model=replace(arm.model, patch_size=recipe.model.patch_size, drop_path=recipe.model.drop_path)))
    return Plan(recipe, tuple(arms), tuple(range(seeds)))
