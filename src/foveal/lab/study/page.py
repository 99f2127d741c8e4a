"""A study's results as a page of the documentation and as a report, from the JSON alone: both are the same blocks, written twice."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..._files import replace_file
from ..compare._colors import ARM_COLORS
from .results import mean_of

__all__ = ["blocks", "to_html", "to_markdown", "write_page"]


@dataclass(frozen=True)
class Block:
    """A heading (``level`` above 0), a paragraph, a table (``rows``, the first of them its head) or a figure (``svg``)."""

    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()
    svg: str = ""


def write_page(results: dict[str, Any], page: Path, report: Path | None = None) -> None:
    """The page in Markdown with its figures beside it, and the report in one HTML file."""
    made, name = blocks(results), page.stem
    number = 0
    lines = []
    for block in made:
        if block.svg:
            number += 1
            replace_file(page.with_name(f"{name}-{number}.svg"), block.svg.encode())
            lines.append(f"```{{figure}} {name}-{number}.svg\n{block.text}\n```")
        else:
            lines.append(to_markdown(block))
    replace_file(page, ("\n\n".join(lines) + "\n").encode())
    if report is not None:
        replace_file(report, to_html(made, f"The study {results['study']}").encode())


def blocks(results: dict[str, Any]) -> list[Block]:
    """The whole page."""
    parts = results["parts"]
    minutes = sum(part["judged_seconds"] for part in parts.values()) / 60
    made = (
        f"Made by `foveal study {results['study']} --only {' '.join(parts)}` on {results['created'][:10]}; {results['machine']['processor']}, torch "
        f"{results['versions']['torch']}; {minutes:.0f} minutes of judged runs, one thread each. Registered on {results['registered']}, before its runs, in "
        f"`src/foveal/lab/study/{results['study']}.toml` (SHA-256 {results['registration'][:16]}…), which says all of the hypotheses, arms, seeds, rates and "
        "analysis."
    )
    out = [Block(f"The study of {results['study']}", 1), Block(results["about"]), Block(made)]
    if results["smoke"]:
        out.append(Block("**A rehearsal of a few steps: its numbers mean nothing, and nothing is judged.**"))
    out += [Block("What became of the hypotheses", 2), Block(rows=_verdicts(results)), Block(results["analysis"])]
    for name, part in parts.items():
        out += _part(name, part, [one for one in results["hypotheses"] if one["part"] == name])
    return out


def _verdicts(results: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    rows = [("hypothesis", "said before", "outcome", "p", "corrected")]
    for one in results["hypotheses"]:
        kind = f"**{one['id']}** (primary)" if one["primary"] else one["id"]
        if one["outcome"] == "not judged":
            rows.append((kind, one["says"], f"not judged: {one['why']}", "", ""))
        else:
            rows.append((kind, one["says"], f"**{one['outcome']}**", _p(one["p"]), _p(one["corrected"])))
    return tuple(rows)


def _part(name: str, part: dict[str, Any], hypotheses: list[dict[str, Any]]) -> list[Block]:
    about = part["registered"]
    budget = (
        f"{about['steps']} steps of {about['batch']}; rates {', '.join(f'{rate:g}' for rate in about['rates'])}, chosen on seeds "
        f"{_range(about['tuning_seeds'])}; judged on seeds {_range(about['seeds'])}."
    )
    out = [Block(f"{name}: {about['title']}", 2), Block(about["about"]), Block(budget)]
    for metric in part["rows"][0]["values"]:
        least = part["limits"].get(metric)
        said = f"{metric.capitalize()}, {'%' if _percent(metric) else 'relative to predicting 0'}; the least that can be is {least:.3f}." if least else ""
        out += [Block(said)] if said else []
        out.append(Block(rows=_values(part, metric)))
    if len(about["ranks"]) > 1:
        out.append(Block("Mean error over the judged seeds by rank of what is asked; bars reach from the best seed to the worst.", svg=_by_rank(part)))
    out += [Block("Over learning rates", 3), Block("Means over the tuning seeds, all of full length: a flat line is an arm that the rate matters little to.")]
    out += [Block(rows=_rates(part))]
    claims = [one for one in hypotheses if one["outcome"] != "not judged"]
    if claims:
        out += [Block("Claims", 3), Block(rows=_claims(claims, part))]
    return out


def _values(part: dict[str, Any], metric: str) -> tuple[tuple[str, ...], ...]:
    several = len(part["registered"]["ranks"]) > 1
    rows = [("arm", *(["setting"] if several else []), "weights", "rate", metric, "by seed")]
    for row in part["rows"]:
        values = row["values"][metric]
        seeds = " ".join("diverged" if value is None else _number(value, metric) for value in values)
        mean = mean_of(values)
        setting = [row["setting"]] if several else []
        rows.append((row["arm"], *setting, f"{row['weights']:,}", f"{row['rate']:g}", "diverged" if mean is None else _number(mean, metric), seeds))
    return tuple(rows)


def _rates(part: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    metric, rates = part["registered"]["metric"], list(part["rows"][0]["tuning"])
    rows = [("arm", "setting", *rates)]
    for row in part["rows"]:
        means = [mean_of(row["tuning"][rate]) for rate in rates]
        rows.append((row["arm"], row["setting"] or "all", *("diverged" if mean is None else _number(mean, metric) for mean in means)))
    return tuple(rows)


def _claims(hypotheses: list[dict[str, Any]], part: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    rows = [("hypothesis", "claim", "difference (95 %)", "seeds for it", "p", "would be seen in 4 of 5")]
    count = len(part["registered"]["seeds"])
    for one in hypotheses:
        for claim in one["claims"]:
            metric = claim["metric"] or part["registered"]["metric"]
            against = "the limit" if claim["relation"] == "at limit" else claim["against"]
            relation = {"at limit": "is at", "equal": "equals"}.get(claim["relation"], f"is {claim['relation']} than")
            words = f"{claim['arm']} {relation} {against}{', ' if claim['at'] or claim['metric'] else ''}{claim['at'] or claim['metric']}"
            interval = f"{_signed(claim['mean'], metric)} ({_signed(claim['low'], metric)} to {_signed(claim['high'], metric)})"
            rows.append((one["id"], words, interval, f"{claim['seeds_for']} of {count}", _p(claim["p"]), _number(claim["detectable"], metric)))
    return tuple(rows)


def _by_rank(part: dict[str, Any]) -> str:
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "study", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        ranks, width = part["registered"]["ranks"], part["registered"]["width"]
        names = list(dict.fromkeys(row["arm"] for row in part["rows"]))
        metric = part["registered"]["metric"]
        for place, arm in enumerate(names):
            rows = [row["values"][metric] for row in part["rows"] if row["arm"] == arm]
            if any(value is None for values in rows for value in values):
                continue
            means = np.array([mean_of(values) for values in rows])
            spread = np.abs([[min(values) for values in rows] - means, [max(values) for values in rows] - means])
            aside = [rank + 0.15 * (place - len(names) / 2) for rank in ranks]
            looks: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2, "color": ARM_COLORS[place % len(ARM_COLORS)]}
            axes.errorbar(aside, means, yerr=spread, label=arm, **looks)
        for share, words in ((0.5, "C/2: softmax"), (0.75, "3C/4: 1.5 × the heads")):
            axes.axvline(share * width, color="#8c959f", linestyle=":", linewidth=1)
            axes.text(share * width, 1.0, words, transform=axes.get_xaxis_transform(), fontsize=8, ha="center", va="bottom", color="#57606a")
        axes.set(xlabel="rank", ylabel="error, relative to predicting 0", xticks=ranks)
        axes.set_ylim(bottom=-0.01)
        axes.legend(fontsize=8, frameon=False)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()[written.getvalue().index("<svg") :]


def to_markdown(block: Block) -> str:
    if block.level:
        return f"{'#' * block.level} {block.text}"
    if block.rows:
        head, *rest = block.rows
        lines = [head, tuple("---" for _ in head), *rest]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return block.text


def to_html(made: Sequence[Block], title: str) -> str:
    body = "\n".join(_html(block) for block in made)
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;color:#24292f;max-width:70rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;font-size:13px}"
        "td,th{border-bottom:1px solid #d0d7de;padding:.3rem .6rem;text-align:left;vertical-align:top}svg{max-width:100%;height:auto}"
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    if block.svg:
        return f"<figure>{block.svg}<figcaption>{html.escape(block.text)}</figcaption></figure>"
    if block.rows:
        head, *rest = block.rows
        cells = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
        return f"<table><tr>{cells}</tr>" + "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rest) + "</table>"
    tag = f"h{block.level}" if block.level else "p"
    return f"<{tag}>{_inline(block.text)}</{tag}>"


def _inline(text: str) -> str:
    """Of Markdown what is written here: bold and code."""
    out = html.escape(text)
    for mark, tag in (("**", "b"), ("`", "code")):
        while out.count(mark) > 1:
            out = out.replace(mark, f"<{tag}>", 1).replace(mark, f"</{tag}>", 1)
    return out


def _percent(metric: str) -> bool:
    return metric == "accuracy"


def _number(value: float, metric: str) -> str:
    return f"{100 * value:.1f}" if _percent(metric) else f"{value:.3f}"


def _signed(value: float, metric: str) -> str:
    return (f"{100 * value:+.1f}" if _percent(metric) else f"{value:+.3f}").replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _range(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)) else ", ".join(map(str, seeds))
