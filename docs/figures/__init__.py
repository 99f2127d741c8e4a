"""The figures of the documentation, drawn from what the library computes: ``python -m figures FOLDER [NAME …]`` in ``docs``, or all of them with the site."""

import importlib
import pkgutil
from collections.abc import Collection
from pathlib import Path

import matplotlib as mpl
import torch

from ._style import FIGURES, STYLE

__all__ = ["FIGURES", "draw_all"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")


def draw_all(folder: Path, names: Collection[str] = ()) -> None:
    """Write ``NAME.png`` for every figure, or for those named."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    for name, draw in FIGURES.items():
        if names and name not in names:
            continue
        # each figure is the same whichever others are drawn
        torch.manual_seed(0)
        with mpl.rc_context(STYLE), torch.no_grad():
            figure = draw()
            figure.savefig(folder / f"{name}.png", dpi=160, bbox_inches="tight", pad_inches=0.12)
            mpl.pyplot.close(figure)
