"""``python -m tests.proofs [--write] [NAME[/ARM] …]``: train all or those named, print the tables, and with ``--write`` put them into docs/proofs.md.

Sections of proofs that were not named stay as they are on the page. ``NAME/ARM`` trains the arms alone whose names begin so, as in
``solid_pairs/denoising``; the other rows of the table stay, with the line that says what they were made by.
"""

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from time import process_time

import torch
from benchmarks._page import page as sections

from foveal._machine import processor

from . import (
    caam,
    catt,
    color_judge,
    color_match,
    color_paint,
    flag_detection,
    flag_swap,
    global_cue,
    halo_reach,
    presence_xor,
    recall,
    signed_readout,
    solid_pairs,
)
from .proof import SEEDS, Arm, Proof, Row, line, rows_of

_MODULES = (
    *(halo_reach, global_cue, recall, signed_readout, presence_xor, flag_swap, flag_detection, solid_pairs),
    *(color_judge, color_paint, color_match, caam, catt),
)
PROOFS = {module.__name__.rpartition(".")[2]: module.PROOF for module in _MODULES}
ARMS: dict[str, Sequence[Arm]] = {
    module.__name__.rpartition(".")[2]: [arm for arm in getattr(module, "ARMS", ()) if isinstance(arm, Arm)] for module in _MODULES
}
"""Empty where a proof has arms of its own kind, which are trained together."""
PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
HEAD = f"""# Proofs

Small tasks that show what a mechanism can do and what it cannot, trained from scratch on one core. Made by `python -m tests.proofs --write`;
each section says when and where. Every figure is over seeds {", ".join(map(str, SEEDS))} and on fresh data.
`make slow` holds every seed to the gate given here.

*Limit* is the best that theory allows for what is trained, where we know it. *Pilot* is a figure from before this library, of one seed and of other
code that we no longer have; why it differs is therefore inferred from runs of ours. **Negative** marks what does not work, and stays.
"""


def main(arguments: list[str]) -> int:
    words = [word for word in arguments if word != "--write"] or list(PROOFS)
    unknown = [word for word in words if word.partition("/")[0] not in PROOFS]
    if unknown:
        print(f"unknown proof {', '.join(unknown)}; known: {', '.join(PROOFS)}", file=sys.stderr)
        return 2
    for word in words:
        if not chosen(word):
            names = [arm.mechanism for arm in ARMS[word.partition("/")[0]]]
            print(f"no arm of {word}; known: {'; '.join(names) or 'none, the proof is made whole'}", file=sys.stderr)
            return 2
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    met = True
    for word in words:
        name, _, part = word.partition("/")
        proof, start, rows = PROOFS[name], process_time(), []
        print(proof.title, flush=True)
        for row in (rows_of(chosen(word)) if part else proof.rows)(SEEDS):
            rows.append(row)
            met = met and row.met
            print(line(row), flush=True)
            if "--write" in arguments:
                # after each, so that a long run that is cut off has not been for nothing
                write(word, rows, process_time() - start)
    return 0 if met else 1


def chosen(word: str) -> list[Arm | None]:
    """Arms that ``NAME/ARM`` names; of ``NAME`` one that stands for all."""
    name, _, part = word.partition("/")
    return [arm for arm in ARMS[name] if arm.mechanism.startswith(part)] if part else [None]


def write(word: str, rows: list[Row], seconds: float) -> None:
    name, _, part = word.partition("/")
    old = PAGE.read_text("utf8") if PAGE.exists() else ""
    kept = next((text for text in old.split("\n## ") if text.partition("\n")[0] == PROOFS[name].title), "") if part else ""
    PAGE.write_text(page({name: section(name, PROOFS[name], rows, seconds, word, kept)}, old), "utf8")


def section(name: str, proof: Proof, rows: list[Row], seconds: float, word: str, old: str = "") -> str:
    """The proof as a section; rows of ``old`` that were not made anew are kept, with the lines that say what they were made by."""
    command = f"python -m tests.proofs --write {word}" if " " not in word else f'python -m tests.proofs --write "{word}"'
    made = f"`{command}`, {date.today()}: {processor()}, 1 thread, torch {torch.__version__}, {seconds / 60:.1f} processor minutes."
    table = {row.mechanism: line(row) for row in rows}
    if old:
        kept = {text.split(" | ")[0].removeprefix("| "): text for text in old.splitlines() if text.startswith("| ")}
        table = {arm.mechanism: found for arm in ARMS[name] if (found := table.get(arm.mechanism, kept.get(arm.mechanism)))}
    if len(table) < len(ARMS[name]):
        made = f"{made[:-1]}; {len(table)} of {len(ARMS[name])} mechanisms."
    parts = [
        f"## {proof.title}",
        proof.about,
        f"Figure: {proof.figure}.",
        "\n".join(["| mechanism | mean | lowest – highest | limit | pilot | gate | reading |", "|---|---|---|---|---|---|---|", *table.values()]),
        *([proof.notes] if proof.notes else []),
        *(text.strip() for text in old.split("\n\n") if text.startswith("`python -m tests.proofs") and not text.startswith(f"`{command}`")),
        made,
    ]
    return "\n\n".join(parts) + "\n"


def page(done: dict[str, str], old: str) -> str:
    """The page with the sections of these proofs new."""
    return sections(HEAD, {PROOFS[name].title: text for name, text in done.items()}, old, [proof.title for proof in PROOFS.values()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
