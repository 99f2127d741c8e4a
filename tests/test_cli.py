"""The command line: what it prints, what it leaves, and how it refuses."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveal
from foveal.attention import list_attentions
from foveal.cli import VERBS, main
from foveal.lab.recipes import get_recipe, list_recipes, smoke
from foveal.lab.training import Recipe, evaluate, load_run, read_json, write_json
from foveal.official import list_kinds
from tests.training.helpers import assert_same_weights, tiny, weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained from the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_json(folder / "tiny.json", tiny(steps=4, eval_every=2).to_dict())
    assert main(["train", "--from", str(folder / "tiny.json"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no table is cut."""
    monkeypatch.setenv("COLUMNS", "300")


def test_list_shows_every_name(capsys, wide) -> None:
    assert main(["list"]) == 0
    words = set(re.findall(r"[\w.-]+", capsys.readouterr().out))
    assert {*list_attentions(), *list_recipes(), *list_kinds()} <= words


def test_info_says_what_a_bug_report_needs(capsys) -> None:
    import torch

    assert main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"] == torch.__version__.partition("+")[0] or lines["torch"] == torch.__version__
    assert lines["foveal"] == foveal.__version__
    assert {"python", "timm", "accelerate", "device"} <= set(lines)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_usage_names_every_command(words, capsys) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    for verb in ("list", "train", "eval", "compare", "inspect", "doctor", "info"):
        assert re.search(rf"^  {verb} +\w", printed, re.MULTILINE)


def test_train_help_names_every_recipe_and_option(capsys) -> None:
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    names, lines = list_recipes(), printed.splitlines()
    columns = set()
    for name, about in names.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.endswith(f"  {about}")
        columns.add(line.index(about))
    assert len(columns) == 1
    assert "RECIPE [--smoke]" in printed
    with pytest.raises(SystemExit) as left:
        main(["train", "digits", "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--smoke", "--steps", "--optim.lr", "--data.seed", "--model.attention", "--task.mixup", "--out"):
        assert option in printed


def test_training_leaves_a_run(run, capsys) -> None:
    assert {path.name for path in run.iterdir()} >= {"recipe.json", "history.jsonl", "checkpoints", "model.safetensors", "metrics.json"}
    assert [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()] == [2, 4]


def test_from_repeats_a_run_and_options_change_it(run, tmp_path, capsys) -> None:
    assert main(["train", "--from", str(run / "recipe.json"), "--out", str(tmp_path / "again")]) == 0
    metrics = read_json(run / "metrics.json")
    assert f"test: accuracy {metrics['accuracy']:.1%}, loss {metrics['loss']:.3f}\n{tmp_path / 'again'}" in capsys.readouterr().out
    assert_same_weights(weights(tmp_path / "again"), weights(run))
    options = ["--seed", "3", "--steps", "2", "--optim.lr", "0.01", "--model.attention", "external"]
    assert main(["train", "--from", str(run / "recipe.json"), *options, "--out", str(tmp_path / "other")]) == 0
    other = Recipe.from_dict(read_json(tmp_path / "other" / "recipe.json"))
    assert (other.seed, other.steps, other.optim.lr, other.model.attention) == (3, 2, 0.01, "external")
    assert other.data == tiny().data


def test_a_recipe_by_name_with_options(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data.source", "digits", "--steps", "1", "--batch-size", "8", "--trackers"]
    assert main(["train", "digits", *options]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-")
    printed = capsys.readouterr().out
    assert str(Path("runs") / folder.name) in printed
    assert printed.splitlines()[-4:] == [
        "next:",
        *(f"  foveal {word}" for word in (f"eval runs/{folder.name}", f"inspect runs/{folder.name} IMAGE", f"export runs/{folder.name} --to onnx")),
    ]
    assert Recipe.from_dict(read_json(folder / "recipe.json")).steps == 1


@pytest.mark.parametrize("words", [["digits", "--smoke"], ["--smoke", "digits"], ["--from", "recipe.json", "--smoke"]], ids=" ".join)
def test_a_smoke_is_small_keeps_the_options_and_says_what_it_is(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "recipe.json", get_recipe("digits").to_dict())
    options = ["--data.source", "digits", "--optim.lr", "0.01", "--task.mixup", "0.3", "--share-initial-weights", "True"]
    assert main(["train", *words, *options]) == 0
    assert "a smoke run" in capsys.readouterr().out.splitlines()[-1]
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("smoke-")
    recipe = Recipe.from_dict(read_json(folder / "recipe.json"))
    asked = get_recipe("digits")
    asked = replace(asked, data=replace(asked.data, source="digits"), optim=replace(asked.optim, lr=0.01), task=replace(asked.task, mixup=0.3))
    assert recipe == smoke(replace(asked, share_initial_weights=True))
    assert recipe.steps < asked.steps


def test_a_run_that_is_no_smoke_does_not_say_so(run, tmp_path, capsys) -> None:
    assert main(["train", "--from", str(run / "recipe.json"), "--out", str(tmp_path / "again")]) == 0
    assert "a smoke run" not in capsys.readouterr().out


def test_resume_goes_on_to_the_same_weights(run, tmp_path) -> None:
    """A run of which only the checkpoint of the second step is left."""
    from foveal.lab.training import Interrupted, fit, loop

    recipe = tiny(steps=4, eval_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Stopping, "agreed", lambda self, flag, step, due: step == 2)
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert_same_weights(weights(tmp_path / "run"), weights(run))


def test_eval_prints_and_writes_the_metrics(run, capsys, wide) -> None:
    assert main(["eval", str(run)]) == 0
    printed, written = capsys.readouterr().out, read_json(run / "eval.json")
    recipe, bundle, model = load_run(run)
    assert written == {name: evaluate(model, split, recipe, bundle) for name, split in (("val", bundle.val), ("test", bundle.test))}
    assert written["test"]["accuracy"] == read_json(run / "metrics.json")["accuracy"]
    assert f"{written['test']['loss']:.4f}" in printed


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "three.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_inspect_draws_the_maps(run, picture, tmp_path, capsys) -> None:
    assert main(["inspect", str(run), str(picture), "--out", str(tmp_path / "maps")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"predicted \d with probability \d+%", printed)
    page = (tmp_path / "maps" / "maps.html").read_text()
    # three layers with three maps each; in every row the image, the mean and six heads
    assert page.count("<img ") == 9 * 8
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    with Image.open(tmp_path / "maps" / "maps.png") as sheet:
        assert sheet.width > sheet.height / 9 * 8 * 0.8
    assert main(["inspect", str(run), str(picture)]) == 0
    assert (run / "inspect-three" / "maps.png").exists()


BAD = [
    (["trian"], "unknown command 'trian'; did you mean train"),
    (["train", "clutered-digits"], "unknown recipe 'clutered-digits'; did you mean cluttered-digits"),
    (["train", "--from"], "--from needs a file"),
    (["train", "--from", "nowhere.json"], "nowhere.json does not exist"),
    (["train", "--from", "broken.json"], "broken.json holds no JSON"),
    (["train", "--from", "list.json"], "expected recipe to be a JSON object"),
    (["train", "--from", "typo.json"], "unknown field of Recipe 'stepps'; did you mean steps"),
    (["train", "--smoke"], "unknown recipe '--smoke'"),
    (["train", "--resume", "nowhere", "--smoke"], "--smoke"),
    (["train", "--resume", "nowhere"], "is no run: it has no recipe.json"),
    (["train", "--from", "RUN/recipe.json", "--out", "RUN"], "holds a run already; continue it with --resume"),
    (["train", "--from", "RUN/recipe.json", "--model.attention", "sofmax", "--out", "new"], "unknown attention 'sofmax'; did you mean softmax"),
    (["train", "--from", "RUN/recipe.json", "--model.patch-size", "5", "--out", "new"], "patches of side 5 do not tile an image of side 16"),
    (["train", "--from", "RUN/recipe.json", "--data.source", "digits", "--data.cells", "0", "--out", "new"], "more cells than distractors"),
    (["train", "--from", "RUN/recipe.json", "--steps", "0", "--out", "new"], "must be at least 1"),
    (["train", "--from", "RUN/recipe.json", "--steps", "many", "--out", "new"], "many"),
    (["train", "image-folder", "--data.root", "nowhere", "--out", "new"], "nowhere does not exist; expected a folder"),
    (["train", "image-folder", "--data.root", "typo.json", "--out", "new"], "typo.json is a file; expected a folder"),
    (["train", "digits", "--speed", "9"], "--speed"),
    (["eval"], "run"),
    (["eval", "nowhere"], "nowhere is no run"),
    (["eval", "unfinished"], "unfinished has not finished; go on with: foveal train --resume"),
    (["inspect", "RUN", "nowhere.png"], "cannot read the image nowhere.png"),
    (["inspect", "RUN", "broken.json"], "cannot read the image broken.json"),
    (["inspect", "nowhere", "three.png"], "nowhere is no run"),
    (["compare", "--data", "nowhere", "--out", "c"], "nowhere does not exist"),
    (["compare", "--attentions", "denoisng", "--out", "c"], "did you mean denoising"),
    (["compare", "--seeds", "0", "--out", "c"], "seeds must be at least 1"),
    (["compare", "--steps", "5", "--minutes-per-run", "1", "--out", "c"], "not both"),
    (["train", "digits", "--out", "three.png"], "three.png is a file"),
    (["compare", "--out", "three.png/within"], "three.png is a file"),
    (["inspect", "RUN", "three.png", "--out", "three.png"], "three.png is a file"),
    (["compare", "--jobs", "0", "--out", "c"], "jobs must be at least 1"),
    (["compare", "--jobs", "-1", "--out", "c"], "jobs must be at least 1"),
    (["list", "everything"], "everything"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_ends_with_a_message_and_code_2(words, says, run, picture, monkeypatch, capsys) -> None:
    here = picture.parent
    (here / "broken.json").write_text("{")
    (here / "list.json").write_text("[]")
    write_json(here / "typo.json", tiny().to_dict() | {"stepps": 4})
    write_json(here / "unfinished" / "recipe.json", tiny().to_dict())
    monkeypatch.chdir(here)
    # a comparison that is refused must be refused before it starts
    monkeypatch.setattr("foveal.lab.compare.workers.pool", lambda *a, **b: pytest.fail("the comparison started"))
    # tyro wraps its messages at the width of the terminal
    monkeypatch.setenv("COLUMNS", "300")
    try:
        code = main([word.replace("RUN", str(run)) for word in words])
    except SystemExit as left:
        code = left.code
    printed = capsys.readouterr()
    assert code == 2, printed
    assert says in printed.err
    assert "Traceback" not in printed.err
    assert not (here / "new" / "model.safetensors").exists()


def test_a_refused_comparison_does_not_claim_its_folder(tmp_path) -> None:
    assert main(["compare", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "c")]) == 2
    assert not (tmp_path / "c" / "plan.json").exists()


def test_from_a_shell(tmp_path) -> None:
    """The same through a process: exit code, nothing but the message, and the installed command."""
    command = Path(sys.executable).with_name("foveal")
    done = subprocess.run([command, "trian"], capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"foveal: unknown command 'trian'; did you mean train? known: {', '.join(sorted(VERBS))}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["foveal", "foveal.cli"])
def test_as_a_module(module, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [module, "trian"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert left.value.code == 2
    assert "unknown command 'trian'; did you mean train?" in capsys.readouterr().err


def test_interrupted_training_says_how_to_go_on(run, tmp_path, monkeypatch, capsys) -> None:
    from foveal.lab.training import loop

    monkeypatch.setattr(loop.Stopping, "agreed", lambda self, flag, step, due: True)
    assert main(["train", "--from", str(run / "recipe.json"), "--out", str(tmp_path / "run")]) == 130
    assert f"foveal: stopped and saved at step 1; go on with: foveal train --resume {tmp_path / 'run'}" in capsys.readouterr().err


def test_help_on_training_waits_for_nothing_that_trains() -> None:
    """Its names are read off files; that they are all there is seen above."""
    code = "import sys; from foveal.cli import main; main(['train', '--help']); print(sorted({'torch', 'timm', 'accelerate'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("compare", "doctor")])
def test_a_verb_without_a_word_says_what_it_needs_or_what_there_is(verb, capsys) -> None:
    code = main([verb])
    said = capsys.readouterr()
    assert (code, bool(said.out), bool(said.err)) in ((0, True, False), (2, False, True))


def test_compare_without_a_word_is_the_comparison_of_the_readme(tmp_path, monkeypatch) -> None:
    """``make compare`` gives it none."""
    begun = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foveal.cli._compare.run_and_report", lambda plan, out, words, **options: begun.append((plan, out, words)))
    assert main(["compare"]) == 0
    ((plan, out, words),) = begun
    assert (len(plan.arms), len(plan.seeds), str(out), words) == (5, 6, "runs/compare", [])
