"""``foveal compare --model NAME``: attentions at several places of a pretrained network."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._errors import InputError
from ._comparing import JudgingOptions, run_and_report
from ._options import parse
from ._ray import RayOptions, with_address
from ._training_options import TrainingOptions, rank

__all__ = ["compare_model"]


@dataclass(frozen=True, kw_only=True)
class _CompareModel(RayOptions, JudgingOptions, TrainingOptions):
    """Fine-tune a pretrained network as it is and with other attentions at several places, on equal budgets, and say whether anything helped, and where."""

    attentions: tuple[str, ...] = ()
    """Names out of foveal list, denoising-shared and softmax-centered. By default denoising, denoising-shared and external; in a convolutional network
    external_2d, efficient_2d and linear_2d."""
    places: tuple[str, ...] = ()
    """all, last_stage, every_2nd, global_only, or globs on names of attentions; the first three by default. Of a convolutional network its stages, by name."""
    seeds: int | None = None
    """Runs of each, and splits where the folder has none; 5 if not given."""
    steps: int | None = None
    """Of every run; as many as --epochs make if not given."""
    controls: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """Train the controls too: the network's own attention with more heads and the same function, and behind stages 1 × 1 convolutions."""
    jobs: int | None = None
    """Runs at a time, one thread each; if not given one per core, and with --ray as many as the cluster takes."""
    out: Path = Path("runs/compare-model")
    """Folder of the comparison. Re-run the same command to resume."""


_PLAN = (
    "attentions",
    "places",
    "seeds",
    "until",
    "primary",
    "margin",
    "tune",
    "steps",
    "controls",
    "calibrate",
    "jobs",
    "out",
    "model",
    "data",
    "ray",
    "gpus_per_run",
)


def compare_model(words: list[str]) -> None:
    """Compose the fine-tuning, plan, say what begins, train, and write the report."""
    chosen: _CompareModel = parse(
        _CompareModel,
        "compare",
        with_address(words),
        flags=True,
        example="foveal compare --model vit_small_patch16_224 --data photographs --places all last_stage",
    )
    cluster = chosen.cluster()
    from ..lab.compare import make_network_plan
    from ..lab.compare.places import place_lines
    from ..lab.finetuning import fine_tune, opening

    if chosen.steps is not None and any(word.partition("=")[0] == "--epochs" for word in words):
        raise InputError("give --steps or --epochs, not both")
    judging = chosen.judging(5)
    options: dict[str, Any] = {name: value for name, value in vars(chosen).items() if name not in _PLAN}
    if chosen.freeze != "nothing" and chosen.augment is None:
        options["augment"] = "none"
    # every run takes all its steps and is judged by its last weights: budgets are equal, and no image that judges has chosen anything
    recipe = fine_tune(chosen.model, chosen.data, **(options | {"lora": rank(chosen.lora), "patience": None}))
    steps = chosen.steps or recipe.steps
    recipe = replace(recipe, steps=steps, eval_every=max(recipe.eval_every, -(-steps // 20)), checkpoint_every=max(recipe.checkpoint_every, 50))
    plan, notes = make_network_plan(recipe, chosen.attentions, chosen.places, controls=chosen.controls, calibrate=chosen.calibrate, **judging)
    said = [f"variant     {arm.name}: {arm.about}" for arm in plan.arms]
    if chosen.freeze != "nothing":
        said += _frozen(plan)
    print("\n".join([*opening(recipe), *said, *(f"note: {note}" for note in notes)]))
    run_and_report(plan, chosen.out, words, jobs=chosen.jobs, cluster=cluster, more=place_lines)


def _frozen(plan: Any) -> list[str]:
    """What of the frozen backbone runs once, by what is said of it."""
    from ..lab.training import load_data
    from ..lab.training.features import foretold
    from ..lab.training.models import build_alike

    of: dict[str, list[str]] = {}
    for arm in plan.arms:
        recipe = plan.run_recipe(arm, plan.seeds[0])
        bundle = load_data(recipe.data)
        of.setdefault(foretold(recipe, build_alike(recipe, bundle), bundle), []).append(arm.name)
    return [f"frozen      {words}: {', '.join(names)}" for words, names in of.items()]
