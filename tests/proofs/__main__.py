"""``python -m tests.proofs [--write] [NAME …]``: train all or those named, print the tables, and with ``--write`` put them into docs/proofs.md.

Sections of proofs that were not named stay as they are on the page.
"""

import sys
from datetime import date
from pathlib import Path
from time import process_time

import torch
from benchmarks._page import page as sections

from foveal._machine import processor

from . import caam, catt, color_judge, color_match, flag_detection, flag_swap, global_cue, halo_reach, presence_xor, recall, signed_readout, solid_pairs
from .proof import SEEDS, Proof, Row, line

_MODULES = (
    *(halo_reach, global_cue, recall, signed_readout, presence_xor, flag_swap, flag_detection, solid_pairs),
    *(color_judge, color_match, caam, catt),
)
PROOFS = {module.__name__.rpartition(".")[2]: module.PROOF for module in _MODULES}
PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
HEAD = f"""# Proofs

Small tasks that show what a mechanism can do and what it cannot, trained from scratch on one core. Made by `python -m tests.proofs --write`;
each section says when and where. Every figure is over seeds {", ".join(map(str, SEEDS))} and on fresh data.
`make slow` holds every seed to the gate given here.

*Limit* is the best that theory allows for what is trained, where we know it. *Pilot* is a figure from before this library, of one seed and of other
code that we no longer have; why it differs is therefore inferred from runs of ours. **Negative** marks what does not work, and stays.
"""


def main(arguments: list[str]) -> int:
    names = [name for name in arguments if name != "--write"] or list(PROOFS)
    unknown = [name for name in names if name not in PROOFS]
    if unknown:
        print(f"unknown proof {', '.join(unknown)}; known: {', '.join(PROOFS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    done, met = {}, True
    for name in names:
        proof, start, rows = PROOFS[name], process_time(), []
        print(proof.title, flush=True)
        for row in proof.rows(SEEDS):
            rows.append(row)
            print(line(row), flush=True)
        done[name] = section(name, proof, rows, process_time() - start)
        met = met and all(row.met for row in rows)
        if "--write" in arguments:
            # after each, so that a long run that is cut off has not been for nothing
            PAGE.write_text(page(done, PAGE.read_text("utf8") if PAGE.exists() else ""), "utf8")
    return 0 if met else 1


def section(name: str, proof: Proof, rows: list[Row], seconds: float) -> str:
    made = f"`python -m tests.proofs --write {name}`, {date.today()}: {processor()}, 1 thread, torch {torch.__version__}, {seconds / 60:.1f} processor minutes."
    parts = [
        f"## {proof.title}",
        proof.about,
        f"Figure: {proof.figure}.",
        "\n".join(["| mechanism | mean | lowest – highest | limit | pilot | gate | reading |", "|---|---|---|---|---|---|---|", *map(line, rows)]),
        *([proof.notes] if proof.notes else []),
        made,
    ]
    return "\n\n".join(parts) + "\n"


def page(done: dict[str, str], old: str) -> str:
    """The page with the sections of these proofs new."""
    return sections(HEAD, {PROOFS[name].title: text for name, text in done.items()}, old, [proof.title for proof in PROOFS.values()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
