"""Detectors with a pyramid against torchvision's own networks, counts against the published ones, and the cascade by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection as theirs
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign

import foveal.timm  # noqa: F401
from foveal import EfficientAttention2d, ExternalAttention2d, HaloAttention2d, InputError
from foveal.lab.data import DetectionBundle
from foveal.lab.tasks import Detection
from foveal.models import EFFICIENT_PLACES, Detector, PyramidDetector
from foveal.models.detection.cascade import CascadeHeads

SMALL: dict[str, Any] = {"backbone": "resnet18", "min_size": 64, "max_size": 96}
HOSTS = ("retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn")


def build(num_classes: int = 3, in_chans: int = 3, **options: Any) -> Detector:
    return PyramidDetector(**options).build(img_size=64, in_chans=in_chans, num_classes=num_classes)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def targets() -> list[dict[str, Tensor]]:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 10:50] = True
    something = {"boxes": torch.tensor([[10.0, 8, 50, 40]]), "labels": torch.tensor([2]), "masks": masks}
    return [something, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 64, 64, dtype=torch.bool)}]


@pytest.mark.parametrize(
    ("host", "version", "name", "published"),
    [
        ("retinanet", 1, "retinanet_resnet50_fpn", 34_014_999),
        ("retinanet", 2, "retinanet_resnet50_fpn_v2", 38_198_935),
        ("faster_rcnn", 1, "fasterrcnn_resnet50_fpn", 41_755_286),
        ("faster_rcnn", 2, "fasterrcnn_resnet50_fpn_v2", 43_712_278),
        ("mask_rcnn", 1, "maskrcnn_resnet50_fpn", 44_401_393),
        ("mask_rcnn", 2, "maskrcnn_resnet50_fpn_v2", 46_359_409),
    ],
)
def test_names_shapes_and_counts_are_torchvisions(host, version, name, published) -> None:
    """Its tables count version 1 with frozen norms, whose 53,120 weights are no parameters there."""
    with torch.device("meta"):
        ours = build(91 if host == "retinanet" else 90, host=host, version=version)
        want = getattr(theirs, name)(weights=None, weights_backbone=None)
    assert {key: value.shape for key, value in ours.net.state_dict().items()} == {key: value.shape for key, value in want.state_dict().items()}
    assert count(ours) == published + (53_120 if version == 1 else 0)


def test_modules_have_the_published_counts() -> None:
    with torch.device("meta"):
        plain = count(build(90))
        more = {number: count(build(90, attention="efficient_2d", places=places)) - plain for number, places in EFFICIENT_PLACES.items()}
        external, control = (count(build(90, attention=name)) - plain for name in ("external_2d", "pointwise"))
        seven = build(90, attention="efficient_2d", places=EFFICIENT_PLACES[7])
    modules = [module for module in seven.modules() if isinstance(module, EfficientAttention2d)]
    # 2d² of queries and keys in halves, and values; d² of the output; their biases
    assert [count(module) for module in modules] == [787_968, 3_148_800, *[197_376] * 5]
    assert more == {1: 787_968, 5: 787_968 + 3_148_800 + 3 * 197_376, 7: 787_968 + 3_148_800 + 5 * 197_376}
    assert 8_650_000 < external < 8_660_000, "two convolutions of 2048², and 64 slots"
    assert external - control == 2 * 64 * 2048


def test_attention_stands_where_it_is_said_to() -> None:
    with torch.device("meta"):
        net = build(attention="external_2d", places=("res3", "res5", "fpn2")).net
    found = [name for name, module in net.named_modules() if isinstance(module, ExternalAttention2d)]
    assert found == ["backbone.body.layer2.4", "backbone.body.layer4.3", "backbone.mixed.mixers.1"]
    with torch.device("meta"):
        net = build(halo_stages=(4,)).net
    halos = {name: module.stride for name, module in net.named_modules() if isinstance(module, HaloAttention2d)}
    assert halos == {"backbone.body.layer4.0.conv2": 2, "backbone.body.layer4.1.conv2": 1, "backbone.body.layer4.2.conv2": 1}


def test_what_follows_a_stage_sees_its_attention() -> None:
    torch.manual_seed(0)
    net = build(attention="pointwise", places=("res3", "fpn1"), **SMALL).eval()
    images, body = torch.randn(1, 3, 64, 64), net.net.backbone
    before = body(images)
    nn.init.constant_(body.body["layer2"][-1].bn.bias, 3.0)
    after = body(images)
    assert not torch.equal(before["3"], after["3"])
    nn.init.constant_(body.mixed.mixers["0"].bn.bias, 3.0)
    again = body(images)
    assert not torch.equal(after["0"], again["0"])
    assert torch.equal(after["1"], again["1"])


@pytest.mark.parametrize("host", ["mask_rcnn", "retinanet"])
def test_without_attention_it_is_torchvisions_network(host) -> None:
    torch.manual_seed(0)
    ours = build(host=host, **SMALL)
    sizes = {"min_size": 64, "max_size": 96, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    if host == "retinanet":
        from torchvision.models.detection.retinanet import LastLevelP6P7, _default_anchorgen

        backbone = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
        )
        want: Any = theirs.RetinaNet(backbone, 3, anchor_generator=_default_anchorgen(), **sizes)
    else:
        want = theirs.MaskRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d), 4, **sizes)
    want.load_state_dict(ours.net.state_dict())
    images = [torch.randn(3, 64, 80), torch.randn(3, 50, 64)]
    for net in (ours.net, want):
        if host == "mask_rcnn":
            net.rpn._post_nms_top_n = {"training": 60, "testing": 20}
        # untrained scores are low
        (net.roi_heads if host == "mask_rcnn" else net).score_thresh = 0.0
    first = 1 if host == "mask_rcnn" else 0
    with torch.no_grad():
        for got, expected in zip(ours.eval()(images), want.eval()(images), strict=True):
            assert len(got["boxes"]) > 5
            for name in ("boxes", "scores"):
                torch.testing.assert_close(got[name], expected[name])
            assert torch.equal(got["labels"] + first, expected["labels"])
            if host == "mask_rcnn":
                assert torch.equal(got["masks"], expected["masks"][:, 0] > 0.5)
    labels = targets()
    shifted = [{**t, "labels": t["labels"] + first, "masks": t["masks"].to(torch.uint8)} for t in labels]
    if host == "retinanet":
        labels, shifted = labels[:1], shifted[:1]
    losses = []
    for net, given in ((ours.train(), labels), (want.train(), shifted)):
        torch.manual_seed(1)
        losses.append(net([torch.ones(3, 64, 64) * n for n in range(len(given))], given))
    assert losses[0].keys() == losses[1].keys()
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_trains_finds_and_counts(host) -> None:
    torch.manual_seed(0)
    net = build(host=host, attention="external_2d", in_chans=1, **SMALL)
    if host != "retinanet":
        net.net.rpn._post_nms_top_n = {"training": 60, "testing": 40}
    bundle = DetectionBundle(None, None, None, list("abc"), 64, 1, lambda image: image)  # type: ignore[arg-type]
    task = Detection(masks="mask" in host)
    images = torch.randn(2, 1, 64, 64)
    loss, _ = task.step(net, net, images, targets(), bundle)
    loss.backward()
    assert torch.isfinite(loss)
    missing = [name for name, parameter in net.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not missing
    with torch.no_grad():
        found = task.predict(net.eval(), images)
    metrics = task.metrics(bundle)
    task.update(metrics, found, targets())
    assert all(name in found[0] for name in ("boxes", "labels", "scores"))
    assert ("masks" in found[0]) == ("mask" in host)
    assert 0 <= task.summarize(metrics, bundle)["ap"] <= 1
    counted = task.cost(net, bundle)
    assert counted.parameters == count(net)
    assert counted.macs > 1e8


# -- the cascade ----------------------------------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A predictor that says the same of every region."""

    def __init__(self, logits: list[float], offsets: list[float]) -> None:
        super().__init__()
        self.logits, self.offsets = torch.tensor(logits), torch.tensor(offsets)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(x), -1), self.offsets.expand(len(x), -1)


def heads() -> CascadeHeads:
    return CascadeHeads(
        [nn.Flatten() for _ in range(3)],
        49,
        3,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        batch_size_per_image=16,
        positive_fraction=0.25,
        score_thresh=0.0,
        nms_thresh=0.5,
        detections_per_img=10,
    )


def test_stages_refine_in_their_own_units_and_scores_are_averaged() -> None:
    cascade = heads().eval()
    logits = ([0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [0.0, 0.0, 3.0])
    cascade.box_predictor = Fixed(logits[0], [1.0, 0.0, 0.0, 0.0])
    cascade.later_predictors = nn.ModuleList([Fixed(logits[1], [0.0, 1.0, 0.0, 0.0]), Fixed(logits[2], [0.0, 0.0, 1.0, 0.0])])
    found, losses = cascade({"0": torch.zeros(1, 1, 32, 32)}, [torch.tensor([[10.0, 20.0, 30.0, 60.0]])], [(128, 128)])
    assert not losses
    wide = 20 * torch.tensor(1 / 15).exp().item()
    # a tenth of the width to the right, a twentieth of the height down, wider by exp(1/15) around the middle
    middle = 20 + 20 / 10
    want = torch.tensor([middle - wide / 2, 20 + 40 / 20, middle + wide / 2, 60 + 40 / 20])
    torch.testing.assert_close(found[0]["boxes"], want.expand(2, -1))
    mean = torch.stack([torch.tensor(stage).softmax(0) for stage in logits]).mean(0)
    order = mean[1:].argsort(descending=True)
    torch.testing.assert_close(found[0]["scores"], mean[1:][order])
    assert found[0]["labels"].tolist() == (order + 1).tolist()


def test_later_stages_ask_for_more_overlap() -> None:
    """A region that overlaps by 0.55 is an object for the first stage alone; the true box is one for all."""
    cascade = heads().train()
    truth = [{"boxes": torch.tensor([[0.0, 0, 100, 100]]), "labels": torch.tensor([2])}]
    region = [torch.tensor([[0.0, 0, 100, 55]])]
    labels = [cascade._given(stage, [own.clone() for own in region], truth)[2][0].tolist() for stage in range(3)]
    assert labels[0] == [2, 2], "the first adds the truth itself"
    assert labels[1:] == [[0], [0]]
    cascade.box_predictor = Fixed([0.0, 0.0, 0.0], [0.0] * 4)
    cascade.later_predictors = nn.ModuleList([Fixed([0.0, 0.0, 0.0], [0.0] * 4) for _ in range(2)])
    _, losses = cascade({"0": torch.zeros(1, 1, 32, 32)}, [own.clone() for own in region], [(128, 128)], truth)
    for stage, share in enumerate((1.0, 0.5, 0.25), 1):
        assert losses[f"loss_classifier_{stage}"].item() == pytest.approx(share * torch.tensor(3.0).log().item())
    assert losses["loss_box_reg_1"] > 0
    assert losses["loss_box_reg_2"] == losses["loss_box_reg_3"] == 0


# -- backbones of timm's, arms, errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "host"), [("test_resnet", "faster_rcnn"), ("test_fov_halonet", "retinanet")])
def test_networks_of_timm_carry_a_pyramid(name, host) -> None:
    torch.manual_seed(0)
    net = build(host=host, attention="pointwise", places=("res5", "fpn1"), **{**SMALL, "backbone": f"timm:{name}"}).eval()
    levels = net.net.backbone(torch.randn(1, 3, 64, 64))
    first = 8 if host == "retinanet" else 4
    assert [level.shape[-1] for level in levels.values()][:3] == [64 // first, 32 // first, 16 // first]
    assert {"boxes", "labels", "scores"} <= set(net(torch.randn(1, 3, 64, 64))[0])


def test_arms_are_one_mechanism_each() -> None:
    config = PyramidDetector(attention="external_2d", halo_stages=(4,), **SMALL)
    arms = config.arms()
    assert arms["none"].model == replace(config, attention=None, halo_stages=())
    assert arms["pointwise"].model.halo_stages == ()
    assert (arms["halo-last-two"].model.attention, arms["halo-last-two"].model.halo_stages) == (None, (3, 4))
    assert config.plain() == arms["none"].model
    assert "halo-last" not in PyramidDetector(backbone="timm:resnet18").arms()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": ("res6",)}, "places must be among"),
        ({"places": ("res5", "res5")}, "each once"),
        ({"halo_stages": (5,)}, "halo_stages must be"),
        ({"min_size": 0}, "sizes of at least 1"),
        ({"backbone": "resnet19"}, "resnet18"),
        ({"backbone": "timm:no_such_net"}, "model of timm"),
        ({"backbone": "timm:test_vit"}, "times smaller|no maps"),
        ({"backbone": "timm:test_resnet", "attention": "pointwise", "places": ("res3",)}, "res5 or on the pyramid"),
        ({"backbone": "resnet18", "halo_stages": (4,)}, "bottlenecks"),
        ({"attention": "nothing"}, "attention on feature maps"),
    ],
)
def test_what_makes_no_detector_is_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        build(**options)


def test_masks_without_truth_are_refused() -> None:
    without = [{name: value for name, value in target.items() if name != "masks"} for target in targets()]
    with pytest.raises(InputError, match="learns masks"):
        build(host="mask_rcnn", **SMALL)(torch.randn(2, 3, 64, 64), without)
