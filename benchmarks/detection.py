"""A training step of Mask R-CNN with a ResNet-50 and a feature pyramid: external attention behind stage 5 against the same network without.

One image, shorter side 320, forward, backward and the optimizer's step; both draw the same regions. The two are first shown to give equal features with the
block's last norm at zero, where external attention is the identity, and then the norm is put back.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveal import ExternalAttention2d
from foveal.models import PyramidDetector

from ._harness import Row, at_most, check_equal

SIDE = 320


def rows(side: int = SIDE, **smaller: Any) -> Iterator[Row]:
    """Args: the shorter side of the image, and for trying it out settings of a smaller network."""
    nets = {}
    for name in (None, "external_2d"):
        torch.manual_seed(0)
        config = replace(PyramidDetector(host="mask_rcnn", attention=name, min_size=side, max_size=2 * side), **smaller)
        nets[name] = config.build(img_size=side, in_chans=3, num_classes=80)
    plain, ours = nets[None], nets["external_2d"]
    own = ours.state_dict()
    assert own.keys() > plain.state_dict().keys(), "but for the block the two have the same weights"
    ours.load_state_dict(own | plain.state_dict())
    (block,) = (module for module in ours.modules() if isinstance(module, ExternalAttention2d))
    torch.manual_seed(1)
    image = torch.randn(1, 3, side, side * 4 // 3)
    nn.init.zeros_(block.bn.weight)
    check_equal(_features(ours, image), _features(plain, image))
    nn.init.ones_(block.bn.weight)
    setting = f"{config.backbone}, image {side}×{side * 4 // 3}, batch 1"
    yield at_most("Mask R-CNN, training step: external attention behind stage 5 / none", setting, _step(ours, image), _step(plain, image), 1.05)


def _features(net: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return net.eval().net.backbone(image)["3"]  # type: ignore[operator,union-attr]

    return call


def _step(net: nn.Module, image: Tensor) -> Callable[[], object]:
    net.train()
    # small steps: what is timed is no training, and must stay finite
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9)
    masks = torch.zeros(7, *image.shape[-2:], dtype=torch.bool)
    boxes, side = [], image.shape[-2]
    for number, mask in enumerate(masks):
        # seven, as many as COCO has in an image, from a tenth to near a third of its side
        top, left, edge = (round(side * share) for share in (0.08 * number, 0.12 * number, 0.1 + 0.03 * number))
        mask[top : top + edge, left : left + edge] = True
        boxes.append([left, top, left + edge, top + edge])
    targets = [{"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.arange(7), "masks": masks}]

    def call() -> None:
        torch.manual_seed(0)
        net.train()
        optimizer.zero_grad()
        torch.stack(list(net(image, targets).values())).sum().backward()
        optimizer.step()

    return call
