"""``python -m tests.sweep [LIBRARY …] [--only GLOB] [--fresh] [--folder FOLDER] [--limit SECONDS] [--quick] [--write]``.

Every family runs in a process of its own, from one that has the libraries loaded, and leaves a file in the folder: a sweep that was stopped goes on, and
``--only`` with ``--fresh`` does a part again.
"""

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.sweep.libraries import LIBRARIES, all_rows
from tests.sweep.rows import Missing, Row
from tests.sweep.table import summary, write

FOLDER = Path(os.environ.get("FOVEAL_SWEEP", "/tmp/foveal-sweep"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description="What conversion and maps cover, family by family.")
    parser.add_argument("libraries", nargs="*", help=f"of {', '.join(LIBRARIES)}; all by default")
    parser.add_argument("--only", default="*", help="a glob on families")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the folder")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where results lie, {FOLDER} by default")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a family may take")
    parser.add_argument("--quick", action="store_true", help="softmax attention and the way back alone")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time")
    parser.add_argument("--write", action="store_true", help="write docs/hosts.md and docs/hosts.json")
    options = parser.parse_args(arguments)
    if unknown := [library for library in options.libraries if library not in LIBRARIES]:
        parser.error(f"no such library: {', '.join(unknown)}; there are {', '.join(LIBRARIES)}")
    torch.set_num_threads(1)
    rows = [row for row in all_rows(options.libraries or list(LIBRARIES)) if fnmatch.fnmatchcase(row.family, options.only)]
    if not rows:
        parser.error(f"no family is called {options.only}")
    todo = [row for row in rows if options.fresh or not _file(options.folder, row).exists()]
    running: list[tuple[Any, Row, float]] = []
    while todo or running:
        while todo and len(running) < max(1, options.jobs):
            row = todo.pop(0)
            _file(options.folder, row).unlink(missing_ok=True)
            process = multiprocessing.get_context("fork").Process(target=_one, args=(row, _file(options.folder, row), options.quick))
            process.start()
            running.append((process, row, time.monotonic()))
        for entry in list(running):
            process, row, start = entry
            process.join(0.05)
            late = time.monotonic() - start > options.limit
            if process.is_alive() and not late:
                continue
            if late:
                process.kill()
                process.join()
            running.remove(entry)
            if not _file(options.folder, row).exists():
                why = f"longer than {options.limit:.0f} s" if late else f"the process ended with {process.exitcode}"
                _keep(_file(options.folder, row), _named(row) | {"verdict": "crash", "message": why})
            result = json.loads(_file(options.folder, row).read_text())
            print(f"{row.library:12} {row.family:34} {result['verdict']:10} {result.get('message', '')[:150]}", flush=True)
    results = [json.loads(_file(options.folder, row).read_text()) for row in rows]
    print(summary(results))
    if options.write:
        write(results)
    return 0


def _file(folder: Path, row: Row) -> Path:
    return folder / row.library / f"{row.key}.json"


def _keep(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))


def _named(row: Row) -> dict[str, Any]:
    return {"library": row.library, "family": row.family, "shown": row.shown}


def _one(row: Row, path: Path, quick: bool) -> None:
    from tests.sweep.measure import measure

    torch.set_num_threads(1)
    # what a library prints is not ours to show
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    start = time.monotonic()
    try:
        model, inputs = row.build()
    except Missing as error:
        return _keep(path, _named(row) | {"verdict": "not installed", "message": str(error)})
    except Exception as error:
        return _keep(path, _named(row) | {"verdict": "not built", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    try:
        result = measure(model, inputs, quick)
    except Exception as error:
        result = {"verdict": "not measured", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return _keep(path, _named(row) | {"model": type(model).__name__} | result | {"seconds": round(time.monotonic() - start, 1)})


if __name__ == "__main__":
    sys.exit(main())
