"""Questions about regions: loss and score by hand, pictures, and a run from data to report."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import foveal
from foveal.lab.data import RegionScenes
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import RegionAnswers
from foveal.lab.tasks._region_report import _taken, draw_regions
from foveal.lab.training import build_model, fit, load_data, load_run
from foveal.models import Lxmert

DATA = {images: RegionScenes(images=images, train_scenes=24, val_scenes=6, test_scenes=12) for images in (1, 2)}
MODEL = Lxmert(width=16, num_heads=2, l_layers=1, r_layers=1, x_layers=2, entries_vision=6, entries_language=5, dropout=0.0)
RECIPE = replace(get_recipe("region-questions"), data=DATA[1], model=MODEL, steps=4, batch_size=8, eval_every=2, checkpoint_every=4, trackers=())


def test_loss_and_score_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
    scores = torch.tensor([[0.3, 1.0, 0.0], [0.0, 0.6, 0.0]])
    chances = 1 / (1 + np.exp(-logits.numpy().astype(float)))
    want = -(scores.numpy() * np.log(chances) + (1 - scores.numpy()) * np.log(1 - chances)).sum(1).mean()
    assert RegionAnswers().loss(nn.Identity(), logits, scores).item() == pytest.approx(want, rel=1e-5)
    soft = np.exp(logits.numpy().astype(float))
    between = -np.log((soft / soft.sum(1, keepdims=True))[[0, 1], [1, 1]]).mean()
    assert RegionAnswers(between="answers").loss(nn.Identity(), logits, scores).item() == pytest.approx(between, rel=1e-5)
    none = torch.zeros(1, 3)
    of_three = RegionAnswers(between="answers").loss(nn.Identity(), torch.cat([logits, torch.tensor([[9.0, 0.0, 0.0]])]), torch.cat([scores, none]))
    assert of_three.item() == pytest.approx(between, rel=1e-5), "one without an answer that counts is left out"
    alone = torch.tensor([[9.0, 0.0, 0.0]], requires_grad=True)
    nothing = RegionAnswers(between="answers").loss(nn.Identity(), alone, none)
    assert nothing.item() == 0, "and a batch of such has nothing to learn"
    nothing.backward()
    assert alone.grad.tolist() == [[0.0, 0.0, 0.0]]
    task, bundle = RegionAnswers(), load_data(DATA[1])
    metrics = task.metrics(bundle)
    task.update(metrics, logits[:1], scores[:1])
    task.update(metrics, logits[1:], scores[1:])
    found = task.summarize(metrics, bundle)
    assert found["score"] == pytest.approx((0.3 + 0.6) / 2)
    apart = RegionAnswers(between="answers")
    metrics = apart.metrics(bundle)
    apart.update(metrics, torch.cat([logits[:1], logits[:1]]), torch.cat([scores[:1], none]))
    apart.update(metrics, logits[1:], scores[1:])
    assert apart.summarize(metrics, bundle)["loss"] == pytest.approx(between, rel=1e-5), "of those that have one, in whatever batches"
    assert found["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_padding_and_neighbors_in_the_batch_do_not_matter(images) -> None:
    """A batch is its samples, and a pair of images is told in its order."""
    bundle, task = load_data(DATA[images]), RegionAnswers()
    model = build_model(replace(RECIPE, data=DATA[images], model=replace(MODEL, init="normal")), bundle).eval()
    samples = [bundle.test[n] for n in range(8)]
    assert len({len(inputs["input_ids"]) for inputs, _ in samples}) > 1
    cut = dict(samples[0][0])
    cut["features"], cut["boxes"] = [one[:4] for one in cut["features"]], [one[:4] for one in cut["boxes"]]
    samples[0] = (cut, samples[0][1])
    together = model(task.collate(samples)[0])
    for n, sample in enumerate(samples):
        assert (model(task.collate([sample])[0])[0] - together[n]).abs().max() < 1e-5


@pytest.mark.parametrize("images", [1, 2])
def test_what_words_take_from_regions(images) -> None:
    """Shares of all regions, over the words that are there."""
    bundle, task = load_data(DATA[images]), RegionAnswers()
    model = build_model(replace(RECIPE, data=DATA[images], model=replace(MODEL, catt="none")), bundle).eval()
    inputs, _ = task.collate([bundle.test[n] for n in range(4)])
    taken = _taken(model, inputs)
    assert taken.shape == (4, images, 6)
    assert (taken.sum(-1) - 1).abs().max() < 1e-5
    first, _ = task.collate([bundle.test[1]])
    seen = foveal.attention_maps(model.lxmert, {k: v[:, 0] if k.startswith("visual") and images == 2 else v for k, v in first.items()})
    want = seen["encoder.x_layers.1.visual_attention.att"]["combined"].mean((1, 2))
    assert (taken[1, 0] - want[0]).abs().max() < 1e-5


def test_boxes_are_drawn_where_they_lie_in_their_colors() -> None:
    inputs = {"boxes": [torch.tensor([[0.0, 0.0, 0.5, 0.5]])], "tints": [torch.tensor([[1.0, 0.0, 0.0]])]}
    picture = draw_regions(inputs)
    assert picture.shape == (120, 120, 3)
    assert (picture[30, 30] == [255, 64, 64]).all() or (picture[30, 30] == [255, 63, 63]).all()
    assert (picture[90, 90] == 255).all()
    two = draw_regions({name: value * 2 for name, value in inputs.items()})
    assert two.shape == (120, 242, 3)


@pytest.mark.parametrize("images", [1, 2])
def test_a_run_from_data_to_pictures(images, tmp_path) -> None:
    recipe = replace(RECIPE, data=DATA[images], task=RegionAnswers(between="answers" if images == 2 else "each"))
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert 0 <= metrics["score"] <= 1
    assert list((tmp_path / "run").rglob("answers.png"))
    again, bundle, model = load_run(tmp_path / "run")
    assert again == recipe
    assert model.lxmert.encoder.catt.dictionary_vision.fitted
    rows = recipe.task.shown(model, [bundle.test[n] for n in range(3)], bundle)
    assert [row.title for row in rows] == ["answer"]
    truth = recipe.task.draw_truth([bundle.test[0]], bundle)[0].cells[0]
    assert truth.caption.split()[-1] in bundle.classes
    assert recipe.task.cost(model, bundle).macs > 0


@pytest.mark.slow
def test_scenes_are_learned(tmp_path) -> None:
    """Well above guessing in a fraction of the recipe's steps; a question alone is not."""
    recipe = replace(get_recipe("region-questions"), steps=500, eval_every=500, checkpoint_every=500, trackers=())
    recipe = replace(recipe, data=RegionScenes(train_scenes=4000, val_scenes=50, test_scenes=1000), model=Lxmert(catt="none", dropout=0.0))
    assert fit(recipe, tmp_path / "run", quiet=True)["score"] > 0.5
