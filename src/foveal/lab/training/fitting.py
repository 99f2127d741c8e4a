"""A run in three parts: it is opened, trained and finished, and what one part hands on to the next is a :class:`~foveal.lab.training.opening.Run`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .finishing import finish_run
from .loop import train
from .opening import check_folder_is_new, check_recipe, make_accelerator, open_run
from .place import alone, refusals, sweep
from .recipe import Recipe

__all__ = ["fit"]


def fit(recipe: Recipe, run: Path, *, resume: bool = False, quiet: bool = False, features: Path | None = None) -> dict[str, Any]:
    """Train, and leave in ``run``: recipe.json, classes.json, history.jsonl, checkpoints, model.safetensors, metrics.json and what the trackers write.

    Where ``optim.ema`` keeps an average, that is what model.safetensors holds, and unaveraged.safetensors the weights themselves.

    Args:
        recipe: what to do.
        run: a folder; new, unless ``resume``.
        resume: go on from the newest checkpoint. From none, start.
        quiet: no progress bar.
        features: a folder in which features of a frozen backbone are kept, so that it runs once an image, where nothing in its way varies from step to step;
            it runs at every step if None. Runs of the same network and images may share one.

    Returns:
        The metrics of the test split, as in metrics.json.

    Raises:
        ValueError: the folder is a file, or holds a run already, or one with another recipe; another process trains it; its checkpoints are damaged; the data
            cannot be used; the weights are no numbers any more; the operating system refuses (a full disk), or another process is gone.
        Interrupted: on Ctrl-C or SIGTERM, after saving.
    """
    check_recipe(recipe, run, resume)
    with refusals(run):
        accelerator = make_accelerator(recipe, run)
        with alone(run) if accelerator.is_main_process else nullcontext():
            if accelerator.is_main_process:
                # again, as another process may have begun and ended meanwhile
                check_folder_is_new(run, resume)
                sweep(run)
            opened = open_run(recipe, run, accelerator, features)
            train(opened, quiet=quiet)
            return finish_run(opened)
