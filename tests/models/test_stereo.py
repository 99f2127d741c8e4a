"""PSMNet: the published size, the volume and the mean disparity by hand, any size, any mechanism in both places."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal import InputError
from foveal.attention import EfficientAttention2d
from foveal.lab.training.checkpoint import write_weights
from foveal.models import PSMNet, PyramidStereoNet
from foveal.models.stereo.psmnet import PyramidFeatures, cost_volume

SMALL = PSMNet(attention=None, width=4, blocks=(1, 1, 1, 1), pools=(4, 2), max_disparity=16)
PLACES = ["features", "volume"]


def build(config: PSMNet, in_chans: int = 6) -> PyramidStereoNet:
    return config.build(img_size=64, in_chans=in_chans, num_classes=0)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_psmnet_has_the_published_size() -> None:
    """5224768 is what the official code counts (feihuzhang/GANet, issue 91)."""
    with torch.device("meta"):
        plain, attentive, basic = build(PSMNet(attention=None)), build(PSMNet()), build(PSMNet(attention=None, aggregation="basic"))
    assert count(plain) == 5_224_768
    # keys and queries of 16 channels, values of 32, and the projection back, with biases
    assert count(attentive) - count(plain) == 32 * (16 + 16 + 32) + 64 + 32 * 32 + 32
    assert count(plain.features) == count(basic.features) == 3_339_552
    # four residual pairs and one head behind the two convolutions that enter
    assert count(basic) - count(basic.features) == (64 * 32 + 32 * 32) * 27 + 128 + 4 * 2 * (32 * 32 * 27 + 64) + 32 * 32 * 27 + 64 + 32 * 27
    out = plain(torch.empty(1, 6, 256, 512, device="meta"))
    assert out.shape == (1, 3, 256, 512)


def test_the_volume_is_its_definition() -> None:
    left, right = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    got = cost_volume(left, right, 5)
    want = torch.zeros(2, 6, 5, 4, 6)
    for d in range(5):
        for x in range(d, 6):
            want[:, :3, d, :, x] = left[..., x]
            want[:, 3:, d, :, x] = right[..., x - d]
    assert torch.equal(got, want)
    assert cost_volume(left, right, 9)[:, :, 6:].eq(0).all(), "disparities wider than the image match nothing"


def test_the_answer_is_the_mean_disparity() -> None:
    net = build(SMALL).eval()
    cost = torch.full((1, 1, 4, 2, 3), -100.0)
    cost[:, :, 0, 0, 0] = cost[:, :, 3, 1, 2] = 100.0
    got = net._disparity(cost)
    assert got.shape == (1, 1, 8, 12)
    assert got[0, 0, 0, 0].item() == pytest.approx(0, abs=1e-3)
    assert got[0, 0, -1, -1].item() == pytest.approx(15, abs=1e-3)
    enlarged = F.interpolate(cost, size=(16, 8, 12), mode="trilinear", align_corners=True)[0, 0]
    want = sum(d * enlarged.softmax(0)[d] for d in range(16))
    torch.testing.assert_close(got[0, 0], want)


def test_pooled_contexts_are_means_over_windows() -> None:
    """Windows as large as the maps give every pixel the mean, whatever larger size was asked for."""
    torch.manual_seed(0)
    one, other = PyramidFeatures(3, 4, (1, 1, 1, 1), (64,)), PyramidFeatures(3, 4, (1, 1, 1, 1), (8,))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(one(x), other(x))
    other.pools = (4,)
    assert not torch.allclose(one(x), other(x), atol=1e-3)


@pytest.mark.parametrize("size", [(16, 32), (5, 3), (33, 50)])
@pytest.mark.parametrize("aggregation", ["hourglass", "basic"])
def test_any_size(size, aggregation) -> None:
    net = build(replace(SMALL, aggregation=aggregation))
    pair = torch.randn(2, 6, *size)
    assert net(pair).shape == (2, 3 if aggregation == "hourglass" else 1, *size)
    out = net.eval()(pair)
    assert out.shape == (2, 1, *size)
    assert (out >= 0).all()
    assert (out <= SMALL.max_disparity - 1 + 1e-4).all()
    # what is padded is cropped: the same as with the zeros given
    padded = F.pad(pair, (0, -size[1] % 16, 0, -size[0] % 16))
    torch.testing.assert_close(out, net(padded)[..., : size[0], : size[1]])


def test_heads_build_on_each_other() -> None:
    """The cost of a head is the one before it and its own: with the later heads at zero all three answers are the first one's."""
    net = build(SMALL)
    for head in net.aggregate.heads[1:]:
        nn.init.zeros_(head[-1].weight)
    first, second, third = net(torch.randn(1, 6, 16, 32))[0]
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(third, first)
    net.eval()
    nn.init.normal_(net.aggregate.heads[2][-1].weight)
    assert not torch.equal(net(torch.ones(1, 6, 16, 32)), first[None, None])


@pytest.mark.parametrize("place", PLACES)
def test_every_mechanism_stands_in_its_place(place) -> None:
    arms = replace(SMALL, place=place).arms()
    assert {"none", "pointwise", "softmax", "external_2d", "efficient_2d", "linear_2d", "external_2d-slot"} <= set(arms)
    assert ("halo_2d" in arms) == (place == "features")
    for name in ("softmax", "efficient_2d", "linear_2d", "external_2d", "pointwise"):
        model = replace(arms[name].model, options={"slots": 2} if name == "external_2d" else None)
        assert model.place == place
        net = build(model)
        out = net(torch.randn(2, 6, 16, 16))
        assert out.isfinite().all()
        out.sum().backward()
        mixer = net.volume_mixer if place == "volume" else net.feature_mixer
        # linear attention's gate starts at 0, and then it alone has a gradient
        assert any(p.grad is not None and p.grad.any() for p in mixer.parameters())


def test_tokens_of_the_volume_are_pixels_at_disparities() -> None:
    """Efficient attention on the folded volume is that on all its tokens in a row, and puts them back where they were."""
    net = build(replace(SMALL, attention="efficient_2d", place="volume")).eval()
    assert isinstance(net.volume_mixer, EfficientAttention2d)
    volume = torch.randn(2, 4, 3, 5, 6)
    flat = net.volume_mixer(volume.flatten(2)[:, :, None])
    torch.testing.assert_close(net._mixed(volume), flat[:, :, 0].unflatten(2, (3, 5, 6)))


def test_attention_is_all_that_arms_differ_in() -> None:
    for place in PLACES:
        torch.manual_seed(0)
        config = replace(SMALL, place=place, attention="efficient_2d")
        plain, attentive = build(config.plain()), build(config)
        extra = set(attentive.state_dict()) - set(plain.state_dict())
        assert extra
        assert all(name.startswith(("feature_mixer.", "volume_mixer.")) for name in extra)
        assert set(plain.state_dict()) <= set(attentive.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_disparity": 24}, "multiple of 16"),
        ({"max_disparity": 0}, "multiple of 16"),
        ({"blocks": (1, 1)}, "blocks of four stages"),
        ({"pools": ()}, "pools of at least 1"),
        ({"place": "volume", "attention": "halo_2d"}, "halo attention has neighbors in height and width alone"),
    ],
)
def test_settings_that_make_no_network_are_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **options)


def test_inputs_that_are_no_pair_are_refused() -> None:
    with pytest.raises(InputError, match="the channels of two images, got 3"):
        build(SMALL, in_chans=3)
    with pytest.raises(InputError, match="left before right"):
        build(SMALL)(torch.randn(6, 16, 16))


def test_a_run_starts_from_the_weights_of_another(tmp_path) -> None:
    net = build(SMALL)
    write_weights(tmp_path / "model.safetensors", net.state_dict())
    again = build(replace(SMALL, start=tmp_path / "model.safetensors"))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in net.state_dict().items())
    with pytest.raises(InputError, match="weights of another network"):
        build(replace(SMALL, attention="efficient_2d", start=tmp_path / "model.safetensors"))
    with pytest.raises(InputError, match="cannot read weights from"):
        build(replace(SMALL, start=tmp_path / "none.safetensors"))


def test_compiled_it_is_the_same() -> None:
    torch.manual_seed(0)
    net = build(replace(SMALL, attention="efficient_2d")).eval()
    pair = torch.randn(1, 6, 20, 36)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(pair), net(pair))
