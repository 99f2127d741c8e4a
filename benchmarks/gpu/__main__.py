"""One command, at most eight minutes: what the accelerator computes is first shown to be right, then timed; JSON and a page of the docs are written.

python -m benchmarks.gpu [--device cuda] [--smoke] [--minutes 8] [--out FOLDER]
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from ._lane import Lane, OutOfTime
from ._page import about, page
from ._parts import PARTS

PAGE = Path(__file__).parents[2] / "docs"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --smoke")
    parser.add_argument("--smoke", action="store_true", help="small sizes, in seconds: shows that the command runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="at most; what is left undone is said")
    parser.add_argument("--out", type=Path, default=None, help="folder for gpu.json and gpu.md; docs if not given, and none in a smoke run")
    chosen = parser.parse_args(words)
    if not 0 < chosen.minutes <= 60:
        parser.error(f"--minutes must be above 0 and at most 60, got {chosen.minutes}")
    try:
        device = torch.device(chosen.device)
    except RuntimeError:
        parser.error(f"--device must be cuda or cpu, got {chosen.device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; a rehearsal without one is --device cpu --smoke")
    if device.type == "cpu" and not chosen.smoke:
        parser.error("on a processor this is a rehearsal alone: add --smoke; python -m benchmarks measures processors")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    began = time.monotonic()
    lane = Lane(device, chosen.smoke, began + 60 * chosen.minutes)
    for name, part in PARTS.items():
        try:
            part(lane)
        except OutOfTime:
            lane.cut[name] = f"{chosen.minutes:g} minutes were over"
        except torch.OutOfMemoryError as error:
            lane.cut[name] = f"the device has not enough memory: {str(error).splitlines()[0]}"
            torch.cuda.empty_cache()
    found = {**about(device), "minutes": round((time.monotonic() - began) / 60, 2), "smoke": chosen.smoke, "ceilings": lane.ceilings}
    found |= {"wrong": lane.wrong, "cut": lane.cut, "parts": lane.parts}
    folder = chosen.out or (None if chosen.smoke else PAGE)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
        (folder / "gpu.md").write_text(page(found), encoding="utf8")
        print(folder / "gpu.md")
    for said in lane.wrong:
        print(f"WRONG: {said}", file=sys.stderr)
    for name, why in lane.cut.items():
        print(f"{name} is not whole: {why}", file=sys.stderr)
    return 1 if lane.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
