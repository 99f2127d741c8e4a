"""The last part of a run: the trained network is judged on the test split and the probes, and published."""

from typing import Any

from .checkpoint import write_weights
from .judging import Diverged, evaluate, not_finite, scalars
from .opening import Run
from .reading import write_json

__all__ = ["finish_run"]


def finish_run(run: Run) -> dict[str, Any]:
    """Write model.safetensors and metrics.json; the metrics.

    Raises:
        ValueError: weights or answers that are no numbers; then nothing is published.
    """
    recipe, bundle, accelerator = run.recipe, run.bundle, run.accelerator
    spoilt = not_finite(run.judged)
    if spoilt:
        raise Diverged(f"{spoilt[0]} of the weights is not finite at step {recipe.steps}, so they are not published; train anew with a lower --optim.lr")
    metrics = evaluate(run.judged, bundle.test, recipe, bundle, accelerator)
    for name, probe in bundle.probes.items():
        metrics |= {f"{name}_{key}": value for key, value in scalars(evaluate(run.judged, probe, recipe, bundle, accelerator)).items()}
    parameters = sum(p.numel() for p in run.model.parameters())
    result = {"split": "test", "step": recipe.steps, "parameters": parameters, "notes": bundle.notes, **metrics}
    if accelerator.is_main_process:
        write_weights(run.folder / "model.safetensors", run.judged.state_dict())
        write_json(run.folder / "metrics.json", result)
    accelerator.end_training()
    return result
