"""Small networks of the same kind: what differs from the large one is size and weights to start from, and nothing that a run tries out."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from foveal.models import DilatedResNet, MAResUNet, PSMNet, PyramidDetector, SmpConfig

SIZES = {"backbone", "encoder", "weights", "pretrained", "min_size", "max_size", "anchor_scale", "pyramid_width", "regions", "width", "blocks", "pools"}
SIZES |= {"max_disparity", "start"}


@pytest.mark.parametrize(
    "large",
    [
        DilatedResNet(backbone="resnet101", pretrained=True),
        DilatedResNet(head="deeplabv3", output_stride=16, deep_stem=False, attention="softmax"),
        MAResUNet(pretrained=True),
        SmpConfig(arch="fpn", encoder="resnet50", weights="imagenet", attention="external_2d"),
        PyramidDetector(host="cascade_mask_rcnn", attention="efficient_2d", places=("res3", "fpn1"), pretrained=True),
        PyramidDetector(host="retinanet", version=2, attention="external_2d", places=("fpn5",)),
        PyramidDetector(halo_stages=(4,), pretrained=True),
        PSMNet(place="volume", start=Path("weights")),
    ],
    ids=lambda large: type(large).__name__,
)
def test_only_sizes_and_weights_differ(large) -> None:
    small = large.smoke_model()
    assert type(small) is type(large)
    assert {item.name for item in fields(large) if getattr(large, item.name) != getattr(small, item.name)} <= SIZES
    assert not getattr(small, "pretrained", False)
    assert getattr(small, "weights", None) is getattr(small, "start", None) is None
    needs = {"img_size": 64, "in_chans": 6 if isinstance(large, PSMNet) else 3, "num_classes": 5}
    with torch.device("meta"):
        net = small.build(**needs)
    assert sum(parameter.numel() for parameter in net.parameters()) < 26e6
    assert small.smoke_model() == small


def test_a_narrow_pyramid_is_narrow_everywhere() -> None:
    with torch.device("meta"):
        net = PyramidDetector(pyramid_width=32).build(img_size=64, in_chans=3, num_classes=4)
    layers = {name: module for name, module in net.net.named_modules() if not name.startswith("backbone.body")}
    widths = {module.out_channels for name, module in layers.items() if isinstance(module, torch.nn.Conv2d) and "logits" not in name and "pred" not in name}
    assert widths == {32}
    assert layers["roi_heads.box_head.fc7"].out_features == 128
    assert net.net.roi_heads.mask_predictor.mask_fcn_logits.in_channels == 32


def test_heads_learn_from_so_many_regions() -> None:
    net = PyramidDetector(regions=24).build(img_size=64, in_chans=3, num_classes=4)
    assert net.net.roi_heads.fg_bg_sampler.batch_size_per_image == 24


def test_there_are_no_weights_for_a_small_deep_stem() -> None:
    with pytest.raises(ValueError, match="no weights for resnet18 with a deep stem"):
        DilatedResNet(backbone="resnet18", pretrained=True).build(img_size=33, in_chans=3, num_classes=2)
