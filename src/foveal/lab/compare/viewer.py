"""The deciding comparison to be asked: two runs of one seed beside each other, on one test image, patch by patch."""

from pathlib import Path
from typing import Any

from ...analysis.viewer import view_model, write_page
from ..training import load_run
from .look import shown_sample

__all__ = ["write_viewer"]


def write_viewer(results: dict[str, Any], folder: Path) -> Path | None:
    """Write ``attention.html``; None where the results have no maps, nothing is compared, or the first seed of an arm diverged.

    Args:
        results: of the comparison.
        folder: where its runs lie.

    Raises:
        ValueError: the maps of a run cannot be shown, as of too many tokens.
    """
    if not results["images"] or not results["comparisons"]:
        return None
    deciding, seed = results["comparisons"][0], results["plan"]["seeds"][0]
    names = [deciding["against"], deciding["arm"]]
    runs = [folder / name / f"seed-{seed}" for name in names]
    if not all((run / "metrics.json").exists() for run in runs) or not all(arm["pictures"] for arm in results["arms"] if arm["name"] in names):
        return None
    viewed, images = [], []
    for name, run in zip(names, runs, strict=True):
        _, bundle, model = load_run(run)
        image, label = shown_sample(bundle)
        viewed.append(view_model(model, image[None], name=name, labels=list(bundle.classes), truth=label))
        images.append(image)
    return write_page(viewed, images, title=f"{names[1]} beside {names[0]}").save(folder / "attention.html")
