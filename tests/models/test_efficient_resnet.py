"""ResNet with efficient attention: counts, places, and a trained ResNet that keeps its function."""

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, ResNet

from foveal import EfficientAttention2d, InputError
from foveal.models import EfficientResNet
from tests.models.timm_contract import TimmContract, stir


class TestEfficientResNet(TimmContract):
    name = "test_fov_resnet_ea"


@pytest.mark.parametrize(("name", "own"), [("fov_resnet50_ea1", 787_968), ("fov_resnet50_ea2", 787_968 + 3_148_800)])
def test_counts(name, own) -> None:
    """25,557,032 of ResNet-50 and, for d channels, d (2 d/2 + d) + d² weights with 2 d/2 + 2 d biases: 787,968 at 512 as published."""
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 + own
    d = 1024
    assert d * 2 * d + d * d + 3 * d == 3_148_800


def test_attention_stands_at_the_end_of_its_stages() -> None:
    model = timm.create_model("fov_resnet50_ea2", device="meta")
    places = [name for name, module in model.named_modules() if isinstance(module, EfficientAttention2d)]
    assert places == ["layer2.4", "layer3.6"]
    assert [model.get_submodule(place).channels for place in places] == [512, 1024]


def plain(**options) -> ResNet:
    return ResNet(BasicBlock, (1, 1, 1, 1), channels=(16, 24, 32, 40), num_classes=10, **options)


@torch.no_grad()
def test_features_go_through_the_attention() -> None:
    """Stage by stage with timm's own ResNet beside it."""
    host, model = stir(plain()).eval(), stir(timm.create_model("test_fov_resnet_ea")).eval()
    host.load_state_dict({key: model.state_dict()[key] for key in host.state_dict()})
    x = torch.randn(2, 3, 32, 32)
    y = host.maxpool(host.act1(host.bn1(host.conv1(x))))
    y = model.layer2[1](host.layer2(host.layer1(y)))
    y = host.layer4(model.layer3[1](host.layer3(y)))
    assert torch.equal(model(x), host.forward_head(y))


def test_a_trained_resnet_keeps_its_function(tmp_path) -> None:
    host, x = stir(plain()).eval(), torch.randn(2, 3, 32, 32)
    torch.save(host.state_dict(), tmp_path / "resnet.pth")
    overlay = {"file": str(tmp_path / "resnet.pth")}
    model = timm.create_model("test_fov_resnet_ea", pretrained=True, pretrained_cfg_overlay=overlay, options={"gamma_init": 0.0}).eval()
    assert torch.equal(model(x), host(x))
    assert model.no_weight_decay() == {"layer2.1.gamma", "layer3.1.gamma"}
    # and where attention would change it, its weights may not be missing
    for options in ({"gamma_init": 0.5}, None):
        with pytest.raises(RuntimeError, match=r"Missing key.*layer2\.1"):
            timm.create_model("test_fov_resnet_ea", pretrained=True, pretrained_cfg_overlay=overlay, options=options)


@pytest.mark.parametrize("after", [(0,), (5,), (2, 2)])
def test_stages_that_are_not_there_are_refused(after) -> None:
    with pytest.raises(InputError, match="stages 1 to 4, each once"):
        EfficientResNet(after=after, device="meta")
