"""The diffusion transformer against diffusers' own, and what no network without attention can know."""

import pytest
import torch
from torch import nn

from foveal import InputError
from foveal.models import DiffusionTransformer, DiT


def shaken(model: nn.Module) -> nn.Module:
    """With no weight at zero, where most of it begins."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_it_is_the_transformer_of_diffusers() -> None:
    """Same weights, same answers: blocks, positions, embeddings of timesteps and classes, the way patches are put together."""
    pytest.importorskip("diffusers")
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    ours = shaken(DiffusionTransformer(img_size=8, patch_size=2, in_chans=3, num_classes=5, dim=24, depth=2, num_heads=2)).double().eval()
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "out_channels": 3, "num_layers": 2, "sample_size": 8, "patch_size": 2}
    theirs = DiTTransformer2DModel(**sizes, num_embeds_ada_norm=5, norm_eps=1e-6)
    for block in theirs.transformer_blocks:
        # facebookresearch/DiT divides the exponents of its frequencies by 128, diffusers by 127
        assert block.norm1.emb.time_proj.downscale_freq_shift == 1
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    own, weights = ours.state_dict(), {}
    for name in ("proj.weight", "proj.bias"):
        weights[f"pos_embed.{name}"] = own[f"x_embedder.{name}"]
    for block in range(2):
        mine, other = f"blocks.{block}.", f"transformer_blocks.{block}."
        for place, part in ((0, "linear_1"), (2, "linear_2")):
            for kind in ("weight", "bias"):
                weights[f"{other}norm1.emb.timestep_embedder.{part}.{kind}"] = own[f"t_embedder.mlp.{place}.{kind}"]
        weights[f"{other}norm1.emb.class_embedder.embedding_table.weight"] = own["y_embedder.embedding_table.weight"]
        for kind in ("weight", "bias"):
            weights[f"{other}norm1.linear.{kind}"] = own[f"{mine}adaLN_modulation.1.{kind}"]
            for name, value in zip("qkv", own[f"{mine}attn.qkv.{kind}"].chunk(3), strict=True):
                weights[f"{other}attn1.to_{name}.{kind}"] = value
            weights[f"{other}attn1.to_out.0.{kind}"] = own[f"{mine}attn.proj.{kind}"]
            weights[f"{other}ff.net.0.proj.{kind}"] = own[f"{mine}mlp.fc1.{kind}"]
            weights[f"{other}ff.net.2.{kind}"] = own[f"{mine}mlp.fc2.{kind}"]
    for kind in ("weight", "bias"):
        weights[f"proj_out_1.{kind}"] = own[f"final_layer.adaLN_modulation.1.{kind}"]
        weights[f"proj_out_2.{kind}"] = own[f"final_layer.linear.{kind}"]
    lacking = theirs.load_state_dict(weights, strict=False)
    assert not lacking.unexpected_keys
    # what is not a weight that is learned
    assert set(lacking.missing_keys) <= {"pos_embed.pos_embed"}
    theirs = theirs.double().eval()
    # their positions are kept in float32
    theirs.pos_embed.pos_embed = theirs.pos_embed.pos_embed.double()
    x, t, y = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 400, 999]), torch.tensor([2, 4, 5])
    with torch.no_grad():
        # their embedding of timesteps is in float32 in between
        torch.testing.assert_close(ours(x, t, y), theirs(x, t, y).sample, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["none", "softmax", "denoising", "external"])
def test_patches_meet_in_the_attention_alone(attention) -> None:
    """Another right half of the image changes the answer for the left half, or without attention not by a bit."""
    model = shaken(DiffusionTransformer(img_size=(4, 8), patch_size=2, in_chans=3, dim=16, depth=2, num_heads=2, attention=attention)).double().eval()
    x, t = torch.randn(1, 3, 4, 8, dtype=torch.float64), torch.tensor([500])
    other = x.clone()
    other[..., 4:] += 1
    with torch.no_grad():
        left, changed = (model(images, t)[..., :4] for images in (x, other))
    assert torch.equal(left, changed) == (attention == "none")


def test_patches_come_back_where_they_were() -> None:
    """A network whose blocks add nothing maps each patch by one linear map: pixels of other patches have no part in it, also where it is no square."""
    model = DiffusionTransformer(img_size=(4, 6), patch_size=2, in_chans=2, dim=16, depth=1, num_heads=2, attention="none").double()
    nn.init.normal_(model.final_layer.linear.weight)
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    model(x, torch.tensor([7]))[0, 1, 3, 4].backward()
    seen = x.grad[0].abs().sum(0) > 0
    wanted = torch.zeros(4, 6, dtype=torch.bool)
    wanted[2:4, 4:6] = True
    assert torch.equal(seen, wanted)


@pytest.mark.parametrize("name", sorted(DiT(width=24, depth=1).arms()))
def test_every_arm_begins_by_answering_nothing_and_its_gradient_reaches_every_weight(name) -> None:
    arm = DiT(width=24, depth=1).arms()[name].model
    model = arm.build(img_size=16, in_chans=1, num_classes=3)
    x, t, y = torch.randn(2, 1, 16, 16), torch.tensor([1, 900]), torch.tensor([0, 3])
    assert torch.equal(model(x, t, y), torch.zeros_like(x))
    shaken(model)(x, t, y).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "DistributedDataParallel would refuse it"
    for place, layer in model.named_modules():
        if place.endswith("adaLN_modulation.1"):
            assert layer.weight.grad.any(1).all(), "each row is read"


def test_arms_of_equal_weight_are_so() -> None:
    def weights(name: str) -> int:
        model = DiT().arms()[name].model.build(img_size=32, in_chans=1, num_classes=10)
        return sum(p.numel() for p in model.parameters() if p.ndim == 2)

    assert weights("softmax-wide") == weights("denoising")
    assert weights("denoising-equal") == weights("softmax")
    assert weights("denoising") - weights("softmax") == 4 * 2 * 96**2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patch_size": 3}, "do not tile an image of 8×8"),
        ({"dim": 18}, "divisible by 4"),
        ({"num_heads": 5}, "num_heads must divide"),
        ({"attention": "none", "options": {"slots": 4}}, "no options"),
        ({"attention": "cross_sample", "options": {"init": "kmeans"}}, "choose another init"),
        ({"attention": "sofmax"}, "softmax"),
    ],
)
def test_what_makes_no_network_is_refused(settings, says) -> None:
    with pytest.raises(InputError, match=says):
        DiffusionTransformer(**{"img_size": 8, "patch_size": 2, "dim": 16, "num_heads": 2, **settings})


def test_inputs_of_another_shape_are_refused() -> None:
    model = DiffusionTransformer(img_size=8, patch_size=2, dim=16, depth=1, num_heads=2)
    t = torch.zeros(2, dtype=torch.long)
    for inputs, says in (
        ((torch.randn(2, 1, 8, 6), t), "expects images"),
        ((torch.zeros(2, 1, 8, 8, dtype=torch.uint8), t), "floating point"),
        ((torch.randn(2, 1, 8, 8), t[:1]), "timesteps must be one for each of 2"),
        ((torch.randn(2, 1, 8, 8), t, t[:1]), "classes must be one for each"),
    ):
        with pytest.raises(InputError, match=says):
            model(*inputs)
