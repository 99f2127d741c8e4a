"""Sixty photographs in three folders, as a user has them: ``python -m tests.proofs.photographs DIR``.

Twenty birds, twenty mammals and twenty fruits of Tux Paint's stamps (``foveal.lab.data.fetch("tuxpaint-stamps")``), the first of each by name, on white.
"""

import sys
from pathlib import Path

from foveal.lab.data.cutouts import CLASSES, list_cutouts

KINDS, EACH, SIDE = ("bird", "mammal", "fruit"), 20, 400


def write(folder: Path) -> int:
    """Write them as ``folder/KIND/NAME.jpg``, at most 400 pixels a side; how many."""
    from PIL import Image

    files, labels = list_cutouts()
    written = 0
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        of_kind = [file for file, label in zip(files, labels, strict=True) if label == list(CLASSES).index(kind)]
        for number, file in enumerate(of_kind[:EACH]):
            cutout = Image.open(file).convert("RGBA")
            white = Image.new("RGBA", cutout.size, "white")
            white.alpha_composite(cutout)
            white.thumbnail((SIDE, SIDE))
            white.convert("RGB").save(folder / kind / f"{number:02d}-{file.stem}.jpg", quality=92)
            written += 1
    return written


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1]))} photographs in {sys.argv[1]}")
