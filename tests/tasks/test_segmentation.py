"""Segmentation: scores against torchmetrics, the loss and the ways of evaluation by hand, and a run from data to pictures."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from foveal import InputError
from foveal.cli import main
from foveal.lab.data import IGNORE, FlagSwap
from foveal.lab.tasks import Classification, Segmentation, segmentation_scores
from foveal.lab.training import Optim, Recipe, evaluate, load_data, load_run, read_json
from foveal.models import SmallFCN, ViT
from tests.tasks.contract import DenseContract
from tests.training.helpers import SCENES

DATA = FlagSwap(train_scenes=40, val_scenes=9, test_scenes=11)
RECIPE = Recipe(
    data=DATA,
    model=SmallFCN(attention="external_2d", width=8, options={"slots": 4}),
    task=Segmentation(),
    optim=Optim(lr=5e-3, ema=0.9),
    steps=6,
    batch_size=8,
    eval_every=3,
    checkpoint_every=3,
    trackers=(),
)


def test_scores_are_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, called = torch.randint(0, 4, (3, 20, 30), generator=generator), torch.randint(0, 4, (3, 20, 30), generator=generator)
    truth[:, :5] = IGNORE
    known = truth != IGNORE
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (truth[known].numpy(), called[known].numpy()), 1)
    got = segmentation_scores(confusion, list("abcd"))
    assert got["miou"] == pytest.approx(MulticlassJaccardIndex(4, ignore_index=IGNORE)(called, truth).item())
    assert got["mean_f1"] == pytest.approx(MulticlassF1Score(4, average="macro", ignore_index=IGNORE)(called, truth).item())
    assert got["accuracy"] == pytest.approx(MulticlassAccuracy(4, average="micro", ignore_index=IGNORE)(called, truth).item())
    each = MulticlassJaccardIndex(4, average="none", ignore_index=IGNORE)(called, truth).tolist()
    assert [numbers["iou"] for numbers in got["per_class"].values()] == pytest.approx(each)


def test_classes_that_do_not_occur_or_do_not_count_are_no_part_of_the_mean() -> None:
    confusion = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    got = segmentation_scores(confusion, ["sky", "tree", "sheep"])
    assert got["per_class"]["sheep"] == {"iou": None, "f1": None}
    assert got["miou"] == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert segmentation_scores(confusion, ["sky", "tree", "sheep"], ["sky"])["miou"] == pytest.approx(4 / 6)
    assert segmentation_scores(np.zeros((2, 2)), ["a", "b"])["miou"] == 0.0


def test_the_loss_is_the_mean_over_known_pixels() -> None:
    logits, masks = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(0, 3, (2, 4, 5))
    masks[0, :3] = IGNORE
    each = [-logits[b, :, y, x].log_softmax(0)[masks[b, y, x]] for b in range(2) for y in range(4) for x in range(5) if masks[b, y, x] != IGNORE]
    torch.testing.assert_close(Segmentation().loss(nn.Identity(), logits, masks), torch.stack(each).mean().float())
    nobody_knows = torch.full((2, 4, 5), IGNORE)
    logits.requires_grad_()
    loss = Segmentation().loss(nn.Identity(), logits, nobody_knows)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


class Pointwise(nn.Module):
    """Of a pixel it knows where it is not; so windows and mirrors must change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[-2:]))
        return self.conv(x)


@pytest.mark.parametrize(("window", "step"), [(8, 8), (8, 3), (5, None), (64, None)])
def test_windows_cover_every_pixel_and_change_nothing_for_a_pointwise_network(window, step) -> None:
    net, images = Pointwise(), torch.randn(2, 2, 13, 17)
    got = Segmentation(window=window, window_step=step, flip=True).predict(net, images)
    torch.testing.assert_close(got, net.conv(images))
    assert set(net.seen) == ({(13, 17)} if window == 64 else {(window, window)})


def test_windows_wider_than_one_side_take_what_there_is() -> None:
    net, images = Pointwise(), torch.randn(1, 2, 6, 30)
    torch.testing.assert_close(Segmentation(window=10).predict(net, images), net.conv(images))


def test_scales_and_mirrors_are_averaged() -> None:
    class Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, torch.linspace(0, 1, x.shape[-1]).expand_as(x)], 1)

    images = torch.rand(1, 1, 8, 8)
    got = Segmentation(scales=(1.0, 0.5), flip=True).predict(Places(), images)
    small = F.interpolate(images, size=(4, 4), mode="bilinear")
    back = F.interpolate(small, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(got[:, :1], (images + back) / 2)
    torch.testing.assert_close(got[:, 1:], torch.full((1, 1, 8, 8), 0.5), msg="left and right average out")


def test_images_of_unlike_sizes_are_a_list_and_are_judged_one_by_one() -> None:
    task, net, bundle = Segmentation(), Pointwise(), load_data(DATA)
    samples = [(torch.randn(2, side, side + 3), torch.randint(0, 3, (side, side + 3))) for side in (5, 9)]
    inputs, targets = task.collate(samples)
    assert isinstance(inputs, list)
    assert len(targets) == 2
    metrics = task.metrics(bundle)
    task.update(metrics, task.predict(net, inputs), targets)
    right = sum((net.conv(image[None])[0].argmax(0) == mask).sum().item() for image, mask in samples)
    assert task.summarize(metrics, bundle)["accuracy"] == pytest.approx(right / sum(mask.numel() for _, mask in samples))
    with pytest.raises(InputError, match="training needs images of one size"):
        task.step(net, net, inputs, targets, bundle)


@pytest.mark.parametrize("options", [{"window": 8, "window_step": 9}, {"window": 0}, {"scales": ()}, {"scales": (0.0,)}, {"label_smoothing": 1.0}])
def test_evaluation_that_makes_no_sense_is_refused(options) -> None:
    with pytest.raises(InputError):
        Segmentation(**options)


@pytest.mark.parametrize("parts", [{"data": SCENES}, {"model": ViT()}, {"task": Classification()}])
def test_parts_for_unlike_targets_are_refused(parts) -> None:
    with pytest.raises(InputError, match=r"must be made for the same targets, but .* has masks"):
        replace(RECIPE, **parts)


# -- a run ----------------------------------------------------------------------------------------------------------------------------------------


class TestSegmentationRun(DenseContract):
    recipe = RECIPE
    attention = "external_2d"
    steps, seeds = 2, 2
    metric = ("miou", "mean IoU")
    rows = ["prediction", "errors"]
    per_class = {"background", "first", "second"}

    def test_metrics_are_those_of_the_test_split(self, run) -> None:
        recipe, bundle, model = load_run(run)
        confusion = np.zeros((3, 3), np.int64)
        losses = []
        for n in range(len(bundle.test)):
            image, mask = bundle.test[n]
            with torch.no_grad():
                logits = model(image[None])
            np.add.at(confusion, (mask.flatten().numpy(), logits[0].argmax(0).flatten().numpy()), 1)
            losses.append(F.cross_entropy(logits, mask[None]).item())
        want = segmentation_scores(confusion, bundle.classes, ["background"])
        metrics = read_json(run / "metrics.json")
        assert {name: metrics[name] for name in want} == want
        assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert evaluate(model, bundle.test, recipe, bundle) == {name: metrics[name] for name in (*want, "loss")}
        entries = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in entries] == [3, 6]
        assert all(0 <= entry["train_pixel_accuracy"] <= 1 and math.isfinite(entry["val_miou"]) for entry in entries)

    def test_eval_and_inspect_from_the_command_line(self, run, tmp_path, capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        assert main(["eval", str(run)]) == 0
        printed = capsys.readouterr().out
        assert "miou" in printed
        assert all(name in printed for name in ("background", "first", "second"))
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "scene.png")
        assert main(["inspect", str(run), str(tmp_path / "scene.png"), "--out", str(tmp_path / "out")]) == 0
        assert "prediction" in capsys.readouterr().out
        page = (tmp_path / "out" / "prediction.html").read_text()
        assert page.count("<img ") == 3 + 4, "image, prediction, probability, and the four slots"
        with Image.open(tmp_path / "out" / "prediction.png") as sheet:
            assert sheet.height > 3 * 100

    def check_results(self, results) -> None:
        assert results["verdict"]["headline"].startswith("No attention learned much more than guessing"), "after two steps"
