"""``foveal compare``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._errors import InputError
from ._comparing import Flag, JudgingOptions, run_and_report
from ._options import parse
from ._ray import RayOptions, with_address

__all__ = ["compare"]

_DEFAULT = "cluttered-digits-mean"


@dataclass(frozen=True, kw_only=True)
class _Compared:
    recipe: Annotated[str | None, tyro.conf.arg(metavar="RECIPE")] = None
    """A recipe out of `foveal list`, of any task; each attention is put into its model. cluttered-digits-mean if not given, image-folder with --data."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the recipe's data lies. Without --recipe an image folder (train/CLASS, val/CLASS, or CLASS to be split)."""
    attentions: tuple[str, ...] = ()
    """Names out of `foveal list`; in a vision transformer softmax-centered, -wide, -many and -2H, denoising-shared and -equal, and denoising-halo, -efficient
    and -linear too. Five by default. The baseline is always among them: softmax in a vision transformer, none in a convolutional network."""


@dataclass(frozen=True, kw_only=True)
class _Compare(RayOptions, JudgingOptions, _Compared):
    """Train several attentions on equal budgets and write an honest report. In a pretrained network: compare --model NAME --data DIR, of which compare --model
    NAME --help tells.
    """

    seeds: int | None = None
    """Runs of each attention; if not given, 6 of the comparison that needs no options, else 3. Intervals need at least 2; use 5 or more for conclusions."""
    same_data: Flag = False
    """Give all seeds the same data. By default each draws its own split, training and test samples, where the set draws any."""
    steps: int | None = None
    """Training steps of every run; the recipe's if not given."""
    minutes_per_run: float | None = None
    """In place of --steps: about how many minutes the most expensive attention may take, as CPU time on one thread or time on the training device. All get
    the steps that this makes."""
    size: Literal["tiny", "small", "base"] | None = None
    """Of the vision transformer; the recipe's if not given."""
    img_size: int | None = None
    """Side that images of a folder are brought to; 64, or the recipe's, if not given."""
    resolutions: tuple[int, ...] = ()
    """Feature-map sizes, ascending, at which the report also shows time and memory of each attention as a block of 64 channels."""
    jobs: int | None = None
    """Runs at a time, one thread each; if not given one per core, and with --ray as many as the cluster takes."""
    out: Path = Path("runs/compare")
    """Folder of the comparison. Re-run the same command to resume."""


def compare(words: list[str]) -> None:
    """Train several attentions on equal budgets and write a report."""
    if any(word.partition("=")[0] == "--model" for word in words):
        # a pretrained network has options of its own
        from ._compare_model import compare_model

        compare_model(words)
        return
    chosen: _Compare = parse(_Compare, "compare", with_address(words), flags=True)
    cluster = chosen.cluster()
    from ..lab.compare import Plan, make_plan, measure_resolution, steps_for_minutes
    from ..lab.compare.resolution import check_sides
    from ..lab.recipes import get_recipe
    from ..lab.training import read_json

    if chosen.resolutions:
        # before hours of training and not behind them
        check_sides(chosen.resolutions)
    if chosen.steps is not None and chosen.minutes_per_run is not None:
        raise InputError("give --steps or --minutes-per-run, not both")
    recipe = get_recipe(chosen.recipe or (_DEFAULT if chosen.data is None else "image-folder"))
    data = {"root": chosen.data, "img_size": chosen.img_size if chosen.data is None or chosen.recipe or chosen.img_size else 64}
    recipe = replace(recipe, data=_with(recipe.data, data), model=_with(recipe.model, {"size": chosen.size}))
    if chosen.steps is not None:
        recipe = replace(recipe, steps=chosen.steps, eval_every=max(1, chosen.steps // 10))
    judging = chosen.judging(6 if chosen.recipe is None and chosen.data is None else 3)
    plan = make_plan(recipe, chosen.attentions or None, own_data=not chosen.same_data, **judging)
    if chosen.minutes_per_run is not None:
        # measured once: a comparison that goes on keeps the steps it began with
        old = Plan.from_dict(read_json(chosen.out / "plan.json")) if (chosen.out / "plan.json").exists() else None
        steps = old.recipe.steps if old else steps_for_minutes(recipe, plan, chosen.minutes_per_run)
        plan = replace(plan, recipe=replace(recipe, steps=steps, eval_every=max(1, steps // 10)))
    measure = (lambda: measure_resolution([arm.name for arm in plan.arms], chosen.resolutions, chosen.out)) if chosen.resolutions else None
    run_and_report(plan, chosen.out, words, jobs=chosen.jobs, cluster=cluster, measure=measure)


def _with(part: Any, changes: dict[str, Any]) -> Any:
    """A part of a recipe with those options that were given, which it must have."""
    given = {name: value for name, value in changes.items() if value is not None}
    for name in given:
        if not hasattr(part, name):
            raise InputError(
                f"--{'data' if name == 'root' else name.replace('_', '-')} has no effect for {type(part).__name__}, which has no {name}; leave it out"
            )
    return replace(part, **given)
