"""Runs that learn to answer questions about scenes."""

from dataclasses import replace

import pytest
import torch

from foveal.lab.compare import make_plan
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.training import build_model, evaluate, fit, load_data, load_run
from foveal.models import ImageAnswerer

RECIPE = smoke(get_recipe("scene-questions"), steps=4, batch_size=8)


@pytest.mark.parametrize("name", ["dictionary-kmeans", "question-only"])
def test_a_run_from_data_to_pictures(name, tmp_path) -> None:
    metrics = fit(replace(RECIPE, model=RECIPE.model.arms()[name].model), tmp_path / "run", quiet=True)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {"answers.png", "attention.html"}
    assert {"accuracy", "exists", "what", "count", "larger", "shuffled_accuracy"} <= set(metrics)
    assert (metrics["shuffled_accuracy"] == metrics["accuracy"]) or name != "question-only"
    _, bundle, model = load_run(tmp_path / "run")
    assert evaluate(model, bundle.test, RECIPE, bundle)["accuracy"] == metrics["accuracy"]
    truth, said = RECIPE.task.draw_truth([bundle.test[0]], bundle), RECIPE.task.shown(model, [bundle.test[0]], bundle)
    assert truth[0].cells[0].caption.startswith("is there a")
    assert said[0].cells[0].wrong == (said[0].cells[0].caption != truth[0].cells[0].caption.rpartition(" ")[2])


def test_a_test_without_all_kinds_has_its_picture(tmp_path) -> None:
    """And each share stands beside the chance of its own kind."""
    bundle = load_data(replace(RECIPE.data, test_scenes=3))
    model = build_model(RECIPE, bundle).eval()
    metrics = evaluate(model, bundle.test, RECIPE, bundle)
    assert "larger" not in metrics
    titles = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.suptitle", lambda self, text, **options: titles.append(text))
        RECIPE.task.write_report(model, bundle, metrics | {"exists": 0.7, "what": 0.2, "count": 0.4}, tmp_path)
        RECIPE.task.write_report(model, bundle, {"accuracy": 0.3, "count": 0.4}, tmp_path)
    assert "exists 0.700 (chance 0.50), what 0.200 (chance 0.11), count 0.400 (chance 0.25);" in titles[0]
    assert "count 0.400 (chance 0.25);" in titles[1]


def test_accuracy_is_how_right_the_likeliest_answer_is() -> None:
    bundle, task = load_data(RECIPE.data), RECIPE.task
    targets = torch.zeros(4, 1 + len(bundle.answers))
    targets[:, 0] = torch.tensor([0.0, 0.0, 1.0, 3.0])
    targets[0, 3], targets[1, 3], targets[2, 2], targets[3, 1] = 1.0, 0.3, 0.6, 1.0
    outputs = torch.zeros(4, len(bundle.answers))
    outputs[:, 2] = 1.0
    metrics = task.metrics(bundle)
    for part in (slice(0, 1), slice(1, 4)):
        task.update(metrics, outputs[part], targets[part])
    found = task.summarize(metrics, bundle)
    assert found == pytest.approx({"accuracy": 1.3 / 4, "exists": 1.3 / 2, "what": 0.0, "larger": 0.0})
    assert task.per_sample(outputs, targets).tolist() == pytest.approx([1.0, 0.3, 0.0, 0.0])
    assert task.chance(bundle) == pytest.approx((1 / 2 + 1 / 9 + 1 / 4 + 1 / 2) / 4)


def test_arms_of_a_comparison_are_runs() -> None:
    plan = make_plan(RECIPE)
    assert {arm.name for arm in plan.arms} == set(ImageAnswerer.default_arms)
