"""Stereo matching: loss and scores by a loop over pixels, and a run from made pairs to pictures of a real one."""

import json
import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from foveal import InputError
from foveal.cli import main
from foveal.lab.data import ShiftStereo
from foveal.lab.recipes import get_recipe, list_recipes
from foveal.lab.tasks import StereoMatching
from foveal.lab.tasks.stereo import StereoErrors, color_disparity
from foveal.lab.training import Optim, Recipe, evaluate, load_run, read_json
from foveal.models import PSMNet
from tests.tasks.contract import DenseContract

pytestmark = pytest.mark.skipif(find_spec("skimage") is None, reason="photographs lie in scikit-image")

RECIPE = Recipe(
    data=ShiftStereo(crop=(16, 32), max_disparity=16, train_pairs=12, val_pairs=3),
    model=PSMNet(width=4, blocks=(1, 1, 1, 1), pools=(4, 2), max_disparity=16),
    task=StereoMatching(),
    optim=Optim(lr=2e-3, ema=0.9),
    steps=4,
    batch_size=4,
    eval_every=2,
    checkpoint_every=2,
    trackers=(),
)


class Answering(nn.Module):
    max_disparity = 10

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, pair: Tensor) -> Tensor:
        return self.answer


def test_the_loss_is_the_weighted_smooth_l1_of_known_pixels() -> None:
    truth = torch.rand(2, 3, 4) * 20
    truth[0, :2] = float("nan")
    answer = (torch.rand(2, 3, 3, 4) * 10).requires_grad_()
    targets = [(part, -1) for part in truth]
    total, counted = 0.0, 0
    for b in range(2):
        for y in range(3):
            for x in range(4):
                if math.isfinite(truth[b, y, x]) and truth[b, y, x] < 10:
                    counted += 1
                    for weight, head in zip((0.5, 0.7, 1.0), range(3), strict=True):
                        off = abs(answer[b, head, y, x].item() - truth[b, y, x].item())
                        total += weight * (off**2 / 2 if off < 1 else off - 0.5)
    task = StereoMatching()
    loss = task.loss(Answering(answer), answer, targets)
    assert loss.item() == pytest.approx(total / counted, rel=1e-5)
    loss.backward()
    assert answer.grad is not None
    assert answer.grad.isfinite().all()
    assert not answer.grad.transpose(0, 1)[:, ~(truth < 10)].any()
    one = task.loss(Answering(answer), answer[:, -1:], targets)
    assert one.item() == pytest.approx(StereoMatching(head_weights=(1.0,)).loss(Answering(answer), answer[:, -1:], targets).item())
    nobody_knows = [(torch.full((3, 4), float("nan")), -1)] * 2
    assert task.loss(Answering(answer), answer, nobody_knows).item() == 0.0
    with pytest.raises(InputError, match="3 heads, and there are 2 head_weights"):
        StereoMatching(head_weights=(1.0, 1.0)).loss(Answering(answer), answer, targets)
    with pytest.raises(InputError, match="weights of at least 0"):
        StereoMatching(head_weights=())


def test_what_is_reported_in_training() -> None:
    truth = torch.tensor([[1.0, 2.0, float("nan")]])
    answer = torch.tensor([[[[1.5, 6.0, 9.0]]]])
    _, running = StereoMatching().step(Answering(answer), Answering(answer), torch.zeros(1, 6, 1, 3), [(truth, -1)], None)
    assert {name: value.item() for name, value in running.items()} == {"within_3px": 0.5, "epe": 2.25}


def test_scores_are_means_over_images_of_known_pixels() -> None:
    errors = StereoErrors(2)
    generator = torch.Generator().manual_seed(0)
    rows: dict[int, list[tuple[float, ...]]] = {0: [], 1: [], -1: []}
    for scene in (0, -1, -1, 1):
        truth = torch.rand(5, 7, generator=generator) * 150
        answer = truth + 6 * torch.randn(5, 7, generator=generator)
        truth[0] = float("nan")
        errors.update(answer, truth, scene)
        pairs = [(a.item(), t.item()) for a, t in zip(answer.flatten(), truth.flatten(), strict=True) if t == t]
        off = [abs(a - t) for a, t in pairs]
        over = [e > 3 for e in off]
        d1 = [e > 3 and e / t > 0.05 for e, (_, t) in zip(off, pairs, strict=True)]
        rows[scene].append((np.mean(off), np.mean(over), np.mean(d1)))
    errors.update(torch.zeros(2, 2), torch.full((2, 2), float("nan")), 0)
    got = errors.compute()
    for scene, images in rows.items():
        assert got[scene].tolist() == pytest.approx([*np.sum(images, axis=0), len(images)], rel=1e-5)
    assert got[-1, 2] < got[-1, 1], "an error of 3 px is less than 5 % of a large disparity"


def test_scenes_are_scored_by_themselves() -> None:
    bundle = replace(RECIPE.data.load(), scenes=("one", "two"))
    task = StereoMatching()
    metrics = task.metrics(bundle)
    truth = torch.full((4, 4), 2.0)
    task.update(metrics, torch.full((2, 1, 4, 4), 3.0), [(truth, 1), (truth + 7, 0)])
    got = task.summarize(metrics, bundle)
    assert got["per_class"] == {"one": {"epe": 6.0, "over_3px": 1.0, "d1": 1.0}, "two": {"epe": 1.0, "over_3px": 0.0, "d1": 0.0}}
    assert got["epe"] == 6.0, "that of the first scene, and no mean"
    metrics = task.metrics(bundle)
    task.update(metrics, torch.full((1, 1, 4, 4), 3.0), [(truth, -1)])
    assert task.summarize(metrics, bundle) == {"epe": 1.0, "over_3px": 0.0, "d1": 0.0}
    metrics = task.metrics(bundle)
    task.update(metrics, torch.full((1, 1, 4, 4), 3.0), [(0 * truth / 0, 0)])
    with pytest.raises(InputError, match="no pixel of known disparity"):
        task.summarize(metrics, bundle)


def test_pairs_of_unlike_sizes_are_a_list() -> None:
    task = StereoMatching()
    samples = [(torch.zeros(6, 16, side), (torch.zeros(16, side), -1)) for side in (16, 32)]
    inputs, targets = task.collate(samples)
    assert isinstance(inputs, list)
    assert len(targets) == 2
    net = RECIPE.model.build(img_size=32, in_chans=6, num_classes=0).eval()
    assert [tuple(out.shape) for out in task.predict(net, inputs)] == [(1, 16, 16), (1, 16, 32)]
    with pytest.raises(InputError, match="training needs pairs of one size"):
        task.step(net, net, inputs, targets, None)


def test_colors_tell_unknown_from_known() -> None:
    picture = color_disparity(torch.tensor([[0.0, 5.0, 10.0, float("nan"), 99.0]]), 0.0, 10.0)
    assert picture.shape == (1, 5, 3)
    assert picture[0, 3].tolist() == [90, 110, 200]
    assert picture[0, 0].sum() < picture[0, 1].sum() < picture[0, 2].sum()
    assert picture[0, 4].tolist() == picture[0, 2].tolist()


def test_recipes_are_there_and_come_back() -> None:
    for name in ("shift-stereo", "scene-flow", "kitti-stereo"):
        assert name in list_recipes()
        recipe = get_recipe(name)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


# -- a run ----------------------------------------------------------------------------------------------------------------------------------------


class TestStereoRun(DenseContract):
    recipe = RECIPE
    attention = "efficient_2d"
    metric = ("epe", "end-point error")
    rows = ["prediction", "error"]
    samples = 1
    per_class = {"motorcycle"}

    def test_metrics_are_those_of_the_real_scene(self, run) -> None:
        recipe, bundle, model = load_run(run)
        pair, (truth, _) = bundle.test[0]
        with torch.no_grad():
            off = (model(pair[None])[0, -1] - truth).abs()
        off = off[off.isfinite()]
        metrics = read_json(run / "metrics.json")
        assert metrics["epe"] == pytest.approx(off.mean().item(), rel=1e-5)
        assert metrics["over_3px"] == pytest.approx((off > 3).float().mean().item(), rel=1e-5)
        assert metrics["per_class"] == {"motorcycle": {name: metrics[name] for name in ("epe", "over_3px", "d1")}}
        assert evaluate(model, bundle.test, recipe, bundle)["epe"] == metrics["epe"]
        entries = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in entries] == [2, 4]
        assert all(0 <= entry["train_within_3px"] <= 1 and math.isfinite(entry["val_epe"]) for entry in entries)

    def test_eval_and_inspect_from_the_command_line(self, run, tmp_path, capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        assert main(["eval", str(run)]) == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in ("epe", "over_3px", "d1", "motorcycle"))
        for name in ("left", "right"):
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        left, right, out = str(tmp_path / "left.png"), str(tmp_path / "right.png"), str(tmp_path / "out")
        assert main(["inspect", str(run), left, "--right", right, "--out", out]) == 0
        assert "disparity: " in capsys.readouterr().out
        assert (tmp_path / "out" / "prediction.html").read_text().count("<img ") == 3
        assert main(["inspect", str(run), left, "--out", out]) == 2
        assert "give the right one with --right" in capsys.readouterr().err
        assert main(["inspect", "test_vit", left, "--right", right, "--out", out, "--weights", "random"]) == 2
        assert "--right is for runs that match stereo pairs" in capsys.readouterr().err
