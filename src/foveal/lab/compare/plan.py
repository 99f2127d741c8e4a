"""The experiment: which arms, on what, how long. Fixed before anything runs, and written down."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..._errors import InputError, unknown
from ...models import Arm, ModelConfig, ViT
from ..data import Data
from ..training import Optim, Recipe, model_from_dict, model_to_dict
from ..training.reading import read_object
from .sequential import check_looks

__all__ = ["DEFAULT_ARMS", "LOOKS", "TUNING_SEEDS", "Arm", "Plan", "as_begun", "judged_by", "list_arms", "make_plan"]

DEFAULT_ARMS = ViT.default_arms


LOOKS = (4, 8, 12)
"""Numbers of seeds at which a comparison that ends by itself is looked at."""
TUNING_SEEDS = (1000, 1001)
"""Of the runs that choose a learning rate; none of them is judged."""


@dataclass(frozen=True)
class Plan:
    """What is run, and what will be said of it; nothing of it may depend on results."""

    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    own_data: bool = False
    """Each seed draws data, split and test samples of its own, and not weights and order alone."""
    primary: tuple[str, str] | None = None
    """The comparison that decides: a variant and what it is held against; the first that there is if None."""
    margin: float | None = None
    """Differences below it do not matter, in the unit that the number is shown in; see :attr:`margin_of` if None."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which results are looked at, ending where the primary comparison is settled; all seeds at once if empty."""
    learning_rates: tuple[float, ...] = ()
    """Tried for each variant on validation; the recipe's for all if empty."""
    controls: tuple[tuple[str, str], ...] = ()
    """Variants, and the variant that each is held against beside the baseline, where the model does not say so itself."""
    unnamed: tuple[tuple[str, str], ...] = ()
    """Variants, and each pattern of the recipe's rates by name that decides nothing in them; :func:`run_plan` finds them."""

    def run_recipe(self, arm: Arm, seed: int, lr: float | None = None) -> Recipe:
        """The recipe of one run: the plan's, but for the attention, the seed, the seed's data and the variant's own rates."""
        recipe = self.recipe if lr is None else replace(self.recipe, optim=_at_rate(self.recipe.optim, lr))
        absent = {pattern for name, pattern in self.unnamed if name == arm.name}
        if absent:
            kept = {pattern: rate for pattern, rate in recipe.optim.lr_of.items() if pattern not in absent}
            recipe = replace(recipe, optim=replace(recipe.optim, lr_of=kept))
        data = _drawn_anew(recipe.data, seed) if self.own_data else recipe.data
        # what is pretrained shares the weights that it came with
        return replace(recipe, data=data, model=arm.model, seed=seed, share_initial_weights=not arm.model.brings_weights, trackers=())

    @property
    def baseline(self) -> str:
        return self.recipe.model.baseline

    @property
    def data_differ(self) -> bool:
        """Whether seeds draw data of their own; a set in which nothing is drawn stays the same."""
        return self.own_data and _draws(self.recipe.data)

    def pairs(self) -> list[tuple[str, str]]:
        """Every comparison that is declared, the primary one first: each variant with the baseline, and with its rival where that is trained.

        Which is primary, if the plan names none: the first variant with its rival, which has as many weights; without a rival the first with the baseline.
        """
        names, rivals = [arm.name for arm in self.arms], self.recipe.model.rivals | dict(self.controls)
        with_rival = [(name, rivals[name]) for name in names if rivals.get(name) in names]
        found = [*with_rival, *((name, self.baseline) for name in names if name != self.baseline)]
        if self.primary is not None and set(self.primary) <= set(names):
            found = [self.primary, *found]
        return list(dict.fromkeys(found))

    def margin_of(self, baseline: float) -> float:
        """The margin, in the unit of the metric: as given, else one point of a percentage, else a twentieth of what the baseline has."""
        headline = self.recipe.task.primary_metric
        if self.margin is not None:
            return self.margin / headline.scale
        return 1 / headline.scale if headline.unit == "%" else abs(baseline) / 20

    def to_dict(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_dict(),
            "arms": [{"name": arm.name, "about": arm.about, "model": model_to_dict(arm.model)} for arm in self.arms],
            "seeds": list(self.seeds),
            "own_data": self.own_data,
            "primary": None if self.primary is None else list(self.primary),
            "margin": self.margin,
            "looks": list(self.looks),
            "learning_rates": list(self.learning_rates),
            **({"controls": [list(pair) for pair in self.controls]} if self.controls else {}),
            **({"unnamed": [list(pair) for pair in self.unnamed]} if self.unnamed else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """The inverse of :meth:`to_dict`. Plans of before seeds had data of their own have the same data for all.

        Raises:
            ValueError: it is no plan.
        """
        try:
            arms = tuple(Arm(str(arm["name"]), str(arm["about"]), model_from_dict(arm["model"])) for arm in values["arms"])
            seeds = tuple(values["seeds"])
            if not arms or not seeds or not all(isinstance(seed, int) for seed in seeds):
                raise ValueError(f"arms {[arm.name for arm in arms]} and seeds {list(seeds)}")
            primary, margin = values.get("primary"), values.get("margin")
            return cls(
                Recipe.from_dict(values["recipe"]),
                arms,
                seeds,
                own_data=bool(values.get("own_data", False)),
                primary=None if primary is None else (str(primary[0]), str(primary[1])),
                margin=None if margin is None else float(margin),
                looks=tuple(int(look) for look in values.get("looks", ())),
                learning_rates=tuple(float(rate) for rate in values.get("learning_rates", ())),
                controls=tuple((str(name), str(control)) for name, control in values.get("controls", ())),
                unnamed=tuple((str(name), str(pattern)) for name, pattern in values.get("unnamed", ())),
            )
        except InputError:
            raise
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no plan of a comparison ({error!r}); choose another folder with --out, or remove its plan.json") from error


def as_begun(plan: Plan, folder: Path) -> Plan:
    """The plan as it goes on in a folder: a comparison of before seeds had data of their own keeps the same data for all."""
    path = folder / "plan.json"
    return plan if not path.exists() or "own_data" in read_object(path) else replace(plan, own_data=False)


def _at_rate(optim: Optim, lr: float) -> Optim:
    """Rates of their own keep their distance, of what is new in a pretrained network and of names: they may be of all that learns."""
    by = lr / optim.lr
    own = {name: rate * by for name, rate in optim.lr_of.items()}
    return replace(optim, lr=lr, new_lr=None if optim.new_lr is None else optim.new_lr * lr / optim.lr, lr_of=own)


def _draws(data: Data) -> bool:
    return any(item.name == "seed" for item in fields(data))  # type: ignore[arg-type]


def _drawn_anew(data: Data, seed: int) -> Data:
    """Seed 0 is the recipe's own draw."""
    return replace(data, seed=data.seed + seed) if _draws(data) else data  # type: ignore[attr-defined, type-var]


def list_arms(model: ModelConfig | None = None) -> list[str]:
    """Names that a comparison in this model takes; in a vision transformer if None."""
    return sorted((model or ViT()).arms())


def make_plan(
    recipe: Recipe,
    attentions: tuple[str, ...] | None = None,
    *,
    seeds: int = 3,
    own_data: bool = True,
    primary: tuple[str, ...] = (),
    margin: float | None = None,
    looks: tuple[int, ...] = (),
    tune: bool = False,
) -> Plan:
    """Put the arms in order, the baseline first; it is added where it was not asked for.

    Args:
        recipe: of every run.
        attentions: names of arms; the model's own choice if None.
        seeds: runs of each arm; with ``looks`` the last of them.
        own_data: each seed draws its own data, split and test samples, where the set draws any.
        primary: the comparison that decides, a name and what it is held against; the baseline if that is left out.
        margin: differences below it do not matter, in the unit that the number is shown in.
        looks: numbers of seeds at which the comparison may end.
        tune: choose each arm's learning rate among half, one and two times the recipe's, on validation, with two seeds that are not judged.

    Raises:
        ValueError: an unknown or repeated arm, no seed, a primary comparison of what is not compared, a margin that is none, or looks that do not grow.
    """
    attentions = recipe.model.default_arms if attentions is None else attentions
    if len(set(attentions)) < len(attentions):
        raise InputError(f"each attention can be compared once, got {' '.join(attentions)}")
    known = recipe.model.arms()
    names = list(dict.fromkeys((recipe.model.baseline, *attentions)))
    for name in names:
        if name not in known:
            raise unknown("attention to compare", name, known)
    plan = Plan(recipe, tuple(known[name] for name in names), (), own_data)
    return judged_by(plan, seeds=seeds, primary=primary, margin=margin, looks=looks, tune=tune)


def judged_by(plan: Plan, *, seeds: int, primary: tuple[str, ...] = (), margin: float | None = None, looks: tuple[int, ...] = (), tune: bool = False) -> Plan:
    """The plan with its runs and with what they are judged by, see :func:`make_plan`.

    Raises:
        ValueError: no seed, a primary comparison of what is not compared, a margin that is none, or looks that do not grow.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    if looks:
        check_looks(looks)
        seeds = looks[-1]
    judged = plan.recipe.task.primary_metric
    if (tune or looks) and not judged.ranks:
        raise InputError(f"{judged.label} does not say which run is better, so it chooses no learning rate and settles nothing; leave --tune and --until out")
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"margin must be above 0 and finite, got {margin}")
    decides = _primary(primary, [arm.name for arm in plan.arms], plan.baseline) if primary else None
    rates = tuple(factor * plan.recipe.optim.lr for factor in (0.5, 1.0, 2.0)) if tune else ()
    return replace(plan, seeds=tuple(range(seeds)), primary=decides, margin=margin, looks=looks, learning_rates=rates)


def _primary(given: tuple[str, ...], names: list[str], baseline: str) -> tuple[str, str]:
    pair = (*given, baseline)[:2] if len(given) == 1 else given
    absent = [name for name in pair if name not in names]
    if len(pair) != 2 or pair[0] == pair[1] or absent:
        reason = f"{absent[0]} is not compared" if absent else "expected two attentions"
        raise InputError(f"the primary comparison is of two attentions out of {', '.join(names)}, got {' '.join(given)}: {reason}")
    return pair[0], pair[1]
