"""Detectors: the small one's losses and finds by hand."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from foveal import InputError
from foveal.models import SmallDetector, SmallDetectorNet

SMALL = partial(SmallDetector, width=8, depth=2, stride=4)


def objects() -> list[dict[str, Tensor]]:
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:16, 4:12] = masks[1, 18:28, 16:30] = True
    return [
        {"boxes": torch.tensor([[4.0, 4, 12, 16], [16, 18, 30, 28]]), "labels": torch.tensor([0, 2]), "masks": masks},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 32, 32, dtype=torch.bool)},
    ]


def small(**options) -> SmallDetectorNet:
    torch.manual_seed(0)
    return SMALL(**options).build(img_size=32, in_chans=1, num_classes=3)


def told(net: SmallDetectorNet) -> dict[str, Tensor]:
    """Maps of a network that knows the objects above: centers, distances, and a prototype each for the masks."""
    heat = torch.full((2, 3, 8, 8), -9.0)
    sides = torch.zeros(2, 4, 8, 8)
    weights, prototypes = torch.zeros(2, 2, 8, 8), torch.full((2, 2, 16, 16), -9.0)
    for number, (box, label) in enumerate(zip(objects()[0]["boxes"], objects()[0]["labels"], strict=True)):
        left, top, right, bottom = box.tolist()
        row, column = int((top + bottom) / 8), int((left + right) / 8)
        heat[0, label, row, column] = 9.0
        for y in range(8):
            for x in range(8):
                if abs(y - row) < 2 and abs(x - column) < 2:
                    middle_y, middle_x = 4 * y + 2, 4 * x + 2
                    sides[0, :, y, x] = torch.tensor([middle_x - left, middle_y - top, right - middle_x, bottom - middle_y])
        weights[0, number, row, column] = 1.0
        prototypes[0, number, int(top) // 2 : int(bottom) // 2, int(left) // 2 : int(right) // 2] = 9.0
    return {"heat": heat, "sides": sides, "weights": weights, "prototypes": prototypes}


def test_one_that_knows_has_hardly_a_loss_and_finds_all(monkeypatch) -> None:
    net = small(prototypes=2)
    monkeypatch.setattr(net, "maps", lambda x: told(net))
    images = torch.zeros(2, 1, 32, 32)
    losses = net(images, objects())
    assert losses["heat"] < 1e-3
    assert losses["box"] < 1e-6
    assert losses["mask"] < 0.1, "bilinear edges"
    first, second = net.eval()(images)
    order = first["labels"].argsort()
    torch.testing.assert_close(first["boxes"][order], objects()[0]["boxes"])
    assert first["labels"][order].tolist() == [0, 2]
    assert torch.equal(first["masks"][order], objects()[0]["masks"])
    assert len(second["boxes"]) == 0
    assert second["masks"].shape == (0, 32, 32)


def test_the_loss_of_centers_by_hand() -> None:
    """Zhou et al., equation 1, in a slow loop."""
    net, images = small(), torch.randn(2, 1, 32, 32)
    got = net(images, objects())["heat"]
    logits = net.maps(images)["heat"].detach().double()
    total = 0.0
    for b in range(2):
        for k in range(3):
            for y in range(8):
                for x in range(8):
                    p, want = torch.sigmoid(logits[b, k, y, x]), 0.0
                    for box, label in zip(objects()[b]["boxes"].tolist(), objects()[b]["labels"].tolist(), strict=True):
                        if label == k:
                            row, column = int((box[1] + box[3]) / 8), int((box[0] + box[2]) / 8)
                            wide, high = (box[2] - box[0]) / 24, (box[3] - box[1]) / 24
                            bell = torch.exp(torch.tensor(-((y - row) ** 2 / high**2 + (x - column) ** 2 / wide**2) / 2, dtype=torch.float64))
                            want = max(want, float(bell))
                    total -= float((1 - p) ** 2 * p.log() if want == 1 else (1 - want) ** 4 * p**2 * (1 - p).log())
    assert got.item() == pytest.approx(total / 2, rel=1e-4)


def test_images_without_objects_train_too() -> None:
    net = small(prototypes=2)
    losses = net([torch.randn(1, 32, 32)], objects()[1:])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["box"] == 0


def test_images_of_other_sizes_are_padded_and_finds_stay_inside() -> None:
    net = small(prototypes=2).eval()
    images = [torch.randn(1, 30, 21), torch.randn(1, 13, 40)]
    for image, found in zip(images, net(images), strict=True):
        assert len(found["boxes"]) > 0
        assert found["masks"].shape == (len(found["boxes"]), *image.shape[-2:])
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"][:, 2:] <= torch.tensor([image.shape[-1], image.shape[-2]])).all()
        assert (found["scores"].diff() <= 0).all()


def test_a_few_steps_learn_two_objects() -> None:
    net, images = small(prototypes=4, depth=3), torch.zeros(2, 1, 32, 32)
    images[0, 0][objects()[0]["masks"].any(0)] = 1.0
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        loss = sum(net(images, objects()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = net.eval()(images)[0]
    sure = found["scores"] > 0.5
    assert sorted(found["labels"][sure].tolist()) == [0, 2]
    order = found["labels"][sure].argsort()
    assert box_iou(found["boxes"][sure][order], objects()[0]["boxes"]).diagonal().min() > 0.6


@pytest.mark.parametrize("options", [{"stride": 3}, {"stride": 8}, {"width": 0}, {"prototypes": -1}, {"box_weight": -1.0}])
def test_numbers_that_make_no_small_detector_are_refused(options) -> None:
    with pytest.raises(InputError, match=r"expected width|of SmallDetector must be at least"):
        small(**options)


def test_masks_without_truth_are_refused() -> None:
    target = {name: value for name, value in objects()[0].items() if name != "masks"}
    with pytest.raises(InputError, match="learns masks"):
        small(prototypes=2)([torch.zeros(1, 32, 32)], [target])
