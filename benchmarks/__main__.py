"""``python -m benchmarks [--write] [NAME …]``: run all or those named, print the table, and with ``--write`` put it into docs/benchmarks.md.

Sections of benchmarks that were not named stay as they are on the page.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from . import (
    bfloat16,
    captions,
    ceiling,
    compiled,
    convert,
    denoising,
    dense,
    detection,
    eamlp,
    external,
    frozen,
    halo,
    halonet,
    loader,
    maps,
    models,
    points,
    probes,
    projection,
    reading,
    streaming,
    summary,
    vit,
)
from ._harness import run
from ._page import HEAD, PAGE, page, section

_MODULES = (denoising, bfloat16, ceiling, compiled, vit, models, convert, maps, external, eamlp, summary, halo, halonet)
_MODULES += (dense, detection, loader, reading, streaming, projection, frozen, points, probes, captions)
BENCHMARKS = [module.__name__.rpartition(".")[2] for module in _MODULES]


def main(arguments: list[str]) -> int:
    names = [name for name in arguments if name != "--write"] or BENCHMARKS
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    refused = []
    for name in names:
        # each in a process of its own: what one leaves behind in the allocator changes the times of the next
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(run, name)
        try:
            rows = result.result()
        except SystemExit as error:
            # the others need not wait for it
            print(f"{name}: {error}", file=sys.stderr)
            refused.append(name)
            continue
        if "--write" in arguments:
            # after each, so that a long run that is cut off has not been for nothing
            PAGE.write_text(page(HEAD, {name: section(name, rows)}, PAGE.read_text("utf8") if PAGE.exists() else "", BENCHMARKS), "utf8")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
