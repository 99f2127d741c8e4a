"""What denoising attention costs over each core."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from foveal import DenoisingAttention, SoftmaxAttention

from ._style import AMBER, BLUE, GREEN, MUTED, RED, figure

SIDES = (8, 14, 20, 32, 45, 64, 90, 128)
COLORS = {"softmax": RED, "halo": BLUE, "efficient": GREEN, "linear": AMBER}


@figure
def cores() -> Figure:
    """Multiply-adds relative to softmax attention, by number of tokens."""
    tokens = [1 + side**2 for side in SIDES]
    drawing, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    plain = SoftmaxAttention(768, 12)
    axes.axhline(1, color=MUTED, linestyle="--", label="softmax attention")
    for core, color in COLORS.items():
        layer = DenoisingAttention(768, 12, core=core)
        # two cores cost nearly the same, and one would hide the other
        style = {"linewidth": 5, "alpha": 0.4} if core == "linear" else {"marker": "o", "markersize": 4}
        axes.semilogx(tokens, [layer.cost(n).macs / plain.cost(n).macs for n in tokens], color=color, label=f"denoising, {core} core", **style)
    axes.set(xlabel="tokens", ylabel="multiply-adds, softmax attention = 1", ylim=(0, 2.1))
    axes.set_xticks(tokens, [f"{n:,}" for n in tokens])
    axes.minorticks_off()
    axes.grid(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawing
