"""Names of other people that are markup, in every page and on the terminal: they are shown letter by letter, and nothing of them runs."""

import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

from foveal.analysis.pictures import write_map_sheet, write_sheet
from foveal.cli import main
from foveal.lab.compare import make_plan, render_report, run_plan, write_results
from foveal.lab.data import ImageFolder
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.training import Optim, read_json, write_json
from foveal.models import ViT
from tests.training.helpers import tiny

from .campaign import Size, Trial, campaign
from .forks import Child, ended, keep_server

__all__ = ["markup"]

MARK = "f0vealmark"
NAMES = {
    "a script": f"<script>{MARK}(1)<",
    "an image that cannot load": f'"><img src=x onerror={MARK}(1)>',
    "quotes out of an attribute": f"' onmouseover='{MARK}(1)' x='",
    "a template": "{{" + f"{MARK}.__class__" + "}}{% raw %}",
    "braces and percents": f"{{0.__class__}} %s %(x)s ${{{MARK}}}",
    "Markdown": f"[{MARK}](javascript:{MARK}(1)) | x | `y` **z**",
    "colors of a terminal": f"\x1b[31m{MARK}\x1b]0;{MARK}\x07",
    "rich's markup": f"[bold red]{MARK}[link=http:x]",
    "right to left": f"\u202e{MARK}\u2066",
}


class _Found(HTMLParser):
    """Elements and attributes that a name should not have become."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else ""
        named = [name for name, _ in attributes if name.startswith("on") or MARK in name]
        links = [value for name, value in attributes if name in ("href", "src", "action", "style") and value and (MARK in value or "javascript:" in value)]
        if MARK in tag or named or links or (tag == "img" and ("src", "x") in attributes):
            self.wrong.append(f"<{tag} {attributes}>"[:200])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script" and f"{MARK}(1)" in data and "application/json" not in data and not data.lstrip().startswith("{"):
            self.wrong.append(f"in a script: {data[:100]}")


def looked_through(html: str) -> str:
    """What of a page would run, or was made of a name; empty if nothing."""
    found = _Found()
    found.feed(html)
    found.close()
    return "; ".join(found.wrong[:3])


@campaign
def markup(work: Path, size: Size) -> Iterator[Trial]:
    """Class names, file names and arms that are markup, templates or control characters: in pages, reports, Markdown and on the terminal."""
    work.mkdir(exist_ok=True)
    for what, name in list(NAMES.items())[: size.of(len(NAMES), 2)]:
        place = work / str(len(list(work.iterdir())))
        place.mkdir()
        yield from _in_runs(what, name, place)
        yield from _in_sheets(what, name, place)
    if not size.short:
        yield from _in_reports(work / "reports")


def _images(place: Path, name: str) -> Path:
    """A folder of images whose first class and first file are called so; no file can hold a slash."""
    source = ImageFolder(root=Path("nowhere")).smoke_data().root  # type: ignore[attr-defined]
    plain = name.replace("/", "∕")
    for part in ("train", "val"):
        for label in ("0", "1"):
            target = place / part / (plain if label == "0" else "other")
            shutil.copytree(source / part / label, target)
            if part == "val" and label == "0":
                first = sorted(target.iterdir())[0]
                first.rename(first.with_name(f"{plain}.png"))
    return place


def _in_runs(what: str, name: str, place: Path) -> Iterator[Trial]:
    root, run = _images(place / "images", name), place / "run"
    recipe = replace(smoke(get_recipe("image-folder"), batch_size=4), steps=2, eval_every=1, checkpoint_every=2)
    recipe = replace(recipe, data=replace(recipe.data, root=root))
    picture = next(path for path in (root / "val").rglob("*.png") if MARK in path.name)

    def do(words: list[str]) -> tuple[int, str]:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            code = main(words)
        return code, out.getvalue()

    write_json(place / "recipe.json", recipe.to_dict())
    for verb, words in {
        "train": ["train", "--from", str(place / "recipe.json"), "--out", str(run)],
        "eval": ["eval", str(run)],
        "inspect": ["inspect", str(run), str(picture), "--out", str(place / "drawn")],
    }.items():
        code, said = do(words)
        fault = "" if code == 0 else f"it ended with {code}: {said[-300:]}"
        if any((ord(letter) < 32 and letter not in "\n\t") or letter in "\u202e\u2066" for letter in said):
            fault = f"control characters reached the terminal: {said!r}"[:300]
        yield Trial("names on the terminal", f"{what}, foveal {verb}", fault)
    for page in sorted((place / "drawn").glob("*.html")):
        yield Trial("names in pages", f"{what}, {page.name} of foveal inspect", looked_through(page.read_text(encoding="utf8")))


def _in_sheets(what: str, name: str, place: Path) -> Iterator[Trial]:
    image = torch.rand(3, 16, 16)
    write_map_sheet(image, {name: {name: torch.rand(2, 4, 4)}}, place / "maps", title=name, about=name, caption=name)
    write_sheet([(name, [(torch.zeros(8, 8, 3).numpy(), name)])], place / "sheet", name="sheet", title=name, about=name)
    for page in (place / "maps" / "maps.html", place / "sheet" / "sheet.html"):
        yield Trial("names in pages", f"{what}, {page.name}", looked_through(page.read_text(encoding="utf8")))


def _in_reports(work: Path) -> Iterator[Trial]:
    """A comparison's results with every text in them replaced, one name after another."""
    work.mkdir()
    plan = make_plan(tiny(model=ViT(), optim=Optim(lr=2e-2), steps=2, eval_every=1, checkpoint_every=2), ("denoising",), seeds=1)
    folder = work / "out"
    for arm in plan.arms:
        write_json(folder / arm.name / "memory.json", {"bytes": 1})
    write_json(folder / "costs.json", {arm.name: {"parameters": 1, "macs": 1, "milliseconds_per_image": 1.0, "training_bytes": 1} for arm in plan.arms})

    def job() -> int:
        keep_server()
        return ended(lambda: run_plan(plan, folder, jobs=1, quiet=True))

    child = Child(job, work / "log")
    if child.wait() != 0:
        raise RuntimeError(child.said()[-2000:])
    results = read_json(write_results(folder))
    for what, name in NAMES.items():
        changed = _renamed(results, name)
        html = render_report(changed)
        yield Trial("names in pages", f"{what}, report of foveal compare", looked_through(html) or ("" if MARK in html else "the name is not in it"))


def _renamed(results: dict[str, Any], name: str) -> dict[str, Any]:
    """An arm, the classes, the notes and the sentences of the verdict under this name; words that choose among ways stay."""
    arm = results["arms"][-1]["name"]

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {(name if key == arm else key): walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return value.replace(arm, name) if isinstance(value, str) else value

    changed: dict[str, Any] = walk(results)
    changed["task"]["notes"] = [*changed["task"]["notes"], f"left out: {name}"]
    return changed
