"""Attentions on maps in networks of others: behind a stage, where they begin as nothing, and in timm's blocks."""

import copy
import pickle

import pytest
import torch
from torch import nn

import foveal
from foveal import DenoisingAttention, EfficientAttention2d, ExternalAttention2d, HaloAttention2d, LinearAttention2d, insert_, revert_
from foveal.attention import attention_class, list_attentions
from tests.convert.test_hosts import stirred

EXTERNAL = ExternalAttention2d.Config(slots=4)


def resnet() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return stirred(torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5))


def timm_net(name: str, **options: object) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return stirred(timm.create_model(name, **options))


@pytest.mark.parametrize("name", list_attentions(form="2d"))
def test_every_attention_on_maps_begins_as_nothing_and_learns(name) -> None:
    model, images = resnet(), torch.randn(2, 3, 48, 80)
    want, keys = model(images), list(model.state_dict())
    report = insert_(model, attention_class(name).Config(), after="layer[34]")
    assert [(swap.name, swap.function) for swap in report.swaps] == [(f"layer{n}.foveal_attention", "kept") for n in (3, 4)]
    assert torch.equal(model(images), want)
    assert set(keys) < set(model.state_dict()), "other weights keep their names"
    block = model.layer4.foveal_attention
    assert report.swaps[1].new == [key for key, _ in block.named_parameters()]
    with torch.no_grad():
        block.gamma.fill_(0.5)
    model(images).square().sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert (model(images) - want).abs().max() > 1e-4
    assert revert_(model) == ["layer3.foveal_attention", "layer4.foveal_attention"]
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images), want)


def test_gamma_of_one_is_the_papers_block() -> None:
    """Whether the block adds its input itself or not."""
    for config in (EXTERNAL, HaloAttention2d.Config(block_size=2, halo_size=1), EfficientAttention2d.Config()):
        model, images = resnet(), torch.randn(1, 3, 64, 64)
        before = copy.deepcopy(model.layer4)
        insert_(model, config, after="layer4")
        grown = model.layer4.foveal_attention
        with torch.no_grad():
            grown.gamma.fill_(1.0)
        x = torch.randn(1, 256, 4, 4)
        stage = before(x)
        want = grown.attn(stage) if config.attention != "halo_2d" else stage + grown.attn(stage)
        torch.testing.assert_close(model.layer4(x), want, rtol=1e-5, atol=1e-5)
        paper = resnet()
        report = insert_(paper, config, after="layer4", start="paper")
        assert report.swaps[0].function == "changed"
        assert type(paper.layer4.foveal_attention) is type(grown.attn)
        assert paper(images).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "after"), [("test_resnet", "layer4"), ("test_convnext", "stages.3"), ("test_efficientnet", "blocks.1"), ("regnetx_002", "s4")]
)
def test_stages_of_timm(name, after) -> None:
    """Some are sequences, some compute for themselves; features of the stage hold what was inserted."""
    model, images = timm_net(name), torch.randn(1, 3, 64, 64)
    want = model(images)
    insert_(model, LinearAttention2d.Config(), after=after)
    assert torch.equal(model(images), want)
    with torch.no_grad():
        model.get_submodule(after).foveal_attention.gamma.fill_(3.0)
    changed = model(images)
    assert (changed - want).abs().max() > 1e-5
    assert torch.equal(copy.deepcopy(model)(images), changed)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), changed)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(images), changed, rtol=1e-4, atol=1e-5)
    revert_(model)
    assert torch.equal(model(images), want)


def test_features_of_timm_go_on() -> None:
    model, images = timm_net("test_resnet", features_only=True), torch.randn(1, 3, 64, 64)
    want = model(images)
    insert_(model, LinearAttention2d.Config(), after="layer3")
    with torch.no_grad():
        model.layer3.foveal_attention.gamma.fill_(1.0)
    got = model(images)
    assert [torch.equal(a, b) for a, b in zip(got, want, strict=True)] == [True] * 3 + [False] * 2


def test_inside_a_detector_and_a_segmentation_network() -> None:
    torchvision = pytest.importorskip("torchvision")
    detection = torchvision.models.detection
    torch.manual_seed(0)
    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    detector = detection.FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64, box_detections_per_img=5).eval()
    images = [torch.rand(3, 64, 64)]
    maps, want = detector.backbone(images[0][None]), detector(images)
    report = insert_(detector, EXTERNAL, after="backbone.body.layer4")
    assert report.swaps[0].notes == ["after backbone.body.layer4, 512 channels"]
    assert torch.equal(detector(images)[0]["boxes"], want[0]["boxes"])
    with torch.no_grad():
        detector.backbone.body.layer4.foveal_attention.gamma.fill_(1.0)
    assert (detector.backbone(images[0][None])["3"] - maps["3"]).abs().max() > 1e-3
    detector.train()
    losses = detector(images, [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}])
    sum(losses.values()).backward()
    assert detector.backbone.body.layer4.foveal_attention.attn.conv1.weight.grad.abs().max() > 0
    segmenter = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=3).eval()
    x = torch.randn(1, 3, 32, 32)
    want = segmenter(x)["out"]
    insert_(segmenter, EfficientAttention2d.Config(), after="backbone.layer4")
    assert torch.equal(segmenter(x)["out"], want)


def test_a_delta_holds_what_was_inserted(tmp_path) -> None:
    pytest.importorskip("safetensors")
    model, images = resnet(), torch.randn(2, 3, 64, 64)
    insert_(model, EXTERNAL, after="layer4")
    with torch.no_grad():
        model.layer4.foveal_attention.gamma.fill_(0.7)
    model.train()(images)
    model.eval()
    written = foveal.save_delta(model, tmp_path / "delta.safetensors")
    assert {"layer4.foveal_attention.gamma", "layer4.foveal_attention.attn.bn.running_mean"} < set(written)
    other = resnet()
    report = foveal.load_delta(other, tmp_path / "delta.safetensors")
    assert [swap.name for swap in report.swaps] == ["layer4.foveal_attention"]
    assert torch.equal(other(images), model(images))
    again = resnet()
    with torch.no_grad():
        again.fc.bias.add_(1)
    with pytest.raises(ValueError, match="another base"):
        foveal.load_delta(again, tmp_path / "delta.safetensors")
    assert not hasattr(again.layer4, "foveal_attention")


def test_the_report_has_a_line() -> None:
    report = insert_(resnet(), LinearAttention2d.Config(), after="layer4")
    line = report.table().splitlines()[1].split()
    assert line[:4] == ["layer4.foveal_attention", "—", "linear_2d", "kept"]
    assert foveal.ConversionReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("config", "after", "options", "says"),
    [
        (DenoisingAttention.Config(), "layer4", {}, "takes tokens, and stages give feature maps"),
        (EXTERNAL, "stage4", {}, "the model has no module 'stage4'; its parts are conv1, bn1"),
        (EXTERNAL, "layer4", {"start": "zero"}, "start of an inserted block"),
        (EXTERNAL, "relu", {}, "say channels="),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_trace(config, after, options, says) -> None:
    model = resnet()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=says):
        insert_(model, config, after, **options)
    assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match="not converted"):
        revert_(model)


def test_one_block_a_stage_and_none_in_lists() -> None:
    model = resnet()
    insert_(model, EXTERNAL, after="layer4")
    with pytest.raises(ValueError, match="has an inserted block already"):
        insert_(model, EXTERNAL, after=["layer3", "layer4"])
    assert not hasattr(model.layer3, "foveal_attention")
    with pytest.raises(ValueError, match="holds modules and does not run them"):
        insert_(nn.ModuleDict({"stages": nn.ModuleList([nn.Conv2d(3, 8, 1)])}), EXTERNAL, after="stages")
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1)))
    insert_(model, EXTERNAL, after="0", channels=5)
    with pytest.raises(ValueError, match="C=5"):
        model(torch.randn(1, 3, 4, 4))
    model[0] = torch.compile(model[0])
    with pytest.raises(ValueError, match="compiled"):
        insert_(model, EXTERNAL, after="0")


@pytest.mark.parametrize("name", ["external_2d", "efficient_2d", "linear_2d", "linear_channel_2d", "halo_2d"])
def test_layers_for_timms_blocks(name) -> None:
    """timm builds the layer itself, wherever its blocks have one; the channels come first, as in ``create_attn``."""
    model = timm_net("test_resnet", block_args={"attn_layer": attention_class(name).Config().layer()}, num_classes=5)
    blocks = [module for module in model.modules() if type(module) is attention_class(name)]
    assert len(blocks) == 4
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
