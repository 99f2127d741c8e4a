"""``foveal list``: no line is wider than the terminal, and words choose."""

import re

import pytest

from foveal.attention import list_attentions
from foveal.cli import main
from foveal.lab.data import DATA, SOURCES
from foveal.lab.recipes import list_recipes
from foveal.official import list_kinds


def listed(capsys, *words: str) -> str:
    assert main(["list", *words]) == 0
    return capsys.readouterr().out


def names(printed: str) -> set[str]:
    """First words of the lines of entries, which stand in the fifth column."""
    return set(re.findall(r"^ {4}(\S+)", printed, re.MULTILINE))


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("words", [(), ("recipes",), ("attentions",), ("checkpoints",)], ids=lambda words: "".join(words) or "all")
def test_no_line_is_wider_than_the_terminal(columns, words, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    printed = listed(capsys, *words)
    wide = [line for line in printed.splitlines() if len(line) > columns]
    assert not wide, wide
    known = {"recipes": set(list_recipes()), "attentions": set(list_attentions()), "checkpoints": set(list_kinds())}
    whole = set(re.findall(r"[\w.-]+", printed))
    # no name is cut at a hyphen
    assert all(known[word] <= whole for word in words or known)


def test_all_names_fit_a_page(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert len(listed(capsys).splitlines()) < len(list_recipes()) + len(list_attentions())


def test_words_choose_by_name_group_and_description(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert names(listed(capsys, "memory", "attentions")) == set(list_attentions(family="memory"))
    assert names(listed(capsys, "attentions", "feature maps")) >= set(list_attentions(form="2d"))
    coco = {name for name in list_recipes() if name.startswith("coco-")}
    assert names(listed(capsys, "recipes", "coco-*")) == coco
    # all words, wherever they stand and however they are written
    assert names(listed(capsys, "COCO", "recipes", "halo")) == {"coco-halo"}
    both = listed(capsys, "halo")
    assert {"halo_2d", "coco-halo", "halo.timm"} <= names(both.replace("  halo.timm", "\n    halo.timm"))
    assert "COCO: Mask R-CNN with halo attention" in both


def test_networks_come_where_they_are_asked_for(capsys) -> None:
    printed = listed(capsys, "models", "dna_vit_base")
    assert names(printed) == {"fov_dna_vit_base_patch16_224"}
    assert "not reproduced" in re.sub(r"\s+", " ", printed)
    assert "fov_" not in listed(capsys)


@pytest.mark.parametrize("words", [["everything"], ["recipes", "denoisng"], ["attentions", "coco"], ["softmax", "nothing-like-it"]], ids=" ".join)
def test_words_that_fit_nothing_are_an_error(words, capsys) -> None:
    assert main(["list", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert repr(words[-1]) in printed.err


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_data_fit_the_terminal(columns, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if len(line) > columns] == []
    assert {*DATA, *SOURCES} <= set(re.findall(r"[\w.-]+", printed))


def test_data_are_chosen_by_words(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["data", "list", "disparity", "stereo"]) == 0
    chosen = names(capsys.readouterr().out)
    assert "ShiftStereo" in chosen
    assert chosen <= {name for name in DATA if DATA[name].targets == "disparity"} | set(SOURCES)
    assert main(["data", "list", "nothing-like-it"]) == 2
    assert "foveal data list shows all" in capsys.readouterr().err
