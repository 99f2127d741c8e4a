"""``foveal inspect`` of runs with visual probes: the table, what is written, what is refused."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal.cli import main
from foveal.lab.data import ClipQuestions
from foveal.lab.inspect import inspect_probes, load_model, resolve_model
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.training import fit, load_run
from foveal.models import VideoLanguage

pytest.importorskip("transformers")
DATA = ClipQuestions(train_clips=8, val_clips=3, test_clips=6, tower_steps=2)
RECIPE = replace(get_recipe("clip-questions"), data=DATA, steps=1, batch_size=8, eval_every=1, checkpoint_every=1, trackers=())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        for arm in ("softmax-published", "question-only"):
            fit(replace(RECIPE, model=VideoLanguage().arms()[arm].model), folder / arm, quiet=True)
        yield folder


def test_a_run_and_a_sample_of_its_test(runs, capsys) -> None:
    run = runs / "softmax-published"
    assert main(["inspect", str(run), "test:2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("clip: direction: ")
    assert lines[1].startswith("answer: ")
    assert lines[2].startswith("4 softmax probes, no residual, tokens as they are; 1 sample, float32")
    assert [line.split()[0] for line in lines[4:8]] == ["P_0", "layer", "layer", "layer"]
    folder = run / "inspect-test-2"
    assert [Path(line).name for line in lines[8:]] == ["probes.csv", "probes.png", "probes.html"]
    with (folder / "probes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["P_0", "0", "1", "2"]
    assert [f"{float(row['similarity']):.6f}" for row in rows] == [line.split()[-2 if place else 1] for place, line in enumerate(lines[4:8])]
    # what every evaluation says of a run's probes, here of this sample alone
    recipe, bundle, model = load_run(run)
    with torch.no_grad():
        alike = recipe.task.predict(model.eval(), recipe.task.collate([bundle.test[2]])[0])[1]
    assert float(rows[-1]["similarity"]) == pytest.approx(float(alike), abs=1e-6)
    assert float(rows[1]["gradient"]) < 1e-4 * float(rows[3]["gradient"])
    page = (folder / "probes.html").read_text()
    assert page.count("<img ") == 2
    assert f"cosine of two probes {float(rows[-1]['similarity']):.6f} at the end" in page


def test_videollama_in_miniature(runs, capsys) -> None:
    """Its task draws no samples."""
    pytest.importorskip("peft")
    fit(replace(smoke(get_recipe("viscop-dna")), steps=1, trackers=()), runs / "viscop-dna", quiet=True)
    capsys.readouterr()
    assert main(["inspect", str(runs / "viscop-dna"), "test:1", "--out", str(runs / "own")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("16 denoising probes, no residual")
    assert [line.split()[0] for line in lines[2:6]] == ["P_0", "layer", "layer", "layer"]
    assert [path.name for path in (runs / "own").iterdir()] == ["probes.csv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("question-only", "test:0"), "question-only has no visual probes: its model.num_probes is 0; inspect a run that was trained with"),
        (("softmax-published", "picture.png"), "picture.png does not say what is asked about it, and softmax-published answers questions; give test:NUMBER"),
        (("softmax-published", "clip.mp4"), "clip.mp4 does not say what is asked"),
        (("softmax-published", "test:6"), "expected test:NUMBER with a number from 0 to 5, got test:6"),
        (("softmax-published", "test:x"), "expected test:NUMBER"),
        (("softmax-published", "test:0", "--truth", "1"), "leave out --right, --against and --truth"),
    ],
)
def test_what_is_refused(words, said, runs, capsys) -> None:
    assert main(["inspect", str(runs / words[0]), *words[1:]]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert not list((runs / words[0]).glob("inspect-clip*"))


def test_no_run_is_named(runs) -> None:
    loaded = load_model(resolve_model("test_vit"), weights="random")
    with pytest.raises(ValueError, match=r"is no run; of any other model ask foveal\.models\.probes\.probe_collapse_in"):
        inspect_probes(loaded, "test:0", runs, title="")
