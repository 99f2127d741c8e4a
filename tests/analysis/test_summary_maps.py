"""Maps of slots and of key channels: applied to the values as the papers' formulas say, they give what the blocks give."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foveal import ChannelLinearAttention2d, EfficientAttention2d, ExternalAttention2d, InputError, LinearAttention2d
from foveal.analysis import attention_maps, rollout, summary_maps
from foveal.cli import main
from foveal.lab.data import FlagSwap
from foveal.lab.inspect import LoadedModel, inspect_model
from foveal.lab.tasks import Segmentation
from foveal.lab.training import Optim, Recipe, fit
from foveal.models import SmallFCN


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 8, 5, 7, dtype=torch.float64)


def maps_of(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    (found,) = summary_maps(nn.Sequential(nn.Identity(), block), x).items()
    assert found[0] == "1"
    return found[1]


def test_slots_of_external_attention_make_its_output(x) -> None:
    block = ExternalAttention2d(8, slots=6).double().eval()
    nn.init.uniform_(block.bn.running_mean)
    maps = maps_of(block, x)
    assert maps.shape == (2, 6, 5, 7)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 5, 7, dtype=torch.float64))
    mixed = torch.einsum("bshw,sc->bchw", maps, block.memory.memory_v)
    want = (block.bn(block.conv2(mixed)) + x).relu()
    torch.testing.assert_close(block(x), want)


@pytest.mark.parametrize("normalization", ["softmax", "scaling"])
def test_key_channels_of_efficient_attention_make_its_output(x, normalization) -> None:
    block = EfficientAttention2d(8, key_channels=4, num_heads=2, normalization=normalization).double().eval()
    maps = maps_of(block, x).unflatten(1, (2, 2))
    if normalization == "softmax":
        torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 2, 2, dtype=torch.float64))
    q, _, v = (part.unflatten(1, (2, -1)) for part in block.qkv(x).split((4, 4, 8), dim=1))
    takes = q.softmax(2) if normalization == "softmax" else q
    summary = torch.einsum("bndhw,bnvhw->bndv", maps, v)
    want = x + block.proj(torch.einsum("bndhw,bndv->bnvhw", takes, summary).flatten(1, 2))
    torch.testing.assert_close(block(x), want)


def test_key_channels_of_linear_attention_make_its_output(x) -> None:
    block = LinearAttention2d(8, key_channels=4, gamma_init=0.7).double().eval()
    maps = maps_of(block, x)
    q, _, v = block.qkv(x).split((4, 4, 8), dim=1)
    takes = q / q.norm(dim=1, keepdim=True)
    top = v.sum((-2, -1))[..., None, None] + torch.einsum("bdhw,bdv->bvhw", takes, torch.einsum("bdhw,bvhw->bdv", maps, v))
    bottom = 35 + torch.einsum("bdhw,bd->bhw", takes, maps.sum((-2, -1)))
    torch.testing.assert_close(block(x), x + 0.7 * top / bottom[:, None])


def test_layers_that_run_twice_are_told_apart_and_others_have_none(x) -> None:
    block = LinearAttention2d(8).double()
    model = nn.Sequential(block, block, nn.ReLU()).train()
    assert list(summary_maps(model, x)) == ["0", "0:2"]
    assert model.training
    assert not model[0]._forward_hooks
    assert summary_maps(nn.Sequential(nn.ReLU()), x) == {}


@pytest.mark.parametrize(("attention", "options", "pictures"), [("external_2d", {"slots": 16}, 12), ("linear_2d", None, 4), ("softmax", None, 0)])
def test_inspect_draws_them_under_a_prediction(attention, options, pictures, tmp_path, capsys) -> None:
    """A block of 16 slots shows those that vary most; one of 4 key channels all."""
    recipe = Recipe(
        data=FlagSwap(train_scenes=4, val_scenes=1, test_scenes=1),
        model=SmallFCN(attention=attention, options=options, depth=1),
        task=Segmentation(),
        optim=Optim(),
        steps=1,
        batch_size=4,
        trackers=(),
    )
    fit(recipe, tmp_path / "run", quiet=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "scene.png")
    assert main(["inspect", str(tmp_path / "run"), str(tmp_path / "scene.png"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "prediction.html").read_text()
    assert page.count("<img ") == 3 + pictures
    assert ("mixer" in page) == bool(pictures)


@pytest.mark.case("C12", "C13")
@pytest.mark.parametrize("channels", [64, 9])
def test_a_map_of_channels_is_none_of_pixels(channels, tmp_path) -> None:
    """64 channels are as many as 8×8 pixels: nothing in the shape of the map tells them apart."""
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Conv2d(3, channels, 3, stride=4, padding=1), ChannelLinearAttention2d(channels, gamma_init=0.5))
    model, images = nn.Sequential(stage, LinearAttention2d(channels)).eval(), torch.randn(2, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"missing: 0\.1: it attends between channels, and not between tokens"):
        maps = attention_maps(model, images)
    assert {name: tuple(named["combined"].shape[-2:]) for name, named in maps.items()} == {"1": (64, 64)}
    with pytest.raises(InputError, match=r"0\.1: it attends between channels"):
        rollout(model, images)
    lines, _ = inspect_model(LoadedModel("own", model, lambda image: images[0], trained=False), Image.new("RGB", (32, 32)), tmp_path)
    assert "no map of 0.1: it attends between channels, and not between tokens" in lines
    with pytest.raises(InputError, match=r"no attention whose maps could be seen; those that ran: 1: it attends between channels"):
        attention_maps(stage, images)
