"""Detection: average precision against pycocotools, pictures' matches by hand, and a run from data to results in COCO's format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from foveal import InputError
from foveal.cli import main
from foveal.lab.data import DetectionBundle, DigitScenes
from foveal.lab.tasks import Detection
from foveal.lab.tasks._boxes import matched
from foveal.lab.training import Optim, Recipe, load_data, load_run, read_json
from foveal.models import SmallDetector
from foveal.models.detection._giou import giou_loss
from tests.tasks.contract import DenseContract

DATA = DigitScenes(source="digits", side=32, smallest=8, largest=12, most=3, train_scenes=40, val_scenes=5, test_scenes=7)
RECIPE = Recipe(
    data=DATA,
    model=SmallDetector(attention="external_2d", width=8, depth=2, stride=2, prototypes=4, options={"slots": 4}),
    task=Detection(masks=True, shown_score=0.0),
    optim=Optim(lr=5e-3, ema=0.9),
    steps=4,
    batch_size=8,
    eval_every=2,
    checkpoint_every=2,
    trackers=(),
)


def bundle(classes: int = 3, **changes: Any) -> DetectionBundle:
    return replace(load_data(DATA), classes=[f"class {n}" for n in range(classes)], **changes)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def filled(corners: Tensor, side: int = 40) -> Tensor:
    """Masks that fill boxes of whole numbers."""
    masks = torch.zeros(len(corners), side, side, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, corners.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return masks


def made_up(images: int = 6) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Truth with a crowd and an empty image, and finds around it, some of them wrong."""
    rng = np.random.default_rng(0)
    targets, found = [], []
    for index in range(images):
        count = int(rng.integers(1, 5)) if index != 2 else 0
        corner = rng.integers(0, 20, (count, 2))
        truth = torch.from_numpy(np.concatenate([corner, corner + rng.integers(5, 20, (count, 2))], 1)).float()
        crowd = torch.zeros(count, dtype=torch.int64)
        crowd[:1] = int(index == 1)
        labels = torch.from_numpy(rng.integers(0, 3, count))
        targets.append({"boxes": truth, "labels": labels, "masks": filled(truth), "iscrowd": crowd, "image_id": torch.tensor(10 + index)})
        offered = torch.cat([truth + torch.from_numpy(rng.integers(0, 3, truth.shape)), boxes((1, 1, 9, 12))]).float()
        called = torch.cat([labels, torch.tensor([int(rng.integers(3))])])
        scores = torch.from_numpy(rng.random(count + 1)).float()
        found.append({"boxes": offered, "labels": called, "scores": scores, "masks": filled(offered)})
    return targets, found


def coco_numbers(targets: list[dict[str, Tensor]], results: list[dict[str, Any]], folder: Path, kind: str) -> list[float]:
    """What pycocotools says of a results file."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    for target in targets:
        for place, box in enumerate(target["boxes"].tolist()):
            encoded = coco_mask.encode(np.asfortranarray(target["masks"][place].numpy().astype(np.uint8)))
            encoded["counts"] = encoded["counts"].decode()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(target["image_id"]),
                    "category_id": int(target["labels"][place]) + 1,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": float(target["masks"][place].sum()),
                    "iscrowd": int(target["iscrowd"][place]) if "iscrowd" in target else 0,
                    "segmentation": encoded,
                }
            )
    images = [{"id": int(target["image_id"]), "height": target["masks"].shape[-2], "width": target["masks"].shape[-1]} for target in targets]
    categories = [{"id": number, "name": str(number)} for number in range(1, 11)]
    (folder / "truth.json").write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "truth.json"))
    judge = COCOeval(truth, truth.loadRes(str(folder / "results.json")), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return [float(value) for value in judge.stats]


def test_numbers_and_results_are_those_of_pycocotools(tmp_path) -> None:
    task, data = Detection(masks=True), bundle()
    targets, found = made_up()
    metrics = task.metrics(data)
    task.update(metrics, found[:2], targets[:2])
    task.update(metrics, found[2:], targets[2:])
    got = task.summarize(metrics, data)
    results = task.results(found, targets, data)
    for kind, before in (("bbox", ""), ("segm", "mask_")):
        want = coco_numbers(targets, results, tmp_path, kind)
        assert 0.2 < want[0] < 0.9
        assert [got[before + name] for name in ("ap", "ap50", "ap75")] == pytest.approx(want[:3], abs=1e-6)
        assert got[before + "recall"] == pytest.approx(want[8], abs=1e-6)
    each = [numbers["ap50"] for numbers in got["per_class"].values()]
    assert sum(each) / 3 == pytest.approx(got["ap50"], abs=1e-6)


def test_nothing_there_is_no_number_and_nothing_found_is_zero() -> None:
    task, data = Detection(), bundle()
    truth = {"boxes": boxes((1, 1, 9, 9)), "labels": torch.tensor([1])}
    nothing = {"boxes": boxes(), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    metrics = task.metrics(data)
    task.update(metrics, [nothing], [truth])
    got = task.summarize(metrics, data)
    assert (got["ap"], got["per_class"]["class 1"]["ap50"]) == (0.0, 0.0)
    assert got["per_class"]["class 0"] == {"ap": None, "ap50": None, "ap75": None}
    metrics = task.metrics(data)
    task.update(metrics, [nothing], [{"boxes": boxes(), "labels": torch.zeros(0, dtype=torch.int64)}])
    got = task.summarize(metrics, data)
    assert (got["ap"], got["ap50"]) == (0.0, None)


def test_results_carry_the_numbers_of_the_set() -> None:
    targets, found = made_up(1)
    entries = Detection().results(found, targets, bundle(category_ids=(7, 8, 90)))
    left, top, right, bottom = found[0]["boxes"][0].tolist()
    assert entries[0]["bbox"] == [left, top, right - left, bottom - top]
    assert entries[0]["category_id"] == (7, 8, 90)[int(found[0]["labels"][0])]
    assert entries[0]["image_id"] == 10
    assert "segmentation" not in entries[0]


class Asked(nn.Module):
    """Keeps what it is trained with; its losses are 1 and 2."""

    def forward(self, images: Any, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.targets = targets
        return {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}


def test_losses_are_added_and_crowds_are_not_learned() -> None:
    targets, _ = made_up(2)
    model = Asked()
    loss, _ = Detection(masks=True).step(model, model, torch.zeros(2, 1, 40, 40), targets, bundle())
    assert loss.item() == 3.0
    torch.testing.assert_close(model.targets[0]["boxes"], targets[0]["boxes"])
    torch.testing.assert_close(model.targets[1]["boxes"], targets[1]["boxes"][1:])
    assert len(model.targets[1]["masks"]) == len(targets[1]["boxes"]) - 1
    Detection().step(model, model, torch.zeros(2, 1, 40, 40), targets, bundle())
    assert set(model.targets[0]) == {"boxes", "labels"}


def test_masks_that_are_not_there_are_refused() -> None:
    targets, found = made_up(1)
    with pytest.raises(InputError, match="boxes alone"):
        Detection(masks=True).metrics(bundle(masks=False))
    task = Detection(masks=True)
    with pytest.raises(InputError, match="finds boxes alone"):
        task.update(task.metrics(bundle()), [{name: value for name, value in found[0].items() if name != "masks"}], targets)
    with pytest.raises(InputError, match="shown_score"):
        Detection(shown_score=2.0)


def test_images_of_unlike_sizes_make_a_list() -> None:
    task = Detection()
    inputs, targets = task.collate([(torch.zeros(1, 4, 5), {}), (torch.zeros(1, 6, 5), {})])
    assert isinstance(inputs, list)
    assert len(targets) == 2
    assert task.collate([(torch.zeros(1, 4, 5), {})] * 3)[0].shape == (3, 1, 4, 5)


def test_a_find_is_right_once_and_crowds_excuse() -> None:
    target = {"boxes": boxes((0, 0, 10, 10), (20, 20, 30, 30), (0, 20, 20, 40)), "labels": torch.tensor([0, 1, 0]), "iscrowd": torch.tensor([0, 0, 1])}
    found = {
        "boxes": boxes((0, 0, 10, 9), (0, 0, 10, 10), (20, 20, 30, 30), (2, 22, 6, 26), (2, 22, 6, 26)),
        "labels": torch.tensor([0, 0, 0, 0, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]),
    }
    missed, wrong = matched(found, target)
    assert missed.tolist() == [False, True, False], "the second has another label, the third is a crowd"
    assert wrong.tolist() == [False, True, True, False, True], "found before; wrong label; in the crowd; of another class than the crowd"


# -- a run ----------------------------------------------------------------------------------------------------------------------------------------


class TestDetectionRun(DenseContract):
    recipe = RECIPE
    attention = "pointwise"
    metric = ("ap", "box AP")
    rows = ["prediction", "missed and wrong"]
    per_class = set("0123456789")

    def test_eval_writes_results_that_pycocotools_judges_alike(self, run, tmp_path, capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        assert main(["eval", str(run)]) == 0
        printed = capsys.readouterr().out
        assert "mask_ap50" in printed
        _, data, model = load_run(run)
        results = read_json(run / "results-test.json")
        want = coco_numbers([data.test[n][1] for n in range(len(data.test))], results, tmp_path, "bbox")
        got, metrics = read_json(run / "eval.json")["test"], read_json(run / "metrics.json")
        assert [got["ap"], got["ap50"]] == pytest.approx(want[:2], abs=2e-3), "results are rounded"
        assert {name: metrics[name] for name in got} == got
        with torch.no_grad():
            found = model([data.test[0][0]])[0]
        assert [entry["score"] for entry in results if entry["image_id"] == 0] == pytest.approx(found["scores"].tolist(), abs=1e-4)

    def test_inspect_draws_boxes(self, run, tmp_path, capsys) -> None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "scene.png")
        assert main(["inspect", str(run), str(tmp_path / "scene.png"), "--out", str(tmp_path / "out")]) == 0
        assert "prediction" in capsys.readouterr().out
        assert (tmp_path / "out" / "prediction.html").read_text().count("<img ") == 2


def test_generalized_iou_is_torchvisions_to_the_last_bit() -> None:
    from torchvision.ops import generalized_box_iou_loss

    corners = torch.rand(2, 400, 4)
    boxes = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:]], -1)
    boxes[0, :7] = boxes[1, :7]
    found, wanted = boxes[0].clone().requires_grad_(), boxes[1]
    ours, theirs = giou_loss(found, wanted), generalized_box_iou_loss(found, wanted, reduction="none")
    assert torch.equal(ours, theirs)
    assert 0 < (ours > 1).sum() < 400, "some lie apart, and some do not"
    assert torch.equal(*(torch.autograd.grad(loss.sum(), found)[0] for loss in (ours, theirs)))
