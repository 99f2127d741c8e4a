"""The UNet of diffusion against diffusers' own, weight for weight, and against the published number of parameters."""

import pytest
import torch
from torch import nn

from foveal import InputError
from foveal.models import DiffusionUNet, UNet

SMALL = {"img_size": 8, "in_chans": 3, "width": 32, "multipliers": (1, 2, 2), "blocks": 1, "attention_levels": (1,)}


def shaken(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.double().eval()


def renamed(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights under the names of ``UNet2DModel``."""
    parts = {"condition": "time_emb_proj", "skip": "conv_shortcut", "norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
    places = {"down": "down_blocks", "up": "up_blocks"}
    found = {}
    for name, value in own.items():
        words = name.split(".")
        if words[0] in ("down", "up", "middle"):
            level, rest = ("mid_block", words[1:]) if words[0] == "middle" else (f"{places[words[0]]}.{words[1]}", words[2:])
            if rest[0] == "resize":
                found[f"{level}.{'downsamplers' if words[0] == 'down' else 'upsamplers'}.0.conv.{rest[1]}"] = value
            elif rest[0] == "blocks":
                found[f"{level}.resnets.{rest[1]}.{parts[rest[2]]}.{rest[3]}"] = value
            elif rest[2] == "norm":
                found[f"{level}.attentions.{rest[1]}.group_norm.{rest[3]}"] = value
            elif rest[3] == "qkv":
                found |= {f"{level}.attentions.{rest[1]}.to_{letter}.{rest[4]}": part for letter, part in zip("qkv", value.chunk(3), strict=True)}
            else:
                found[f"{level}.attentions.{rest[1]}.to_out.0.{rest[4]}"] = value
        elif words[0] == "time_embedding":
            found[f"time_embedding.linear_{1 if words[1] == '0' else 2}.{words[2]}"] = value
        else:
            found[name.replace("norm_out", "conv_norm_out")] = value
    return found


@pytest.mark.parametrize(("classes", "heads"), [(0, 1), (5, 4)])
def test_it_is_the_unet_of_diffusers(classes, heads) -> None:
    pytest.importorskip("diffusers")
    from diffusers.models.unets.unet_2d import UNet2DModel

    ours = shaken(DiffusionUNet(**SMALL, num_classes=classes, num_heads=heads))
    theirs = UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None if heads == 1 else 64 // heads,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        num_class_embeds=classes + 1 if classes else None,
    )
    theirs.load_state_dict(renamed(ours.state_dict()))
    theirs = theirs.double().eval()
    x, t = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 400, 999])
    y = torch.tensor([2, 4, 5]) if classes else None
    with torch.no_grad():
        # timesteps are embedded in float32 in both
        torch.testing.assert_close(ours(x, t, y), theirs(x, t, y).sample, rtol=1e-6, atol=1e-7)
        if classes:
            torch.testing.assert_close(ours(x, t), ours(x, t, torch.full((3,), 5)), rtol=0, atol=0)


def test_the_published_one_has_the_published_number_of_parameters() -> None:
    """Ho et al.: 35.7 million; google/ddpm-cifar10-32 has 35,746,307."""
    with torch.device("meta"):
        model = UNet().build(img_size=32, in_chans=3, num_classes=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_746_307


@pytest.mark.parametrize("name", sorted(UNet().arms()))
def test_every_attention_stands_in_it_and_learns(name) -> None:
    torch.manual_seed(0)
    config = UNet(width=16, multipliers=(1, 2), blocks=1, num_heads=2, dropout=0.0).arms()[name].model
    model = config.build(img_size=(8, 16), in_chans=1, num_classes=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, t, y = torch.randn(8, 1, 8, 16), torch.randint(1000, (8,)), torch.randint(4, (8,))
    losses = []
    for _ in range(6):
        answer = model(x, t, y)
        assert answer.shape == x.shape
        loss = (answer - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # whatever is built is used
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_where_attention_stands_it_is_one_of_all_pixels() -> None:
    """Without it, what lies farther away than the convolutions reach has no part in an answer; with it everything has."""
    for attention in (None, "softmax"):
        model = shaken(DiffusionUNet(img_size=(2, 96), in_chans=1, width=8, multipliers=(1,), blocks=1, attention_levels=(0,), attention=attention))
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                # their statistics are of the whole image
                module.forward = nn.Identity().forward
        x = torch.randn(1, 1, 2, 96, dtype=torch.float64, requires_grad=True)
        model(x, torch.tensor([5]))[..., 0].sum().backward()
        assert (x.grad[..., -1].abs().sum() > 0) == (attention is not None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"img_size": 10}, "halve the image 2 times, which 10×10"),
        ({"attention_levels": (3,)}, "attention_levels from 0 to 2"),
        ({"width": 33}, "even width"),
        ({"blocks": 0}, "at least one block"),
        ({"num_heads": 5}, "num_heads must divide"),
        ({"attention": "sofmax"}, "softmax"),
        ({"options": {"slots": 3}}, "slots"),
    ],
)
def test_what_makes_no_network_is_refused(settings, says) -> None:
    with pytest.raises(InputError, match=says):
        DiffusionUNet(**{**SMALL, **settings})


def test_inputs_of_another_shape_are_refused() -> None:
    model = DiffusionUNet(**{**SMALL, "width": 8}, num_classes=2)
    with pytest.raises(InputError, match=r"diffusion UNet expects images \(B, 3, 8, 8\)"):
        model(torch.randn(1, 3, 16, 16), torch.zeros(1))
    with pytest.raises(InputError, match="classes must be one for each of 2 images"):
        model(torch.randn(2, 3, 8, 8), torch.zeros(2), torch.zeros(1, dtype=torch.long))
