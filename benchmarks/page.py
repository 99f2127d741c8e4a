"""``python -m benchmarks.page``: what attentions and models cost on this machine, by :mod:`foveal.bench`, onto docs/cost.md with its plots.

Minutes, on a machine that does nothing else; with ``--brief`` fewer, for a page whose times say little. Each part is measured in a process of its own.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from foveal.attention import list_attentions
from foveal.bench import Bench, Row, Settings, cost_plot, run_bench, table

from ._harness import THREADS

DOCS = Path(__file__).parents[1] / "docs"
TOKENS, MAPS = tuple(list_attentions(form="tokens")), tuple(list_attentions(form="2d"))
MODELS = (
    "vit_small_patch16_224",
    "fov_dna_vit_small_patch16_224",
    "fov_dna_shared_vit_small_patch16_224",
    "fov_eamlp_14",
    "fov_t2t_vit_14",
    "fov_halonet26t",
    "fov_resnet50_ea1",
    "fov_caam_resnet18",
)


@dataclass(frozen=True)
class Part:
    """A section of the page: what is measured, and what a reader should know of it."""

    name: str
    title: str
    about: str
    settings: Settings


PARTS = (
    Part(
        "tokens",
        "Attention on tokens, by their number",
        "One layer, 384 wide, with 6 heads where it has heads, projections included: float32, eager, one sample.",
        Settings(names=TOKENS, tokens=(64, 256, 1024, 4096)),
    ),
    Part(
        "maps",
        "Attention on feature maps, by their pixels",
        "One block on 128 channels, with the paper's own convolutions, norm and residual around it: float32, eager, one sample.",
        Settings(names=MAPS, tokens=(256, 1024, 4096, 16384), dim=128),
    ),
    Part(
        "precision",
        "Precision and compilation",
        "The same layers on 1,024 tokens or pixels, 384 wide. Compiled is `torch.compile(fullgraph=True)` with its defaults; compiling is not in the time.",
        Settings(names=TOKENS + MAPS, tokens=(1024,), precisions=("float32", "bfloat16"), modes=("eager", "compiled"), memory=False, rounds=3),
    ),
    Part(
        "models",
        "Models, by the side of the image",
        "Whole networks with random weights: float32, eager, one image. Beside them timm's ViT-S, whose DnA forms have 1.2 × the multiply-adds.",
        Settings(names=MODELS, pixels=(224, 448), rounds=3),
    ),
    Part(
        "models-precision",
        "Models in bfloat16, and compiled",
        "At 224 pixels, one image.",
        Settings(names=MODELS[:2] + MODELS[3:4], precisions=("float32", "bfloat16"), modes=("eager", "compiled"), memory=False, rounds=3),
    ),
)


def main(arguments: Sequence[str]) -> int:
    known = [part.name for part in PARTS]
    if set(arguments) - {*known, "--brief"}:
        print(f"usage: python -m benchmarks.page [--brief] [PART …]; the parts: {', '.join(known)}", file=sys.stderr)
        return 2
    brief = "--brief" in arguments
    parts = [part for part in PARTS if part.name in arguments or not set(arguments) - {"--brief"}]
    measured = []
    for part in parts:
        settings = replace(part.settings, rounds=2, seconds=0.02, memory=False) if brief else part.settings
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            measured.append((part, pool.submit(_measure, settings).result()))
    command = " ".join(["python -m benchmarks.page", *arguments])
    for path in write_page(measured, DOCS, command):
        print(path)
    return 0


def write_page(measured: Sequence[tuple[Part, Bench]], docs: Path, command: str) -> list[Path]:
    """Write ``cost.md``, and under ``figures`` a plot of every part that was measured at two sizes or more; their paths."""
    written, sections = [docs / "cost.md"], []
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    for part, bench in measured:
        figure = cost_plot(bench)
        if figure is not None:
            written.append(docs / "figures" / f"cost-{part.name}.svg")
            figure.savefig(written[-1], metadata={"Date": None})
        sections += _section(part, bench, figure is not None)
    machine = measured[0][1].machine
    head = [
        "# What it costs",
        "",
        f"Made by `{command}` on {machine['date']}: {machine['device']}, {machine['threads']} threads, torch {machine['torch']}.",
        "",
        "Each line was first shown to compute what the same module computes in float64, eagerly and with no fused kernel. What does not is refused, and its",
        "line says so. Then all that is measured at one size took turns; times are the median of a call, and its quartiles. Multiply-adds are counted, not",
        "measured. The ceiling is the fastest of a few square matrix multiplications on this machine in the same run. Peak memory is beyond module and input.",
        "",
        "These attentions compute different functions. That one is cheaper does not make it a replacement of another: what each can and cannot do is on its",
        "page, and measured under [proofs](proofs.md). The same for what you name: `foveal bench NAME … --tokens … --precisions … --modes …`. Against other",
        "implementations of the same function: [benchmarks](benchmarks.md).",
    ]
    if "--brief" in command:
        head += [
            "",
            "This was a brief run, without memory, to see that the page is right: its times say little, and less where the machine did other things.",
        ]
    written[0].write_text("\n".join([*head, *sections, ""]), encoding="utf8")
    return written


def _section(part: Part, bench: Bench, drawn: bool) -> list[str]:
    ceilings = ", ".join(f"{rate / 1e9:.0f} G multiply-adds a second in {name}" for name, rate in bench.ceilings.items())
    refused = sum(bool(row.refused) for row in bench.rows)
    found = f"{refused} of {len(bench.rows)} lines were refused." if refused else "No line was refused."
    text = ["", f"## {part.title}", "", f"{part.about} Ceiling: {ceilings}. {found}", ""]
    if drawn:
        text += [f"![Cost against size, on logarithmic axes](figures/cost-{part.name}.svg)", ""]
    head, *lines = table(replace(bench, rows=sorted(bench.rows, key=_place)))
    numbers = ["--:" if place > 1 else "---" for place in range(len(head))]
    return text + ["| " + " | ".join(cells) + " |" for cells in (head, numbers, *lines)]


def _place(row: Row) -> tuple[str, int, str, str]:
    return row.name, row.size, row.precision, row.mode


def _measure(settings: Settings) -> Bench:
    torch.set_num_threads(THREADS)
    return run_bench(settings, each=_tell)


def _tell(row: Row) -> None:
    took = f"refused: {row.refused}" if row.median is None else f"{1e3 * row.median:.2f} ms"
    print(f"{row.name}, {row.size} {row.unit}, {row.precision}, {row.mode}: {took}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
