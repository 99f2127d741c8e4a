"""How the images that every arm draws are judged, beside real images in the same place: the floor that a difference is read against."""

from collections.abc import Iterator
from typing import Any

from ..tasks._generation_quality import SHOWN

__all__ = ["quality_lines", "quality_table"]

_REAL = "real images"
_ABOUT = (
    f"“{_REAL}” are training images in the place of the drawn ones, held against as many of the test: what lies within their range is as good as real "
    "by this measure. Brackets are the range of the seeds. These numbers decide nothing above, and no interval was made of them."
)


def quality_table(results: dict[str, Any]) -> dict[str, Any] | None:
    """``head``, ``rows`` with the arm's name and a cell for each number, the last of real images, and ``about``; None where no drawn images were judged."""
    metrics = {arm["name"]: arm["metrics"] for arm in results["arms"]}
    # of all arms, so that columns stand beside one another
    shown = {name: words for name, words in SHOWN.items() if all(name in one and f"{name}{words[1]}" in one for one in metrics.values())}
    if not shown:
        return None
    rows = [(arm, [_cell(one[name]["by_seed"]) for name in shown]) for arm, one in metrics.items()]
    real = [_cell([value for one in metrics.values() for value in one[f"{name}{words[1]}"]["by_seed"]]) for name, words in shown.items()]
    return {"head": [f"{words[0]}: {words[2]}" for words in shown.values()], "rows": [*rows, (_REAL, real)], "about": _ABOUT}


def quality_lines(results: dict[str, Any]) -> Iterator[str]:
    """The table as Markdown."""
    table = quality_table(results)
    if table is None:
        return
    yield from ("| attention | " + " | ".join(table["head"]) + " |", "|---" * (len(table["head"]) + 1) + "|")
    for name, cells in table["rows"]:
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield from ("", table["about"], "")


def _cell(values: list[float]) -> str:
    mean, low, high = (f"{value:.3g}".replace("-", "−") for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"
