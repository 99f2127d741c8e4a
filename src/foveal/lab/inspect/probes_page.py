"""A run whose language model is told about videos by visual probes: whether these became one vector, and whether gradients reach their first modules."""

import csv
import io
from pathlib import Path
from typing import Any

import torch

from ..._errors import InputError
from ..._files import replace_file
from ...analysis.pictures import write_sheet
from ...models import VisualProbes
from ...models.probes import ProbeCollapse, probe_collapse_in
from .loaded import Inspection, LoadedModel
from .video import numbered

__all__ = ["inspect_probes", "takes_probes"]


def takes_probes(loaded: LoadedModel) -> bool:
    """Whether it is a run of a network that can have visual probes, whether this one has any or none."""
    return loaded.recipe is not None and (hasattr(loaded.recipe.model, "num_probes") or _has_probes(loaded))


@torch.no_grad()
def inspect_probes(loaded: LoadedModel, word: str, folder: Path, *, title: str) -> Inspection:
    """Say it, a line a module, and write it: ``probes.csv``; where the task draws its samples ``probes.png`` and ``probes.html``, the clip and the answer.

    Args:
        loaded: a run or checkpoint.
        word: ``test:NUMBER``, a sample of the run's test.
        folder: where the files go; it is made.
        title: of the page.

    Raises:
        ValueError: no run, or one without probes; no such sample.
    """
    if loaded.recipe is None:
        raise InputError(f"{loaded.name} is no run; of any other model ask foveal.models.probes.probe_collapse_in")
    if not _has_probes(loaded):
        raise InputError(f"{loaded.name} has no visual probes: its model.num_probes is 0; inspect a run that was trained with --model.num-probes 4, or more")
    if not word.startswith("test:"):
        raise InputError(f"{word} does not say what is asked about it, and {loaded.name} answers questions; give test:NUMBER, a sample of the run's test")
    task, bundle, model = loaded.recipe.task, loaded.bundle, loaded.model.eval()
    sample = numbered(bundle.test, word)
    inputs, _ = task.collate([sample])
    said = list[Any]()
    found = probe_collapse_in(model, lambda: said.append(task.predict(model, inputs)))
    files = [_written(found, folder / "probes.csv")]
    rows = [*task.draw_truth([sample], bundle), *task.draw([sample], said[0], bundle)]
    lines = str(found).splitlines()
    if rows:
        drawn = [(row.title, [(cell.picture, cell.caption) for cell in row.cells]) for row in rows]
        files += write_sheet(drawn, folder, name="probes", title=title, about=f"{lines[0]}: {_in_a_line(found)}")
    captions = [f"{row.title}: {cell.caption}" for row in rows for cell in row.cells]
    return Inspection([*captions, *lines], files)


def _has_probes(loaded: LoadedModel) -> bool:
    return any(isinstance(one, VisualProbes) for one in loaded.model.modules())


def _in_a_line(found: ProbeCollapse) -> str:
    first, last = found.layers[0], found.layers[-1]
    alike = "" if last.similarity is None else f"cosine of two probes {last.similarity:.6f} at the end, "
    return f"{alike}gradient norm of W_O {first.gradient:.1e} in the first module and {last.gradient:.1e} in the last; the table is in probes.csv"


def _written(found: ProbeCollapse, path: Path) -> Path:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["layer", "similarity", "gradient"])
    for one in (found.start, *found.layers):
        out.writerow(["P_0" if one.layer is None else one.layer, "" if one.similarity is None else one.similarity, one.gradient])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode())
    return path
