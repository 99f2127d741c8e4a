"""Pictures of a finished adversarial run that the other tasks that draw have not: two losses that pull against each other."""

from pathlib import Path

from ..._files import parse_json
from ._figures import DRAWN, GRAY, INK, REAL, new_figure, put

__all__ = ["draw_losses"]


def draw_losses(folder: Path) -> list[Path]:
    """``curves.png`` out of the history that lies beside ``folder``; none where there is none, or a single evaluation."""
    path = folder.parent / "history.jsonl"
    lines = [parse_json(line, str(path)) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    if len(lines) < 2:
        return []
    steps = [line["step"] for line in lines]
    figure = new_figure((9, 3.4))
    axes = figure.subplots(1, 2)
    for key, color, label in (
        ("train_d_loss", DRAWN, "discriminator"),
        ("train_g_loss", REAL, "generator"),
        ("val_hinge", GRAY, "discriminator, validation"),
    ):
        axes[0].plot(steps, [line[key] for line in lines], color=color, marker=".", linewidth=1, label=label)
    for key, color, label in (
        ("train_d_real", REAL, "real"),
        ("train_d_fake", DRAWN, "drawn"),
        ("val_d_real", GRAY, "real, validation"),
    ):
        axes[1].plot(steps, [line[key] for line in lines], color=color, marker=".", linewidth=1, label=label)
    axes[0].axhline(2, color=GRAY, linestyle=":", linewidth=1)
    for place, title in zip(axes, ("Losses; 2 tells nothing apart", "Mean scores"), strict=True):
        place.set_title(title, fontsize=10, color=INK, loc="left")
        place.set_xlabel("step", fontsize=9)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
        place.legend(fontsize=8, frameon=False)
    return [put(figure, folder / "curves.png")]
