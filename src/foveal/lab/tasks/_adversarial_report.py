"""Pictures of a finished adversarial run that the other tasks that draw have not: two losses that pull against each other, and what the networks come to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._files import parse_json
from ._figures import DRAWN, GRAY, INK, REAL, new_figure, put

__all__ = ["draw_losses"]

_NETWORKS = {"G": ("generator", REAL), "D": ("discriminator", DRAWN)}
_MARKERS = "osd^"
_LOSSES_TITLE = "Losses; 2 tells nothing apart"

Lines = Sequence[Mapping[str, Any]]


def draw_losses(folder: Path) -> list[Path]:
    """``curves.png`` out of the history that lies beside ``folder``; none where there is none, or a single evaluation. Histories of before σ and singular
    values were kept have the panels of losses and scores alone, networks without attention none of σ.
    """
    path = folder.parent / "history.jsonl"
    lines = [parse_json(line, str(path)) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []
    if len(lines) < 2:
        return []
    # a run that went on may have them from some step on
    keys = sorted({key for line in lines for key in line})
    gates, norms = [key for key in keys if key.startswith(("sigma_", "lambda_"))], [key for key in keys if key.startswith("norm_")]
    panels = [(_LOSSES_TITLE, _losses, keys), ("Mean scores", _scores, keys)]
    panels += [("What attention is multiplied by", _gates, gates)] if gates else []
    panels += [("Largest singular values", _norms, norms)] if norms else []
    columns = 3 if len(panels) == 3 else 2
    figure = new_figure((4.5 * columns, 3.4 * (len(panels) // columns)))
    for place, (title, draw, names) in zip(figure.subplots(len(panels) // columns, columns).flat, panels, strict=True):
        draw(place, lines, names)
        place.set_title(title, fontsize=10, color=INK, loc="left")
        place.set_xlabel("step", fontsize=9)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
        place.legend(fontsize=8, frameon=False)
    return [put(figure, folder / "curves.png")]


def _losses(axes: Any, lines: Lines, keys: Sequence[str]) -> None:
    for key, color, label in (
        ("train_d_loss", DRAWN, "discriminator"),
        ("train_g_loss", REAL, "generator"),
        ("val_hinge", GRAY, "discriminator, validation"),
    ):
        _line(axes, lines, key, color=color, marker=".", linewidth=1, label=label)
    axes.axhline(2, color=GRAY, linestyle=":", linewidth=1)


def _scores(axes: Any, lines: Lines, keys: Sequence[str]) -> None:
    for key, color, label in (
        ("train_d_real", REAL, "real"),
        ("train_d_fake", DRAWN, "drawn"),
        ("val_d_real", GRAY, "real, validation"),
    ):
        _line(axes, lines, key, color=color, marker=".", linewidth=1, label=label)


def _gates(axes: Any, lines: Lines, keys: Sequence[str]) -> None:
    for word, sign, style in (("sigma", "σ", "-"), ("lambda", "λ", "--")):
        for network, (name, color) in _NETWORKS.items():
            for number, key in enumerate(key for key in keys if key.startswith(f"{word}_{network}.")):
                label = f"{sign}, {name}, block {key.rsplit('.', 1)[1]}"
                _line(axes, lines, key, color=color, linestyle=style, marker=_MARKERS[number % len(_MARKERS)], markersize=4, linewidth=1, label=label)
    axes.axhline(0, color=GRAY, linestyle=":", linewidth=1)


def _norms(axes: Any, lines: Lines, keys: Sequence[str]) -> None:
    """A line for each weight, by network."""
    for network, (name, color) in _NETWORKS.items():
        for number, key in enumerate(key for key in keys if key.startswith(f"norm_{network}.")):
            _line(axes, lines, key, color=color, linewidth=1, alpha=0.6, label=None if number else f"of each weight of the {name}")


def _line(axes: Any, lines: Lines, key: str, **options: Any) -> None:
    there = [line for line in lines if key in line]
    axes.plot([line["step"] for line in there], [line[key] for line in there], **options)
