"""One set of weights has one evaluation: what training writes is what ``foveal eval`` says of it, bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection, PearsonCorrCoef

from foveal import InputError
from foveal.cli import main
from foveal.lab.tasks import Classification
from foveal.lab.training import Optim, Recipe, build_model, evaluate, fit, judging, latest_checkpoint, load_data, read_checkpoint
from foveal.timm import TimmModel
from tests.tasks.test_detection import RECIPE as DETECTION
from tests.tasks.test_segmentation import RECIPE as SEGMENTATION
from tests.training.helpers import tiny
from tests.training.test_loop import launch

BATCH_NORM = TimmModel(name="test_efficientnet")


def recipe_of(precision: str, ema: bool, batch_norm: bool) -> Recipe:
    changes: dict[str, Any] = {"model": BATCH_NORM} if batch_norm else {}
    return tiny(precision=precision, optim=Optim(lr=2e-2, ema=0.6 if ema else None), steps=5, eval_every=5, **changes)


def assert_eval_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["eval", str(run)]) == 0
    capsys.readouterr()
    trained, judged = (json.loads((run / name).read_text()) for name in ("metrics.json", "eval.json"))
    assert {name: trained[name] for name in judged["test"]} == judged["test"]
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert {name: last[f"val_{name}"] for name in judged["val"]} == judged["val"]
    return judged["test"]


@pytest.mark.case("R4")
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_and_eval_give_the_same_numbers(precision, ema, batch_norm, tmp_path, capsys) -> None:
    fit(recipe_of(precision, ema, batch_norm), tmp_path / "run", quiet=True)
    assert_eval_says_the_same(tmp_path / "run", capsys)


SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("no", False), ("no", True), ("bf16", False))]


@pytest.mark.case("R4", "R5")
@pytest.mark.parametrize(("precision", "ema"), [*SLOW, ("bf16", True)])
def test_two_processes_and_eval_give_the_same_numbers(precision, ema, tmp_path, monkeypatch, capsys) -> None:
    """With batch norm, whose statistics are other ones in each process, and in the average of each; in batches so small that both have some."""
    monkeypatch.setattr(Classification, "eval_batch_size", 4)
    recipe = recipe_of(precision, ema, batch_norm=True)
    done = launch(2, recipe, tmp_path / "run", "--eval-batch", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    got = assert_eval_says_the_same(tmp_path / "run", capsys)
    # and against statistics by hand: a float64 network in its saved state
    saved = read_checkpoint(latest_checkpoint(tmp_path / "run"), recipe.to_dict())
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle).double()
    model.load_state_dict(saved["ema"] if ema else saved["weights"])
    with torch.no_grad():
        logits = model.eval()(torch.stack([bundle.test[n][0] for n in range(len(bundle.test))]).double())
    labels = torch.tensor([bundle.test[n][1] for n in range(len(bundle.test))])
    assert got["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert got["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


class Rank:
    def __init__(self, rank: int, world: int) -> None:
        self.process_index, self.num_processes = rank, world


class Gathered(Exception):
    pass


@pytest.mark.case("R5")
@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("recipe", [tiny(), SEGMENTATION, DETECTION], ids=["classification", "segmentation", "detection"])
def test_any_number_of_processes_counts_as_one(recipe, world, monkeypatch) -> None:
    """Each rank in turn, their parts put in the place of what the wire would bring, in an order of the wire's own."""
    recipe = replace(recipe, model=recipe.model)
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    monkeypatch.setattr(type(recipe.task), "eval_batch_size", 3)
    monkeypatch.setattr(judging, "_share_buffers", lambda model: None)
    alone = evaluate(model, bundle.test, recipe, bundle)
    parts: list[list[Any]] = []

    def send(piece: list[Any]) -> list[Any]:
        parts.append(piece)
        if len(parts) < world + 1:
            raise Gathered
        return [entry for part in reversed(parts[:world]) for entry in part]

    monkeypatch.setattr(judging, "gather_object", send)
    for rank in range(world):
        with pytest.raises(Gathered):
            evaluate(model, bundle.test, recipe, bundle, Rank(rank, world))  # type: ignore[arg-type]
    assert evaluate(model, bundle.test, recipe, bundle, Rank(0, world)) == alone  # type: ignore[arg-type]


class Correlated(Classification):
    """With a metric whose states no sum puts together."""

    def metrics(self, bundle: Any) -> MetricCollection:
        return MetricCollection({"accuracy": PearsonCorrCoef(), "loss": MeanMetric()})

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        metrics["accuracy"].update(outputs[:, 0], targets.float())
        metrics["loss"].update(outputs.mean())


@pytest.mark.case("R5")
def test_metrics_that_cannot_be_put_together_work_in_one_process_and_are_refused_in_more(monkeypatch) -> None:
    recipe = tiny(task=Correlated())
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    monkeypatch.setattr(Correlated, "eval_batch_size", 7)
    got = evaluate(model, bundle.test, recipe, bundle)
    with torch.no_grad():
        first = torch.stack([model(bundle.test[n][0][None])[0, 0] for n in range(30)]).double()
    labels = torch.tensor([bundle.test[n][1] for n in range(30)]).double()
    assert got["accuracy"] == pytest.approx(torch.corrcoef(torch.stack([first, labels]))[0, 1].item(), abs=1e-4)
    monkeypatch.setattr(judging, "_share_buffers", lambda model: None)
    with pytest.raises(InputError, match="processes cannot share them"):
        evaluate(model, bundle.test, recipe, bundle, Rank(0, 2))  # type: ignore[arg-type]
