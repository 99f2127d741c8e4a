"""``foveal train fine-tune``."""

from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .._errors import InputError
from .._machine import first_process, processes
from ._next import next_lines, with_run
from ._options import parse
from ._stopped import Stopped
from ._training_options import TrainingOptions, rank

__all__ = ["features_folder", "fine_tune", "finish"]


@dataclass(frozen=True, kw_only=True)
class _FineTune(TrainingOptions):
    """Fine-tune a pretrained classifier on a folder of photographs, as it is or with another attention."""

    attention: str | None = None
    """Out of foveal list, in the places of the network's own; pointwise is the control of what is inserted. The network as it is if not given."""
    where: str = "*"
    """Which places: a glob on names of modules, last_stage, global_only, every_2nd."""
    warm_start: str | None = None
    """Of denoising attention: size of its negative branch, or exact."""
    insert_after: tuple[str, ...] = ()
    """Stages of a convolutional network behind which an attention on feature maps is put."""
    out: Path | None = None
    """Folder for the run; runs/fine-tune-TIME if not given."""
    patience: int | None = 5
    """Evaluations without a better one after which training ends."""
    seed: int = 0
    """Of the new head, order, augmentation and the validation split."""


def fine_tune(words: list[str]) -> None:
    """Compose the recipe, say what begins, train, and write the page."""
    from ..lab import finetuning
    from ..lab.training import Interrupted, fit

    chosen = parse(_FineTune, "train fine-tune", words, example="foveal train fine-tune --model vit_small_patch16_224 --data photographs --attention denoising")
    options = {item.name: getattr(chosen, item.name) for item in fields(chosen) if item.name not in ("out", "model", "data")}
    options |= {"lora": rank(chosen.lora), "warm_start": _start(chosen.warm_start)}
    if processes() > 1 and chosen.out is None:
        raise InputError(f"{processes()} processes train one run, and each would name its folder by its own clock; give --out FOLDER")
    out = chosen.out or Path("runs") / f"fine-tune-{datetime.now():%Y%m%d-%H%M%S}"
    if (out / "recipe.json").exists():
        raise InputError(f"{out} holds a run already; continue it with foveal train --resume {out}, or choose another folder")
    recipe = finetuning.fine_tune(chosen.model, chosen.data, **options)
    if first_process():
        print("\n".join(finetuning.opening(recipe)))
    try:
        fit(recipe, out, features=features_folder(recipe, out))
    except Interrupted as stopped:
        raise Stopped(str(stopped)) from stopped
    if first_process():
        finish(out)


def features_folder(recipe: Any, run: Path) -> Path | None:
    """Where a run keeps features of a frozen backbone: of training images that stay as they are, or where it did so before."""
    from ..lab.training.features import FEATURES

    began, keeps = (run / "recipe.json").exists(), recipe.model.freeze != "nothing" and recipe.data.augment == "none"
    return run / FEATURES if ((run / FEATURES).exists() if began else keeps) else None


def finish(run: Path) -> None:
    """The page of a finished run, and what comes next."""
    from ..lab.finetuning import write_page
    from ..lab.training import Recipe, read_json

    page = write_page(run)
    metrics, recipe = read_json(run / "metrics.json"), read_json(run / "recipe.json")
    what = "test" if metrics["split"] == "test" else "validation (there is no test split)"
    print(f"{what}: accuracy {metrics['accuracy']:.1%}, loss {metrics['loss']:.3f}")
    if metrics["notes"] and recipe["patience"] is not None:
        print(f"note: {metrics['notes'][-1]}")
    print(page)
    print(next_lines(with_run(Recipe.from_dict(recipe).task, run)))
    if recipe["model"]["attention"] is None:
        print("  the same with another attention: add --attention denoising --where last_stage")
    else:
        print("  the same network as it is, to hold against: leave --attention and what belongs to it out")


def _start(text: str | None) -> float | Literal["exact"] | None:
    if text is None or text == "exact":
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--warm-start takes a number or exact, got {text!r}") from None
