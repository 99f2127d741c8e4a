"""Every mechanism has its page, and every page says what a page has to say. That the site builds is for ``make docs`` to show."""

import inspect
import json
import re
from pathlib import Path

import pytest
from benchmarks.gallery import LEFT_OUT, TASKS

import foveal
import foveal.functional
from foveal.attention import attention_class
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import TASKS as ALL_TASKS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "mechanisms").glob("*.md"))
SECTIONS = ["The idea", "Formula", "Example", "Cost", "What it can and cannot do", "Differences from the paper and from the official code", "API", "Citation"]


def headings(page: Path) -> list[str]:
    # what stands in a fence is no heading
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def test_every_attention_belongs_to_a_page_that_names_it() -> None:
    for name in foveal.list_attentions():
        cls = attention_class(name)
        page = DOCS / "mechanisms" / f"{cls.__module__.rpartition('.')[2].removesuffix('_2d')}.md"
        assert page.exists(), f"{name} has no page: write {page.relative_to(DOCS.parent)}"
        assert f".. autoclass:: foveal.{cls.__name__}" in page.read_text(encoding="utf8"), f"{page.name} does not document {cls.__name__}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_has_the_sections_in_order(page) -> None:
    found = [heading for heading in headings(page) if heading in SECTIONS]
    assert found == SECTIONS
    text = page.read_text(encoding="utf8")
    assert "```python" in text
    assert "```bibtex" in text
    assert f"{{figure}} /_generated/{page.stem}.png" in text
    assert f"def {page.stem}() -> Figure" in (DOCS / "figures" / f"{page.stem}.py").read_text(encoding="utf8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_says_in_five_lines_when_to_use_it(page) -> None:
    text = page.read_text(encoding="utf8")
    assert headings(page).index("When to use it") == headings(page).index("What it can and cannot do") + 1
    advice = re.search(r"^## When to use it\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]
    assert len(re.findall(r"^- \*\*", advice, re.MULTILINE)) == 5
    # advice that points to nothing that was measured or proved is an opinion
    assert re.search(r"\]\(\.\./(proofs|when|comparison|pretrained)\.md", advice)


def test_every_function_is_documented_once() -> None:
    text = "\n".join(page.read_text(encoding="utf8") for page in DOCS.rglob("*.md"))
    documented = re.findall(r"autofunction:: foveal\.functional\.(\w+)", text)
    assert sorted(documented) == sorted(foveal.functional.__all__)


def test_a_missing_section_would_be_seen(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n## The idea\n\n```\n## Cost\n```\n", encoding="utf8")
    assert headings(page) == ["The idea"]


def test_every_attention_and_every_task_is_in_the_gallery() -> None:
    drawn = re.findall(r'^@shows\("(\w+)"\)', (DOCS / "figures" / "gallery.py").read_text("utf8"), re.MULTILINE)
    assert sorted(drawn) == foveal.list_attentions()
    assert TASKS.keys() | LEFT_OUT.keys() == set(ALL_TASKS)
    runs = json.loads((DOCS / "gallery" / "runs.json").read_text("utf8"))
    assert set(runs) == set(TASKS)
    for name, run in runs.items():
        # what stands below a picture is what made it
        assert (run["recipe"], run["steps"]) == (TASKS[name].recipe, TASKS[name].steps)
        assert type(get_recipe(run["recipe"]).task).__name__ == name
        assert (DOCS / "gallery" / f"{name}.webp").read_bytes()[8:12] == b"WEBP"
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) < 2_000_000


def test_every_public_name_stands_under_one_verb(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from verbs import VERBS

    named = [name for modules in VERBS.values() for name in modules.get("foveal", ())]
    public = {name for name in foveal.__all__ if not name.startswith("_") and not inspect.ismodule(getattr(foveal, name))}
    assert sorted(named) == sorted(public)
    page = (DOCS / "api.md").read_text("utf8")
    assert re.findall(r"by_verb (\w+)", page) == list(VERBS) == [heading.lower() for heading in headings(DOCS / "api.md")]
