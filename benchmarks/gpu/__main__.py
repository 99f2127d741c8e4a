"""One command, at most eight minutes: what the accelerator computes is first shown to be right, then timed; JSON and a page of the docs are written.

python -m benchmarks.gpu [--device cuda] [--smoke] [--minutes 8] [--out FOLDER]
"""

import argparse
import json
import sys
import time
import traceback
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
    if device.type not in ("cuda", "cpu"):
        parser.error(f"--device must be cuda or cpu, got {chosen.device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; a rehearsal without one is --device cpu --smoke")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        parser.error(f"--device {chosen.device} is not there; CUDA devices are numbered from 0 to {torch.cuda.device_count() - 1}")
    if device.type == "cpu" and not chosen.smoke:
        parser.error("on a processor this is a rehearsal alone: add --smoke; python -m benchmarks measures processors")
    folder = chosen.out or (None if chosen.smoke else PAGE)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out must be a folder that can be made, got {folder}: {error.strerror}")
    if device.type == "cuda":
        # clocks wait for the current device alone
        torch.cuda.set_device(device)
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
        except Exception as error:  # a defect is what is looked for: it is shown, counts as wrong, and what other parts find is not lost
            traceback.print_exc()
            said = str(error).splitlines()[:1]
            lane.wrong.append(f"{name} broke off: {': '.join([type(error).__name__, *said])}")
            lane.cut[name] = "it broke off"
        if folder is not None:
            # after each part: whoever ends the command early has what was found
            found = {**about(device), "minutes": round((time.monotonic() - began) / 60, 2), "smoke": chosen.smoke, "ceilings": lane.ceilings}
            found |= {"wrong": lane.wrong, "cut": lane.cut | _to_come(name), "parts": lane.parts}
            (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
            (folder / "gpu.md").write_text(page(found), encoding="utf8")
    if folder is not None:
        print(folder / "gpu.md")
    for said in lane.wrong:
        print(f"WRONG: {said}", file=sys.stderr)
    for name, why in lane.cut.items():
        print(f"{name} is not whole: {why}", file=sys.stderr)
    return 1 if lane.wrong else 0


def _to_come(name: str) -> dict[str, str]:
    """Of the parts behind one, that they were not begun."""
    names = list(PARTS)
    return dict.fromkeys(names[names.index(name) + 1 :], "the command was ended before it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
