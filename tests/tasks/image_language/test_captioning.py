"""Runs that learn to say captions, from data to pictures."""

from dataclasses import replace

import pytest
import torch

from foveal.lab.compare import make_plan
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.tasks import SelfCritical
from foveal.lab.training import build_model, evaluate, fit, load_data, load_run
from foveal.models import Captioner

RECIPE = smoke(get_recipe("scene-captions"), steps=4, batch_size=8)


@pytest.mark.parametrize("name", ["none", "dictionary-kmeans"])
def test_a_run_from_data_to_pictures(name, tmp_path) -> None:
    model = replace(RECIPE.model, init="kmeans", catt="dictionary") if name != "none" else RECIPE.model
    metrics = fit(replace(RECIPE, model=model), tmp_path / "run", quiet=True)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == {
        "attention.html",
        "captions.png",
        "words.png",
        "unseen-captions.png",
        "unseen-words.png",
    }
    assert {"cider", "bleu_4", "words", "unseen_cider"} <= set(metrics)
    _, bundle, model = load_run(tmp_path / "run")
    assert evaluate(model, bundle.test, RECIPE, bundle)["cider"] == metrics["cider"]
    truth, said = RECIPE.task.draw_truth([bundle.test[0]], bundle), RECIPE.task.shown(model, [bundle.test[0]], bundle)
    assert truth[0].cells[0].caption == bundle.said(bundle.test[0][1]["references"][0])
    assert said[0].cells[0].picture.shape == (64, 64, 3)


def test_it_learns_by_heart() -> None:
    """What CIDEr-D, the search and the loss are about is one thing: on few scenes the captions become references."""
    bundle = load_data(RECIPE.data)
    model = build_model(replace(RECIPE, model=replace(RECIPE.model, width=64)), bundle)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    inputs, targets = RECIPE.task.collate([bundle.train[n] for n in range(8)])
    # one of the references, or it would be torn between five
    targets = [target | {"references": target["references"][:1]} for target in targets]
    torch.manual_seed(0)
    for _ in range(60):
        loss, _ = RECIPE.task.step(model.train(), model, inputs, targets, bundle)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = RECIPE.task.predict(model.eval(), inputs)
    assert torch.equal(said, torch.stack([target["references"][0] for target in targets]))


def test_arms_of_a_comparison_are_runs() -> None:
    plan = make_plan(RECIPE)
    assert [arm.name for arm in plan.arms] == list(Captioner.default_arms)
    assert RECIPE.task.cost(build_model(RECIPE, load_data(RECIPE.data)), load_data(RECIPE.data)).macs > 0


@pytest.mark.parametrize(("count", "says"), [("val_scenes", "validation"), ("test_scenes", "test"), ("train_scenes", "training")])
def test_splits_of_one_image_are_refused_before_training(count, says, tmp_path) -> None:
    """By which every CIDEr-D would be 0. Of the training only a reward asks it."""
    recipe = replace(RECIPE, data=replace(RECIPE.data, **{count: 1}), batch_size=1, task=SelfCritical() if says == "training" else RECIPE.task)
    with pytest.raises(ValueError, match=rf"{says} needs at least 2 images, got 1"):
        fit(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    RECIPE.task.check_data(load_data(replace(RECIPE.data, train_scenes=1)))


@pytest.mark.parametrize("change", [{"beams": 0}, {"label_smoothing": 1.0}, {"length_penalty": -0.5}])
def test_bad_settings_are_explained(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(RECIPE.task, **change)
