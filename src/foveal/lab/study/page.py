"""A study's results as a page of the documentation and as a report, from the JSON alone: both are the same blocks, written twice."""

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._files import replace_file
from .angles import WHEN, cause_of
from .drawings import draw_angles, draw_settings
from .judging import judge_claim
from .results import mean_of
from .words import number, p_value, seeds_in_words, signed, unit

__all__ = ["angle_sentence", "blocks", "to_html", "to_markdown", "write_page"]


@dataclass(frozen=True)
class Block:
    """A heading (``level`` above 0), a paragraph, a table (``rows``, the first of them its head) or a figure (``svg``)."""

    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()
    svg: str = ""


def write_page(results: Sequence[dict[str, Any]], page: Path, report: Path | None = None) -> None:
    """The page in Markdown with its figures beside it, and the report in one HTML file.

    Args:
        results: of all registrations of the study, the first of them first.
        page: where it goes.
        report: likewise.
    """
    made, name = blocks(results), page.stem
    count = 0
    lines = []
    for block in made:
        if block.svg:
            count += 1
            replace_file(page.with_name(f"{name}-{count}.svg"), block.svg.encode())
            lines.append(f"```{{figure}} {name}-{count}.svg\n{block.text}\n```")
        else:
            lines.append(to_markdown(block))
    replace_file(page, ("\n\n".join(lines) + "\n").encode())
    if report is not None:
        replace_file(report, to_html(made, f"The study {results[0]['study']}").encode())


def blocks(results: Sequence[dict[str, Any]]) -> list[Block]:
    """The whole page."""
    out = [Block(f"The study of {results[0]['study']}", 1), *(Block(one["about"]) for one in results)]
    if any(one["smoke"] for one in results):
        out.append(Block("**A rehearsal of a few steps: its numbers mean nothing, and nothing is judged.**"))
    out += [Block("What became of the hypotheses", 2), Block(_counted(results))]
    for order, one in zip(("The first registration", "The second registration", "The third registration"), results, strict=False):
        head = [Block(order, 3)] if len(results) > 1 else []
        out += [*head, Block(_made(one, results[0]["study"])), Block(rows=_verdicts(one)), Block(one["analysis"])]
    with_angles = {name: part for one in results for name, part in one["parts"].items() if "angles" in part}
    if with_angles:
        out += _on_angles(with_angles, smoke=results[0]["smoke"])
    for one in results:
        for name, part in one["parts"].items():
            out += _part(name, part, [hypothesis for hypothesis in one["hypotheses"] if hypothesis["part"] == name])
    missing = [(name, title) for one in results for name, title in one["titles"].items() if name not in one["parts"]]
    if missing:
        out += [Block("Not yet run", 2), Block("Registered, and not run to the end of its seeds, so nothing is computed of it:")]
        out += [Block(rows=(("part", "title"), *missing))]
    return out


def _made(one: dict[str, Any], study: str) -> str:
    parts = one["parts"]
    minutes = sum(part["judged_seconds"] for part in parts.values()) / 60
    run = (
        f"Made by `foveal study {study} --only {' '.join(parts)}`, written on {one['created'][:10]}; {one['machine']['processor']}, torch "
        f"{one['versions']['torch']}; {minutes:.0f} minutes of judged runs, one thread each."
        if parts
        else "No part was run to its end."
    )
    return (
        f"{run} Registered on {one['registered']}, before its runs, in `src/foveal/lab/study/{one['study']}.toml` (SHA-256 {one['registration'][:16]}…), "
        "which says all of the hypotheses, arms, seeds, rates and analysis."
    )


def _counted(results: Sequence[dict[str, Any]]) -> str:
    everything = [one["outcome"] for registration in results for one in registration["hypotheses"]]
    primary = [one["outcome"] for registration in results for one in registration["hypotheses"] if one["primary"]]
    order = ("held", "refuted", "not settled", "not judged")
    said = ["; ".join(f"{Counter(outcomes)[word]} {word}" for word in order) for outcomes in (primary, everything)]
    return f"Of {len(primary)} primary hypotheses: {said[0]}. Of all {len(everything)}: {said[1]}."


def _verdicts(results: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    rows = [("hypothesis", "said before", "outcome", "p", "corrected", "what 4 of 5 such studies would see")]
    for one in results["hypotheses"]:
        kind = f"**{one['id']}** (primary)" if one["primary"] else one["id"]
        if one["outcome"] == "not judged":
            rows.append((kind, one["says"], f"not judged: {one['why']}", "", "", ""))
        else:
            metric = results["parts"][one["part"]]["registered"]["metric"]
            power = ", ".join(dict.fromkeys(f"{number(claim['detectable'], claim['metric'] or metric)}" for claim in one["claims"]))
            units = unit(one["claims"][0]["metric"] or metric)
            seen = f"{power} {'points' if units == '%' else '' if units.startswith('relative') else units}".strip()
            rows.append((kind, one["says"], f"**{one['outcome']}**", p_value(one["p"]), p_value(one["corrected"]), seen))
    return tuple(rows)


def _on_angles(parts: dict[str, dict[str, Any]], *, smoke: bool) -> list[Block]:
    sentence = angle_sentence(parts) if not smoke else "A rehearsal says nothing of angles."
    left = [name for name, part in parts.items() if not part["registered"]["angles"]]
    if left:
        sentence += (
            f" Of {' and '.join(left)} angles were not registered: they are read from the weights that its runs left, and count for nothing in that sentence."
        )
    figure = (
        "Above: mean principal angle between both value maps over heads, at the start, half-way and at the end; bars are intervals of 95 % over seeds, the "
        "dotted line is what random subspaces show. Below: gain over the wider softmax by the angle at the end, a point a seed."
    )
    rows = [("part", "arm", "start", "half", "end (95 %)", "chance", "gain")]
    for name, part in parts.items():
        metric = part["registered"]["metric"]
        for arm, row in part["angles"]["by_arm"].items():
            end = judge_claim(row["end"], "above zero", 0.0)
            gain = "diverged" if row["gain"] is None else signed(sum(row["gain"]) / len(row["gain"]), metric)
            means = [f"{mean_of(row[when]):.1f}°" if when in row else "" for when in WHEN[:2]]
            rows.append((name, arm, *means, f"{end.mean:.1f}° ({end.low:.1f} to {end.high:.1f})", f"{row['chance']:.1f}°", gain))
    return [Block("Principal angles", 2), Block(sentence), Block(figure, svg=draw_angles(parts)), Block(rows=tuple(rows))]


def angle_sentence(parts: dict[str, dict[str, Any]]) -> str:
    """What the measurement says of angles as the cause, in a sentence."""
    found = {name: part["angles"]["correlation"] for name, part in parts.items() if part["registered"]["angles"] and part["angles"]["correlation"]}
    if not found:
        return "Whether larger principal angles go with gains is not yet measured in the parts that were registered for it."
    said = []
    for name, one in found.items():
        value = "not defined" if one["r"] is None else f"{one['r']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})".replace("-", "−")
        said.append(f"in {name} the correlation over {one['pairs']} runs is {value}")
    words = {
        "supported": "go with larger gains in every task where they were measured",
        "contradicted": "go with smaller gains in every task where they were measured",
        "not shown": "are not shown to go with gains",
    }[cause_of(list(found.values()))]
    return f"Larger principal angles between both value maps {words}: {', '.join(said)}."


def _part(name: str, part: dict[str, Any], hypotheses: list[dict[str, Any]]) -> list[Block]:
    about = part["registered"]
    budget = (
        f"{about['steps']} steps of {about['batch']}; rates {', '.join(f'{rate:g}' for rate in about['rates'])}, chosen on seeds "
        f"{seeds_in_words(about['tuning_seeds'])}; judged on seeds {seeds_in_words(about['seeds'])}."
    )
    out = [Block(f"{name}: {about['title']}", 2), Block(about["about"]), Block(budget)]
    for metric in part["rows"][0]["values"]:
        least = part["limits"].get(metric)
        said = f"{metric.capitalize()}, {unit(metric)}; the least that can be is {least:.3f}." if least else ""
        out += [Block(said)] if said else []
        out.append(Block(rows=_values(part, metric)))
    if len({row["setting"] for row in part["rows"]}) > 1:
        out.append(Block("Means over the judged seeds; bars reach from the best seed to the worst.", svg=draw_settings(part)))
    out += [Block("Over learning rates", 3), Block("Means over the tuning seeds, all of full length: a flat line is an arm that the rate matters little to.")]
    out += [Block(rows=_rates(part))]
    claims = [one for one in hypotheses if one["outcome"] != "not judged"]
    if claims:
        out += [Block("Claims", 3), Block(rows=_claims(claims, part))]
    return out


def _values(part: dict[str, Any], metric: str) -> tuple[tuple[str, ...], ...]:
    several = len({row["setting"] for row in part["rows"]}) > 1
    rows = [("arm", *(["setting"] if several else []), "weights", "rate", metric, "by seed")]
    for row in part["rows"]:
        values = row["values"][metric]
        seeds = " ".join("diverged" if value is None else number(value, metric) for value in values)
        mean = mean_of(values)
        setting = [row["setting"]] if several else []
        rows.append((row["arm"], *setting, f"{row['weights']:,}", f"{row['rate']:g}", "diverged" if mean is None else number(mean, metric), seeds))
    return tuple(rows)


def _rates(part: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    metric, rates = part["registered"]["metric"], list(part["rows"][0]["tuning"])
    rows = [("arm", "setting", *rates)]
    for row in part["rows"]:
        means = [mean_of(row["tuning"][rate]) for rate in rates]
        rows.append((row["arm"], row["setting"] or "all", *("diverged" if mean is None else number(mean, metric) for mean in means)))
    return tuple(rows)


def _claims(hypotheses: list[dict[str, Any]], part: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    rows = [("hypothesis", "claim", "difference (95 %)", "seeds for it", "p", "would be seen in 4 of 5")]
    count = len(part["registered"]["seeds"])
    for one in hypotheses:
        for claim in one["claims"]:
            metric = claim["metric"] or part["registered"]["metric"]
            words = _claim(claim)
            interval = f"{signed(claim['mean'], metric)} ({signed(claim['low'], metric)} to {signed(claim['high'], metric)})"
            rows.append((one["id"], words, interval, f"{claim['seeds_for']} of {count}", p_value(claim["p"]), number(claim["detectable"], metric)))
    return tuple(rows)


def _claim(claim: dict[str, Any]) -> str:
    if claim["relation"] in ("at limit", "above zero", "below zero"):
        relation = f"is {claim['relation'].replace('at limit', 'at the limit')}"
    else:
        relation = f"equals {claim['against']}" if claim["relation"] == "equal" else f"is {claim['relation']} than {claim['against']}"
    where = claim["at"] or claim["metric"]
    beyond = f", by more than at {claim['beyond']}" if claim.get("beyond") else ""
    return f"{claim['arm']} {relation}{f', {where}' if where else ''}{beyond}"


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
