"""The page of costs: all that is registered is on it, its settings can be measured, and it says what was refused."""

import re
from dataclasses import replace
from pathlib import Path

from benchmarks import page

from foveal.attention import list_attentions
from foveal.bench import Bench, Row, Settings, subject

DOCS = Path(__file__).parents[2] / "docs"
MACHINE = {"device": "a machine", "threads": 2, "torch": "2.0", "date": "2026-01-02"}


def row(name: str, size: int, seconds: float, **options: object) -> Row:
    values: dict[str, object] = {"error": 0.0, "refused": "", "macs": 10**6, "median": seconds, "quartiles": (seconds, seconds), "throughput": 1 / seconds}
    return Row(name, "tokens", size, "float32", "eager", **(values | {"of_ceiling": 0.5, "peak_bytes": 2 * 10**6} | options))  # type: ignore[arg-type]


def test_every_attention_is_on_the_page_and_every_size_can_be_had() -> None:
    assert {name for part in page.PARTS for name in part.settings.names} >= set(list_attentions())
    for part in page.PARTS:
        for name in part.settings.names:
            thing = subject(name, dim=part.settings.dim, num_heads=part.settings.num_heads)
            for size in part.settings.tokens if thing.unit == "tokens" else part.settings.pixels:
                thing.shape(size)


def test_a_page_says_what_was_measured_how_and_what_was_refused(tmp_path) -> None:
    rows = [row("b", 4, 0.002), row("a", 4, 0.001), row("b", 9, 0.004), row("a", 9, 1.0, median=None, quartiles=None, refused="differs by 1e-01")]
    part = page.Part("some", "Some attentions", "About them.", Settings(names=("a", "b"), tokens=(4, 9)))
    alone = replace(part, name="alone", title="One size")
    measured = [(part, Bench(MACHINE, {"float32": 2e9}, False, 1, rows)), (alone, Bench(MACHINE, {"float32": 2e9}, False, 1, rows[:2]))]
    written = page.write_page(measured, tmp_path, "python -m benchmarks.page some alone")
    assert [path.relative_to(tmp_path).as_posix() for path in written] == ["cost.md", "figures/cost-some.svg"]
    text = written[0].read_text()
    assert "Made by `python -m benchmarks.page some alone` on 2026-01-02: a machine, 2 threads, torch 2.0." in text
    first, second = text.split("\n## ")[1:]
    assert [line.split(" | ")[:3] for line in first.splitlines() if line.startswith(("| a", "| b"))] == [
        ["| a", "4 tokens", "1.00"],
        ["| a", "9 tokens", "refused: differs by 1e-01"],
        ["| b", "4 tokens", "2.00"],
        ["| b", "9 tokens", "4.00"],
    ]
    assert "1 of 4 lines were refused." in first
    assert "No line was refused." in second
    assert "](figures/cost-some.svg)" in first
    assert "svg" not in second
    assert "Ceiling: 2 G multiply-adds a second in float32." in first


def test_an_unknown_part_is_said(capsys) -> None:
    assert page.main(["nothing"]) == 2
    assert "tokens, maps" in capsys.readouterr().err


def test_a_brief_page_says_so(tmp_path) -> None:
    measured = [(page.PARTS[0], Bench(MACHINE, {"float32": 2e9}, False, 1, [row("a", 4, 0.001)]))]
    for command, brief in (("python -m benchmarks.page", False), ("python -m benchmarks.page --brief", True)):
        (written,) = page.write_page(measured, tmp_path, command)
        assert ("a brief run" in written.read_text()) == brief


def test_the_page_in_the_docs_is_of_these_parts() -> None:
    text = (DOCS / "cost.md").read_text(encoding="utf8")
    titles = {part.title: part for part in page.PARTS}
    assert re.search(r"^Made by `python -m benchmarks\.page[a-z -]*` on \d{4}-\d\d-\d\d", text, re.MULTILINE)
    sections = text.split("\n## ")[1:]
    assert sections
    for section in sections:
        part = titles[section.partition("\n")[0]]
        sizes = part.settings.tokens if subject(part.settings.names[0]).unit == "tokens" else part.settings.pixels
        assert (f"](figures/cost-{part.name}.svg)" in section) == (len(sizes) > 1)
        assert (DOCS / "figures" / f"cost-{part.name}.svg").exists() == (len(sizes) > 1)
        assert {line.split(" | ")[0].strip("| ") for line in section.splitlines() if line.startswith("| ")} == {"name", "---", *part.settings.names}
