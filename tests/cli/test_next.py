"""Commands end with what can come next, and what they name is taken."""

import re
from pathlib import Path

import pytest

from foveal.cli import VERBS, main
from foveal.cli._next import after_comparison, next_lines, with_run
from foveal.lab.recipes import get_recipe, list_recipes
from foveal.lab.tasks import TASKS


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_names_verbs_that_there_are(name) -> None:
    words = with_run(TASKS[name](), "runs/a b")
    assert words[0] == "eval 'runs/a b'"
    assert all(word.split()[0] in VERBS for word in words)
    assert with_run(TASKS[name](), "runs/a b", judged=True) == words[1:]


def test_what_is_not_taken_is_not_named() -> None:
    """Clouds are no images, and videos none either."""
    said = {name: " ".join(with_run(get_recipe(name).task, "R")) for name in ("furniture", "moving-digits", "shift-stereo", "digits", "flag-swap")}
    assert "IMAGE" not in said["furniture"]
    assert "inspect R VIDEO" in said["moving-digits"]
    assert "inspect R LEFT --right RIGHT" in said["shift-stereo"]
    assert "inspect R IMAGE" in said["digits"]
    assert "inspect R IMAGE" in said["flag-swap"]
    assert len(list_recipes()) > 50


@pytest.mark.parametrize(("seeds", "named"), [(None, False), (2, False), (31, True)])
def test_a_comparison_says_how_many_seeds_would_settle_it(seeds, named) -> None:
    results = {"plan": {"seeds": [4, 5]}, "comparisons": [{"arm": "external", "against": "softmax", "seeds_to_settle": seeds}]}
    words = after_comparison(results, get_recipe("digits").task, Path("runs/compare"))
    assert words[0] == "eval runs/compare/external/seed-4"
    assert any("--seeds 31" in word for word in words) == named
    assert after_comparison(results | {"comparisons": []}, None, Path("x")) == []
    assert next_lines([]) == ""


def test_an_export_says_how_its_file_is_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "test_vit", "--to", "pt2", "--img-size", "160"]) == 0
    printed = capsys.readouterr().out
    code = re.search(r"^  (torch\.export\.load\(.*?\)\.module\(\)\(images\))", printed, re.MULTILINE)[1]
    import torch

    assert eval(code, {"torch": torch, "images": torch.randn(2, 3, 160, 160)}).shape == (2, 1000)
