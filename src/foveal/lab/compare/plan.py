"""The experiment: which arms, on what, how long. Fixed before anything runs, and written down."""

from dataclasses import dataclass, replace
from typing import Any

from ..._errors import InputError, unknown
from ...models import Arm, ModelConfig, ViT
from ..training import Recipe, model_from_dict, model_to_dict

__all__ = ["DEFAULT_ARMS", "Arm", "Plan", "list_arms", "make_plan"]

DEFAULT_ARMS = ViT.default_arms


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    controls: tuple[tuple[str, str], ...] = ()
    """Arms, and beside the baseline the arm that each is held against."""

    def run_recipe(self, arm: Arm, seed: int) -> Recipe:
        """The recipe of one run: the plan's, but for the attention and the seed."""
        data = self.recipe.data.drawn_by(seed)
        # what is pretrained shares the weights that it came with
        return replace(self.recipe, data=data, model=arm.model, seed=seed, share_initial_weights=not arm.model.brings_weights, trackers=())

    @property
    def rivals(self) -> dict[str, str]:
        return self.recipe.model.rivals | dict(self.controls)

    @property
    def baseline(self) -> str:
        return self.recipe.model.baseline

    def to_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_dict(),
            "arms": [{"name": arm.name, "about": arm.about, "model": model_to_dict(arm.model)} for arm in self.arms],
            "seeds": list(self.seeds),
            **({"controls": [list(pair) for pair in self.controls]} if self.controls else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: it is no plan.
        """
        try:
            arms = tuple(Arm(str(arm["name"]), str(arm["about"]), model_from_dict(arm["model"])) for arm in values["arms"])
            seeds = tuple(values["seeds"])
            if not arms or not seeds or not all(isinstance(seed, int) for seed in seeds):
                raise ValueError(f"arms {[arm.name for arm in arms]} and seeds {list(seeds)}")
            controls = tuple((str(name), str(control)) for name, control in values.get("controls", ()))
            return cls(Recipe.from_dict(values["recipe"]), arms, seeds, controls)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no plan of a comparison ({error!r}); choose another folder with --out, or remove its plan.json") from error


def list_arms(model: ModelConfig | None = None) -> list[str]:
    """Names that a comparison in this model takes; in a vision transformer if None."""
    return sorted((model or ViT()).arms())


def make_plan(recipe: Recipe, attentions: tuple[str, ...] | None = None, *, seeds: int = 3) -> Plan:
    """Put the arms in order, the baseline first; it is added where it was not asked for. None takes the model's own choice.

    Raises:
        ValueError: an unknown or repeated arm, or no seed.
    """
    attentions = recipe.model.default_arms if attentions is None else attentions
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    if len(set(attentions)) < len(attentions):
        raise InputError(f"each attention can be compared once, got {' '.join(attentions)}")
    known = recipe.model.arms()
    names = list(dict.fromkeys((recipe.model.baseline, *attentions)))
    for name in names:
        if name not in known:
            raise unknown("attention to compare", name, known)
    return Plan(recipe, tuple(known[name] for name in names), tuple(range(seeds)))
