"""What a sign buys: the error of a contrast by its rank, as predicted and as measured."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ._readout import WIDTH, left_by_sharp_heads, proof_points, study_points
from ._style import AMBER, BLUE, GREEN, MUTED, RED, SKY, figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "study-denoising.json"
SHOWN = {"softmax": RED, "softmax-wide": AMBER, "softmax-2H": SKY, "softmax-centered": GREEN, "denoising-shared": BLUE}
ASIDE = {"softmax-centered": -1, "denoising-shared": 1}
"""On which side a point is drawn, so that those of the same error do not hide each other."""


@figure
def when() -> Figure:
    """Lines: what sharp heads leave at inner widths of C, 1.5 C and, for attention with a sign, C. Points: the proof, and a finished study if there is one."""
    page = (ROOT / "docs" / "proofs.md").read_text("utf8")
    studied = study_points(RESULTS)
    drawing, axes = plt.subplots(figsize=(8.4, 3.9), layout="constrained")
    ranks = np.linspace(1, WIDTH, 400)
    lines = (("softmax", 1.0, "softmax, inner width C"), ("softmax-wide", 1.5, "softmax-wide, 1.5 C"), ("softmax-2H", 2.0, "softmax-2H, 2 C"))
    for arm, share, label in lines:
        axes.plot(ranks, [left_by_sharp_heads(share * WIDTH, rank) for rank in ranks], color=SHOWN[arm], label=f"{label}: predicted")
    axes.plot(ranks, np.zeros_like(ranks), color=BLUE, linestyle="--", label="a sign, C: predicted")
    for share, words in ((0.5, "C/2"), (0.75, "3C/4")):
        axes.axvline(share * WIDTH, color=MUTED, linestyle=":", linewidth=1)
        axes.text(share * WIDTH, 1.0, words, transform=axes.get_xaxis_transform(), fontsize=9, ha="center", va="bottom", color=MUTED)
    for what, face in (("contrast", None), ("contrast, asked by content", "white")):
        for arm, by_rank in proof_points(page, what).items():
            label = f"{arm}: proof" if face is None else f"{arm}: proof, who asks has content"
            _points(axes, by_rank, arm, label, 0.35 if face is None else 1.1, marker="o", markersize=7, markerfacecolor=face or SHOWN[arm])
    for arm, by_rank in studied.items():
        if arm in SHOWN:
            _points(axes, by_rank, arm, f"{arm}: study", 0.0, marker="x", markersize=6)
    axes.set(xlabel=f"rank r of the contrast, width C = {WIDTH}", ylabel="error, relative to predicting 0", xlim=(0, WIDTH + 0.5), ylim=(-0.02, 0.55))
    axes.set_xticks([0, 8, 12, 16, 20, 24, 28, 32])
    axes.grid(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    said = "crosses are the registered study, lowest to highest seed" if studied else "the registered study has no points here yet"
    axes.set_title(f"lines are predictions, points are measured; {said}", fontsize=9, pad=16, loc="left")
    return drawing


def _points(axes: plt.Axes, by_rank: dict[int, tuple[float, float, float]], arm: str, label: str, aside: float, **looks: object) -> None:
    places = [rank + aside * ASIDE.get(arm, 0) for rank in by_rank]
    middle, low, high = np.array(list(by_rank.values())).T
    axes.errorbar(places, middle, yerr=[middle - low, high - middle], color=SHOWN[arm], label=label, linestyle="none", capsize=3, zorder=3, **looks)
