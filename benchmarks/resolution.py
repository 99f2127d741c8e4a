"""``python -m benchmarks.resolution [SIDE …]``: what mixing pixels costs as maps grow; prints a Markdown table, writes runs/resolution/cost.svg."""

import sys
from datetime import date
from pathlib import Path

import torch

from foveal._machine import processor
from foveal.lab.compare import ResolutionPoint, cost_against_resolution, resolution_figure

CHANNELS = 64


def line(points: list[ResolutionPoint]) -> str:
    cells = [point.stopped or f"{_seconds(point.seconds or 0)}, {(point.bytes or 0) / 1e6:.0f} MB" for point in points]
    return f"| {points[0].name} | {' | '.join(cells)} |"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.2g} ms"


def main(arguments: list[str]) -> None:
    sides = [int(word) for word in arguments] or [64, 128, 256, 512, 1024]
    points = cost_against_resolution(sides=sides, channels=CHANNELS, each=lambda point: print(point, file=sys.stderr, flush=True))
    print(f"{date.today()}: {processor()}, 1 thread, torch {torch.__version__}, {CHANNELS} channels, batch 1, forward, float32.\n")
    print("| block | " + " | ".join(f"{side}²" for side in sides) + " |")
    print("|---|" + "---|" * len(sides))
    for name in dict.fromkeys(point.name for point in points):
        print(line([point for point in points if point.name == name]))
    folder = Path("runs/resolution")
    folder.mkdir(parents=True, exist_ok=True)
    resolution_figure(points).savefig(folder / "cost.svg")
    print(f"\n{folder / 'cost.svg'}")


if __name__ == "__main__":
    main(sys.argv[1:])
