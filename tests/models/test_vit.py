"""The vision transformer: equal budgets, equal starts, and what must not decay."""

import pytest
import torch
from timm.optim import create_optimizer_v2

import foveal
from foveal import InputError
from foveal.attention import list_attentions
from foveal.models import SIZES, ViT, share_initial_weights_
from foveal.models.vit import scaled_heads

SHAPE = {"img_size": 36, "in_chans": 1, "num_classes": 10}


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def matrices(model: torch.nn.Module) -> int:
    """Weights of linear maps inside attentions: what the budgets of the paper count."""
    return sum(p.numel() for name, p in model.named_parameters() if ".attn." in name and p.ndim == 2)


@pytest.mark.parametrize("size", list(SIZES))
def test_matched_arms_have_equal_weights_by_construction(size) -> None:
    """What is left are biases and λ, counted here to the last one."""
    dial = SIZES[size]
    c, depth, wide, narrow = dial.dim, dial.depth, scaled_heads(size, 3, 2), scaled_heads(size, 2, 3)
    arms = {
        "softmax": ViT(size=size),
        "softmax-wide": ViT(size=size, num_heads=wide),
        "denoising": ViT(attention="denoising", size=size),
        "denoising-equal": ViT(attention="denoising", size=size, num_heads=narrow),
    }
    built = {name: arm.build(**SHAPE) for name, arm in arms.items()}
    assert {name: matrices(model) // (depth * c * c) for name, model in built.items()} == {
        "softmax": 4, "softmax-wide": 6, "denoising": 6, "denoising-equal": 4,
    }  # fmt: skip
    for model in built.values():
        assert matrices(model) % (depth * c * c) == 0
        assert model.blocks[0].attn.head_dim == c // dial.num_heads, "heads keep their width"
    # biases of the projections in: 3I for softmax, 5I for denoising, which has a λ per head besides
    assert count(built["denoising"]) - count(built["softmax-wide"]) == depth * (5 * c + dial.num_heads - 3 * (3 * c // 2))
    assert count(built["denoising-equal"]) - count(built["softmax"]) == depth * (5 * (2 * c // 3) + narrow - 3 * c)


def test_the_totals_that_the_documentation_prints() -> None:
    totals = {
        name: count(vit.build(**SHAPE))
        for name, vit in {
            "softmax": ViT(),
            "softmax-wide": ViT(num_heads=9),
            "denoising": ViT(attention="denoising"),
            "denoising-equal": ViT(attention="denoising", num_heads=4),
        }.items()
    }
    # by hand: patches 36·48+48, class token 48, positions 37·48, three blocks, norm 96, head 490
    around, block = 36 * 48 + 48 + 48 + 37 * 48 + 96 + 490, 2 * 96 + 48 * 192 + 192 + 192 * 48 + 48
    attentions = {
        "softmax": 4 * 48**2 + 3 * 48 + 48,
        "softmax-wide": 6 * 48**2 + 3 * 72 + 48,
        "denoising": 6 * 48**2 + 5 * 48 + 48 + 6,
        "denoising-equal": 4 * 48**2 + 5 * 32 + 48 + 4,
    }
    assert totals == {name: around + 3 * (block + own) for name, own in attentions.items()}


@pytest.mark.parametrize("size", list(SIZES))
def test_arms_with_more_heads_and_with_options(size) -> None:
    """In units of C²: what the theory counts (evidence in docs), and that heads are as many and as wide as the names say."""
    dial, arms = SIZES[size], ViT(size=size).arms()
    heads, width = dial.num_heads, dial.dim // dial.num_heads
    wanted = {
        "softmax-centered": (4, heads, width),
        "softmax-many": (6, 2 * heads, width * 3 // 4),
        "softmax-2H": (8, 2 * heads, width),
        "denoising-shared": (5, heads, width),
    }
    for name, (units, many, wide) in wanted.items():
        model = arms[name].model.build(**SHAPE)
        attention = model.blocks[0].attn
        assert matrices(model) == units * dial.depth * dial.dim**2, name
        assert (attention.num_heads, attention.head_dim) == (many, wide), name
    plain, centered = (count(arms[name].model.build(**SHAPE)) for name in ("softmax", "softmax-centered"))
    assert centered - plain == dial.depth * heads, "a λ a head and nothing else"


def test_a_head_width_that_is_given_stands() -> None:
    attention = ViT(num_heads=4, options={"attn_head_dim": 10}).build(**SHAPE).blocks[0].attn
    assert (attention.num_heads, attention.head_dim) == (4, 10)


def test_the_head_may_read_the_mean_of_patches() -> None:
    torch.manual_seed(0)
    token, mean = ViT().build(**SHAPE), ViT(global_pool="avg").build(**SHAPE)
    assert (token.num_prefix_tokens, mean.num_prefix_tokens) == (1, 0)
    assert mean.cls_token is None
    x = torch.randn(2, 1, 36, 36)
    want = mean.head(mean.fc_norm(mean.norm(mean.blocks(mean._pos_embed(mean.patch_embed(x)))).mean(1)))
    torch.testing.assert_close(mean(x), want)


@pytest.mark.parametrize(("size", "numerator", "denominator", "heads"), [("tiny", 3, 2, 9), ("base", 2, 3, 4), ("small", 1, 1, 6)])
def test_scaled_heads(size, numerator, denominator, heads) -> None:
    assert scaled_heads(size, numerator, denominator) == heads


def test_heads_that_do_not_come_out_whole_are_ours_to_notice() -> None:
    with pytest.raises(AssertionError, match="no whole number"):
        scaled_heads("tiny", 1, 4)


@pytest.mark.parametrize("attention", list_attentions(form="tokens"))
def test_every_attention_on_tokens_makes_a_model_that_trains(attention) -> None:
    model = ViT(attention=attention).build(img_size=16, in_chans=1, num_classes=4)
    logits = model(torch.randn(2, 1, 16, 16))
    assert logits.shape == (2, 4)
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_head_gets_different_logits_for_different_images() -> None:
    """A class token that saw nothing would give the same for all."""
    model = ViT(attention="denoising").build(img_size=16, in_chans=1, num_classes=4)
    out = model(torch.randn(3, 1, 16, 16))
    assert (out[0] - out[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("attention", "own"), [("denoising", "lambdas"), ("external", "memory"), ("differential", "lambda"), ("softmax", None)])
def test_what_must_not_decay(attention, own) -> None:
    model = ViT(attention=attention).build(**SHAPE)
    free = model.no_weight_decay()
    assert {"pos_embed", "cls_token"} <= free
    ours = {name for name in free if ".attn." in name}
    assert ours <= set(dict(model.named_parameters())), "names of parameters that exist"
    assert bool(ours) == bool(own)
    assert all(own in name for name in ours)
    assert len(ours) % 3 == 0
    # and the optimizer believes it
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert not names & free
    assert {"blocks.0.mlp.fc1.weight", "blocks.0.attn.proj.weight"} <= names
    assert not any(name.endswith("bias") for name in names)


def test_differential_attention_knows_its_depth() -> None:
    """Ye et al.: 0.8 − 0.6·exp(−0.3·depth), counted from 0."""
    model = ViT(attention="differential", size="small").build(**SHAPE)
    got = [block.attn.lambda_init for block in model.blocks]
    assert got == pytest.approx([0.2, 0.355509, 0.470713, 0.556058, 0.619283, 0.666122], abs=1e-6)


def test_shared_weights_are_equal_and_the_rest_is_left_alone() -> None:
    torch.manual_seed(0)
    source = ViT().build(**SHAPE)
    torch.manual_seed(1)
    model = ViT(attention="denoising", num_heads=4).build(**SHAPE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    theirs = dict(source.named_parameters())
    shared = share_initial_weights_(model, source)
    fitting = [name for name, value in before.items() if name in theirs and theirs[name].shape == value.shape]
    assert shared == fitting
    assert "blocks.0.attn.qkv.weight" not in shared, "a narrower attention has another shape"
    assert {"patch_embed.proj.weight", "blocks.2.mlp.fc2.bias", "head.weight", "pos_embed", "blocks.1.norm1.weight"} <= set(shared)
    for name, value in model.named_parameters():
        assert torch.equal(value, theirs[name] if name in shared else before[name])
        assert name not in shared or value.data_ptr() != theirs[name].data_ptr(), "copies, not the same memory"
        assert value.requires_grad


@pytest.mark.parametrize(
    ("settings", "img_size", "says"),
    [
        ({"size": "huge"}, 36, "unknown size 'huge'"),
        ({"attention": "sofmax"}, 36, "unknown attention 'sofmax'; did you mean softmax"),
        ({"options": {"shared_values": True}}, 36, "unknown option of softmax 'shared_values'"),
        ({"options": {"lambda_init": 1.0}}, 36, "give center=True"),
        ({"patch_size": 5}, 36, "patches of side 5 do not tile an image of side 36"),
        ({}, 35, "do not tile an image of side 35; give patch_size"),
        ({"num_heads": -1}, 36, "num_heads of ViT must be at least 1"),
        ({"patch_size": -6}, 36, "patch_size of ViT must be at least 1"),
        ({"attention": "external", "num_heads": 5}, 36, "cannot have 5 heads"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, img_size, says) -> None:
    with pytest.raises(InputError, match=says):
        ViT(**settings).build(img_size=img_size, in_chans=1, num_classes=10)


@pytest.mark.parametrize(("img_size", "patches"), [(36, 6), (16, 8), (24, 8), (48, 8), (30, 6)])
def test_images_are_cut_in_eights_or_sixths(img_size, patches) -> None:
    model = ViT().build(img_size=img_size, in_chans=3, num_classes=2)
    assert model.patch_embed.grid_size == (patches, patches)
    assert model(torch.randn(1, 3, img_size, img_size)).shape == (1, 2)


def test_options_reach_the_attention() -> None:
    model = ViT(attention="denoising", options={"lambda_init": 0.25, "shared_values": True}, drop_path=0.2).build(**SHAPE)
    assert all(isinstance(block.attn, foveal.DenoisingAttention) and block.attn.shared_values for block in model.blocks)
    assert model.blocks[1].attn.lambdas.tolist() == [0.25] * 6
    assert model.blocks[2].drop_path1.drop_prob == pytest.approx(0.2)


def test_its_linear_maps_between_attentions_are_timms(monkeypatch) -> None:
    import timm.layers

    from foveal.attention import _linear
    from foveal.models._mlp import Mlp

    # small maps take the fast path too
    monkeypatch.setattr(_linear, "_CONVOLUTION_PAYS", 1)
    model = ViT().build(**SHAPE)
    assert all(type(block.mlp) is Mlp for block in model.blocks)
    ours, theirs = Mlp(8, 24, norm_layer=torch.nn.LayerNorm), timm.layers.Mlp(8, 24, norm_layer=torch.nn.LayerNorm)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 8, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    want = torch.autograd.grad(theirs(x).square().sum(), [x, *theirs.parameters()])
    torch.testing.assert_close(torch.autograd.grad(ours(x).square().sum(), [x, *ours.parameters()]), want, rtol=1e-4, atol=1e-5)
    ours.fc2.register_forward_hook(lambda layer, args, out: out + 1)
    torch.testing.assert_close(ours(x), theirs(x) + 1, rtol=1e-5, atol=1e-5)
