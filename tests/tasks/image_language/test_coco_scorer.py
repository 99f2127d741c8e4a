"""The COCO evaluation as an extra: our CIDEr-D is its CIDEr, to rounding, and without it there is one line."""

import sys

import pytest

from foveal.lab.tasks.caption_metrics import CiderD, coco_scores
from tests.tasks.image_language.test_metrics import corpus


@pytest.mark.parametrize("seed", range(3))
def test_our_cider_is_theirs(seed) -> None:
    pytest.importorskip("pycocoevalcap")
    said, references = corpus(seed, images=40)
    theirs, notes = coco_scores([" ".join(one) for one in said], [[" ".join(one) for one in own] for own in references])
    ours = CiderD(references)
    assert not notes
    assert theirs["CIDEr"] == pytest.approx(sum(ours.score(one, own) for one, own in zip(said, references, strict=True)) / len(said), abs=1e-12)
    assert set(theirs) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"}
    perfect, _ = coco_scores([" ".join(own[0]) for own in references], [[" ".join(one) for one in own] for own in references])
    assert perfect["Bleu_1"] == pytest.approx(1)
    assert perfect["ROUGE_L"] == pytest.approx(1)


def test_java_is_named_where_it_is_not(monkeypatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr("shutil.which", lambda name: None)
    _, notes = coco_scores(["a cat", "a dog"], [["a cat"], ["a dog runs"]], java=True)
    assert notes == ["METEOR and SPICE are programs in Java, which is not on the PATH; they were left out"]


def test_without_the_package_one_line_names_the_extra(monkeypatch) -> None:
    for name in [*(name for name in sys.modules if name.startswith("pycocoevalcap")), "pycocoevalcap"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install \"foveal\[captions\]\""):
        coco_scores(["a cat", "a dog"], [["a cat"], ["a dog"]])


@pytest.mark.parametrize(
    ("captions", "references", "said"),
    [
        (["a"], [["a"], ["b"]], "got 2 and 1"),
        (["a"], [["a"]], "at least 2 captions, got 1"),
        ([], [], "at least 2 captions, got 0"),
        (["a", "b"], [["a"], []], "image 1 has no references"),
    ],
)
def test_what_is_refused(captions, references, said) -> None:
    with pytest.raises(ValueError, match=said):
        coco_scores(captions, references)


def test_a_run_is_judged_by_it_where_it_is_asked_for(monkeypatch, tmp_path) -> None:
    """With a stand-in for the package: what it is given are the captions of the test and their references, as texts."""
    from dataclasses import replace

    import foveal.lab.tasks.captioning as captioning
    from foveal.lab.recipes import get_recipe, smoke
    from foveal.lab.training import load_data

    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    recipe = smoke(get_recipe("scene-captions"), steps=2, batch_size=4)
    bundle, task, given = load_data(recipe.data), replace(recipe.task, coco=True), []
    monkeypatch.setattr(captioning, "coco_scores", lambda *texts, java: given.append(texts) or ({"Bleu_1": 0.5, "CIDEr": 1.5}, ["a note"]))
    model = recipe.model.build(**task.model_kwargs(bundle)).eval()
    assert task.assess(model, bundle, tmp_path) == {"coco_bleu_1": 0.5, "coco_cider": 1.5, "notes": ["a note"]}
    captions, references = given[0]
    assert len(captions) == len(references) == len(bundle.test)
    assert references[3] == [bundle.said(row) for row in bundle.test[3][1]["references"]]
    assert not any("<" in text for own in references for text in own)
    assert recipe.task.assess(model, bundle, tmp_path) == {}
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.setattr("foveal._errors.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"foveal\[captions\]"):
        task.check_data(bundle)
