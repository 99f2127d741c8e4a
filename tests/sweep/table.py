"""The page and the file that a sweep leaves."""

import datetime
import json
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["summary", "write"]

DOCS = Path(__file__).parents[2] / "docs"
UNSEEN = ("not built", "not installed", "not measured", "no attention")
FAULTS = ("crash", "late", "silent", "wrong")


def counts(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the table sums up; rows without a softmax over tokens stand apart, since there is nothing whose function could be kept."""
    seen = [one for one in results if one["verdict"] not in UNSEEN]
    verdicts = Counter(one["verdict"] for one in seen)
    maps = [one["maps"] for one in seen if one.get("maps", {}).get("all")]
    return {
        "rows": len(seen),
        "whole": verdicts["whole"],
        "strict": sum(one["verdict"] == "whole" and not one.get("others_left") for one in seen),
        "by name": sum(_by_name(one) == "whole" for one in seen),
        "changed": verdicts["changed"],
        "part": verdicts["part"],
        "refused": verdicts["refused"],
        "no softmax": verdicts["no softmax"],
        "faults": {name: verdicts[name] + sum(_by_name(one) == name for one in seen) for name in FAULTS},
        "late of others": sum(str(one.get(kind, "")).startswith(("late", "crash")) for one in seen for kind in ("external", "efficient")),
        "converted": sum(one.get("converted", 0) for one in seen),
        "attentions": sum(one.get("attentions", 0) for one in seen),
        "maps": len(maps),
        "maps right": sum(one["right"] == one["all"] and not one["wrong"] for one in maps),
        "maps wrong": sum(one["wrong"] > 0 for one in maps),
        "revert": sum(one.get("revert") is True for one in seen),
        "revert wrong": sum(any(part.get("revert") is False or part.get("untouched") is False for part in (one, one.get("by name", {}))) for one in seen),
        "unseen": Counter(one["verdict"] for one in results if one["verdict"] in UNSEEN),
    }


def _by_name(one: dict[str, Any]) -> str:
    """What became of a row that is not whole by default, once all of its attentions of images were named; empty where it was whole."""
    return str(one.get("by name", {}).get("verdict", ""))


def _by_library(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {library: [one for one in results if one["library"] == library] for library in dict.fromkeys(one["library"] for one in results)}


def _line(library: str, results: list[dict[str, Any]]) -> list[str]:
    n = counts(results)
    faults = ", ".join(f"{number} {name}" for name, number in n["faults"].items() if number) or "0"
    cells = [
        library,
        n["rows"],
        n["whole"],
        n["by name"],
        n["whole"] + n["by name"],
        n["strict"],
        n["changed"],
        n["part"],
        n["refused"],
        n["no softmax"],
        faults,
    ]
    cells += [n["late of others"] if all("external" in one for one in results if one["verdict"] not in UNSEEN) else "not measured"]
    cells += [f"{n['converted']} of {n['attentions']}", f"{n['maps right']} of {n['maps']}", n["maps wrong"], f"{n['revert']} / {n['revert wrong']}"]
    return [str(cell) for cell in [*cells, ", ".join(f"{number} {name}" for name, number in n["unseen"].items()) or "0"]]


HEAD = [
    "library",
    "rows",
    "whole",
    "by name",
    "both",
    "nothing left",
    "changed",
    "part",
    "refused",
    "no softmax",
    "faults",
    "others late",
    "attentions",
    "maps right",
    "wrong",
    "reverts / not",
    "unseen",
]


def summary(results: list[dict[str, Any]]) -> str:
    rows = [HEAD, *(_line(library, part) for library, part in _by_library(results).items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _versions() -> str:
    found = []
    for name in ("timm", "transformers", "torchvision", "torch", "diffusers", "open_clip_torch", "segmentation-models-pytorch", "vit-pytorch", "ultralytics"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines)


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in kinds.items())


def _why(one: dict[str, Any]) -> str:
    if _by_name(one) == "whole":
        return f"whole where named: {_left_for(one)}"
    if one.get("message"):
        text = str(one["message"])
        return text if len(text) <= 260 else text[:259] + "…"
    reasons = list(one.get("reasons", {}))
    return "; ".join(reason[:160] for reason in reasons[:2])


def _left_for(one: dict[str, Any]) -> str:
    kinds = _kinds(one.get("missed", {}))
    return f"by default {kinds} left" if one["verdict"] == "part" else f"by default refused, for {kinds} alone"


def _row(one: dict[str, Any]) -> list[str]:
    maps = one.get("maps", {})
    told = f"{maps['right']}/{maps['all']}" if maps.get("all") else ""
    more = [
        f"{one.get('converted', 0)}/{one['attentions']}" if "attentions" in one else "",
        _kinds(one.get("missed", {})),
        _kinds(one.get("others_left", one.get("others", {}))),
    ]
    verdict = f"{one['verdict']}, whole by name" if _by_name(one) == "whole" else one["verdict"]
    return [one["library"], one["family"], one.get("model", ""), verdict, *more, told, "" if one["verdict"] == "whole" else _why(one)]


def write(results: list[dict[str, Any]]) -> None:
    """The page, ``docs/hosts.md``, and the numbers behind it."""
    head = ["library", "family", "model", "verdict", "softmax attentions", "missed", "others left", "maps", "reason"]
    order = {"crash": 0, "late": 0, "wrong": 0, "silent": 0, "refused": 1, "part": 2, "no softmax": 3, "changed": 4, "whole": 5}
    seen = [one for one in results if one["verdict"] not in UNSEEN]
    rest = [one for one in results if one["verdict"] in UNSEEN]
    rows = sorted(seen, key=lambda one: (list(_by_library(results)).index(one["library"]), order.get(one["verdict"], 9), one["family"]))
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        versions=_versions(),
        quick="" if all("external" in one for one in seen) else " --quick",
        machine=f"{platform.system()} {platform.machine()}, one thread, Python {platform.python_version()}",
        summary=_table(HEAD, [_line(library, part) for library, part in _by_library(results).items()]),
        table=_table(head, [_row(one) for one in rows]),
        rest=_table(["library", "family", "why it was not measured"], [[one["library"], one["family"], _why(one)[:200]] for one in rest]),
    )
    (DOCS / "hosts.md").write_text(page)
    data = {"date": datetime.date.today().isoformat(), "torch": torch.__version__, "versions": _versions(), "rows": [_short(one) for one in results]}
    lines = ",\n".join(json.dumps(row) for row in data.pop("rows"))
    (DOCS / "hosts.json").write_text(f'{json.dumps(data)[:-1]}, "rows": [\n{lines}\n]}}\n')


def _short(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("seconds", "reasons")}


PAGE = """# Hosts, measured

What `foveal.convert_` makes of the models of other libraries: the smallest model of every family that holds attention, at reduced size, with weights stirred so
that zero heads, layer scales and flat maps show. Made by

```
python -m tests.sweep{quick} --write
```

on {date}, CPU ({machine}); {versions}.

Which attentions a model has is seen from the softmaxes that run, not asked of conversion. **Whole**: every softmax attention over tokens became
`SoftmaxAttention`, the report says "identical", and all outputs agree to 1e-4 of their largest number; text of a two-tower model may be left, if the report
says so.
**By name**: not whole by default, since cross attention and heads that pool (whose queries are other tokens than their keys) are converted only where they are
named; in a second conversion, with `where` naming them as well, all of it was whole in the same sense. **Both** is the sum. What is no attention of queries and
keys counts as another kind, told by what runs: a softmax before which no product of two tensors was made in its module has its weights from a map alone, as
deformable attention over sampled points, a learned pooling or a vocabulary; so has one over those who ask, which shares out tokens among slots.
**Nothing left**: and no attention of another kind (over channels, linear, lambda) was left beside. **Faults** are crashes, failures after conversion, silent
no-ops and results that differ from what the report says, by name too. **Others late**: `external` or `efficient` attention converted and then failed in
forward or backward.
**Maps right**: every map of `attention_maps` equals, to a thousandth of its largest weight, in another run what the softmax gave or what then
met the values; one that is a difference of two softmaxes equals that, times a number that the model multiplied with. **Reverts**: bit-identical in outputs,
state dict, its order and all classes, and how many were not, refusals that touched the model among them.

{summary}

## By family

{table}

## Not measured

{rest}
"""
