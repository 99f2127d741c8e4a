"""Segmentation networks: published counts, any size, any mechanism; and blocks that mix nothing where they should not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import InputError
from foveal.analysis import cost
from foveal.models import DilatedResNet, MAResUNet, PixelMixer, SmallFCN, SmpConfig, list_feature_mixers, make_feature_mixer
from foveal.models.segmentation.maresunet import ChannelAttention


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(config, in_chans: int = 3, num_classes: int = 6) -> nn.Module:
    with torch.device("meta"):
        return config.build(img_size=64, in_chans=in_chans, num_classes=num_classes)


def test_maresunet_has_the_published_size() -> None:
    model = on_meta(MAResUNet())
    assert count(model) == 26_276_510
    assert count(on_meta(MAResUNet(), num_classes=5)) == 26_276_510 - (32 * 9 + 1)
    assert count(model.encoder) == 21_284_672, "torchvision's ResNet-34 without its head"
    assert [round(count(block) / 1e6, 3) for block in model.attention] == [0.055, 0.218, 0.870, 3.476]
    assert round(cost(model, (3, 256, 256)).macs / 1e9, 2) == 7.18
    assert round(cost(model, (3, 512, 512)).macs / 1e9, 2) == 28.70


def test_maresunet_takes_other_channels_encoders_and_mechanisms() -> None:
    assert count(on_meta(MAResUNet(), in_chans=5)) == 26_276_510 + 2 * 64 * 49
    assert count(on_meta(MAResUNet(encoder="resnet18"))) == 26_276_510 - 21_284_672 + 11_176_512
    model = MAResUNet(attention="external_2d", options={"slots": 4}, encoder="resnet18").build(img_size=64, in_chans=2, num_classes=3)
    out = model.eval()(torch.randn(1, 2, 40, 70))
    assert out.shape == (1, 3, 40, 70)
    assert out.isfinite().all()


def test_maresunet_pads_what_it_crops() -> None:
    """An image whose sides fit is what it would be anyway."""
    model = MAResUNet(encoder="resnet18").build(img_size=64, in_chans=3, num_classes=2).eval()
    image = torch.randn(1, 3, 50, 64)
    torch.testing.assert_close(model(image), model(F.pad(image, (0, 0, 0, 14)))[..., :50, :])


def test_all_gates_of_maresunet_open_in_training() -> None:
    torch.manual_seed(0)
    model = MAResUNet(encoder="resnet18").build(img_size=32, in_chans=3, num_classes=2)
    images, masks = torch.randn(4, 3, 32, 32), torch.randint(0, 2, (4, 32, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(images), masks).backward()
        optimizer.step()
    gates = {name: value.item() for name, value in model.named_parameters() if name.endswith("gamma")}
    assert len(gates) == 8
    assert all(abs(value) > 0 for value in gates.values())


def test_channel_attention_is_its_formula() -> None:
    module = ChannelAttention().double()
    module.gamma.data.fill_(0.7)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    want = torch.empty_like(x)
    for b in range(2):
        for c in range(5):
            energy = torch.stack([(x[b, c] * x[b, m]).sum() for m in range(5)])
            weights = (energy.max() - energy).exp()
            mixed = sum(w * x[b, m] for m, w in enumerate(weights / weights.sum()))
            want[b, c] = x[b, c] + 0.7 * mixed
    torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-5)
    half = ChannelAttention().half()
    half.gamma.data.fill_(1.0)
    assert half(torch.full((1, 4, 64, 64), 10.0, dtype=torch.float16)).isfinite().all(), "the sum over pixels overflows half precision"


@pytest.mark.parametrize(("head", "stride"), [("eanet", 8), ("fcn", 8), ("deeplabv3", 8), ("eanet", 16)])
def test_dilated_networks_keep_their_stride(head, stride) -> None:
    config = DilatedResNet(head=head, output_stride=stride)
    model = on_meta(config, num_classes=21).eval()
    features = model.backbone.forward_features(torch.empty(1, 3, 65, 96, device="meta"))
    assert features.shape == (1, 2048, -(-65 // stride), 96 // stride)
    assert model(torch.empty(1, 3, 65, 96, device="meta")).shape == (1, 21, 65, 96)
    assert [block.conv2.dilation[0] for block in model.backbone.layer4] == [32 // stride * factor for factor in (1, 2, 4)]


def test_the_eanet_head_is_what_its_layers_sum_to() -> None:
    """Counted by hand: 2048→512, the block of 0.591 M, 512→256, classes; and the stem of 64, 64, 128."""
    model = on_meta(DilatedResNet(), num_classes=21)
    block = 512 * 512 + 512 + 2 * 64 * 512 + 512 * 512 + 2 * 512
    assert round(block / 1e6, 3) == 0.591
    assert count(model.head) == 2048 * 512 * 9 + 2 * 512 + block + 512 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    stem = model.backbone.conv1
    assert [layer.out_channels for layer in stem if isinstance(layer, nn.Conv2d)] == [64, 64, 128]
    assert count(on_meta(DilatedResNet(backbone="resnet101"))) - count(on_meta(DilatedResNet())) == 17 * (1024 * 256 * 2 + 256 * 256 * 9 + 4 * 256 + 2 * 1024)


@pytest.mark.parametrize("name", list_feature_mixers())
def test_every_mechanism_stands_in_a_network(name) -> None:
    torch.manual_seed(0)
    config = SmallFCN(attention=name, width=16, num_heads=2)
    model = config.build(img_size=24, in_chans=1, num_classes=3)
    out = model(torch.randn(2, 1, 9, 14))
    assert out.shape == (2, 3, 9, 14)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert cost(model, (1, 12, 12)).parameters == count(model)
    assert config.arms()[name].model == config


@pytest.mark.parametrize(
    ("name", "options", "mixes"),
    [("pointwise", None, False), ("external_2d", {"normalization": "slot"}, False), ("external_2d", None, True), ("softmax", None, True)],
)
def test_pixels_meet_where_they_should_and_nowhere_else(name, options, mixes) -> None:
    """What one pixel hears of one far away."""
    torch.manual_seed(0)
    block = make_feature_mixer(name, 8, options=options).eval()
    x = torch.randn(1, 8, 10, 10, requires_grad=True)
    (grad,) = torch.autograd.grad(block(x)[0, :, 0, 0].sum(), x)
    assert bool(grad[0, :, 9, 9].any()) == mixes


def test_a_token_attention_on_maps_is_itself_on_their_pixels() -> None:
    torch.manual_seed(0)
    mixer = make_feature_mixer("denoising", 8, num_heads=2)
    assert isinstance(mixer, PixelMixer)
    x = torch.randn(2, 8, 3, 5)
    tokens = torch.stack([x[:, :, y, c] for y in range(3) for c in range(5)], 1)
    out = tokens + mixer.attn(mixer.norm(tokens))
    want = torch.stack([out[:, n] for n in range(15)], -1).view(2, 8, 3, 5)
    torch.testing.assert_close(mixer(x), want)
    last = mixer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, want)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_smp_decoders_take_an_attention() -> None:
    plain, mixed = (SmpConfig(attention=name, options=None).build(img_size=32, in_chans=3, num_classes=2).eval() for name in (None, "external_2d"))
    assert mixed(torch.randn(1, 3, 40, 33)).shape == (1, 2, 40, 33)
    assert count(mixed) - count(plain) == count(make_feature_mixer("external_2d", 512))
    with pytest.raises(InputError, match="makes no 'unet' with the encoder 'resnet19'"):
        SmpConfig(encoder="resnet19").build(img_size=32, in_chans=3, num_classes=2)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (SmallFCN(attention="external2d"), "unknown attention on feature maps 'external2d'; did you mean external_2d"),
        (SmallFCN(attention="halo"), "unknown attention on feature maps 'halo'"),
        (SmallFCN(stride=3), "a stride out of 1, 2, 4"),
        (SmallFCN(attention="softmax", num_heads=5), "num_heads must divide dim"),
        (SmallFCN(attention="external_2d", options={"slot": 4}), "unknown option of external_2d 'slot'; did you mean slots"),
        (DilatedResNet(output_stride=4), "output_stride 8 or 16"),
    ],
)
def test_networks_that_cannot_be_are_refused(config, says) -> None:
    with pytest.raises(InputError, match=says):
        on_meta(config)
