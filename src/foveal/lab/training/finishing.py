"""The last part of a run: the trained network is judged on the test split and the probes, and published."""

from typing import Any

from ..._errors import MissingExtra, require
from ..tasks import Task
from .checkpoint import write_weights
from .judging import Diverged, evaluate, not_finite, scalars
from .models import UNAVERAGED, keeps_unaveraged
from .opening import Run
from .reading import write_json
from .samples import SampleScores

__all__ = ["finish_run"]


def finish_run(run: Run) -> dict[str, Any]:
    """Write model.safetensors, metrics.json and, where there are any, samples.safetensors, unaveraged.safetensors and pictures in ``report``; the metrics.

    Raises:
        ValueError: weights or answers that are no numbers; then nothing is published.
    """
    recipe, bundle, accelerator = run.recipe, run.bundle, run.accelerator
    accelerator.wait_for_everyone()
    run.settle_()
    run.gather_()
    run.early.take_best_(run.judged)
    spoilt = not_finite(run.judged)
    if spoilt:
        raise Diverged(f"{spoilt[0]} of the weights is not finite at step {recipe.steps}, so they are not published; train anew with a lower --optim.lr")
    samples = SampleScores()
    metrics = evaluate(run.judged, bundle.test, recipe, bundle, accelerator, samples=samples)
    for name, probe in bundle.probes.items():
        metrics |= {f"{name}_{key}": value for key, value in scalars(evaluate(run.judged, probe, recipe, bundle, accelerator)).items()}
    parameters = sum(p.numel() for p in run.model.parameters())
    # where a set has no test of its own, its last number is one of validation, which is no test
    split = "val" if bundle.test is bundle.val else "test"
    undrawn = _without_pictures(recipe.task)
    result = {
        "split": split,
        "step": run.last,
        "parameters": parameters,
        "notes": [*bundle.notes, *run.early.notes(run.last), *recipe.task.remarks(run.history), *undrawn],
        **metrics,
    }
    if accelerator.is_main_process:
        samples.write(run.folder)
        if keeps_unaveraged(recipe):
            # before model.safetensors, which says that a run has finished
            write_weights(run.folder / UNAVERAGED, run.model.state_dict())
        write_weights(run.folder / "model.safetensors", run.judged.state_dict())
        # what was measured so far is not lost where drawn images cannot be judged
        write_json(run.folder / "metrics.json", result)
        assessed = recipe.task.assess(run.judged.eval(), bundle, run.folder)
        result["notes"] += assessed.pop("notes", [])
        metrics |= assessed
        result |= assessed
        write_json(run.folder / "metrics.json", result)
        if not undrawn:
            recipe.task.write_report(run.judged.eval(), bundle, metrics, run.folder / "report")
    accelerator.end_training()
    return result


def _without_pictures(task: Task) -> list[str]:
    try:
        require("the pictures of a run", task.report_needs)
    except MissingExtra as error:
        return [f"no pictures were drawn: {error}"]
    return []
