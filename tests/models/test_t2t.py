"""T2T-ViT and EAMLP: published counts, slow loops and formulas, and as citizens of timm and PyTorch."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from foveal import ExternalAttention, InputError, official
from foveal.attention import config_from_dict, list_attentions
from foveal.models import T2T, T2TViT, eamlp
from foveal.models._tokens import TokenBlock, TokensToTokens, _windows
from foveal.models.t2t import sinusoidal_positions
from tests.models.timm_contract import TimmContract
from tests.official.test_golden import part, read, relative

SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "token_dim": 16, "num_classes": 5}
EA = {
    "attention": "external",
    "options": {"slots": 8, "expand": 2, "bias": True},
    "token_attention": "external",
    "token_options": {"slots": 12},
    "qkv_bias": True,
}
KINDS = {"softmax": {}, "eamlp": EA}


def build(**options) -> T2TViT:
    return T2TViT(**{**SMALL, **options})


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def stir(model: torch.nn.Module) -> torch.nn.Module:
    for p in model.parameters():
        p.add_(0.2 * torch.randn_like(p))
    return model


# -- published numbers ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "parameters", "per_layer"), [("7", 6_146_638, 533_888), ("14", 29_877_070, 1_189_888), ("19", 54_559_054, 1_616_192)])
def test_eamlp_has_the_published_parameters(size, parameters, per_layer) -> None:
    """Frozen positions included."""
    model = eamlp(size).build(device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert count(model) == parameters
    assert len(model.blocks) == int(size)
    assert {count(block.attn) for block in model.blocks} == {per_layer}


@pytest.mark.parametrize(("size", "millions"), [("7", 4.3), ("14", 21.5), ("19", 39.2)])
def test_t2t_vit_has_the_published_parameters(size, millions) -> None:
    softmax = T2T(size=size).build(device="meta")
    assert round(count(softmax) / 1e6, 1) == millions
    tokens_only = T2T(size=size, token_attention="external", token_options={"slots": 128}).build(device="meta")
    assert {block.attn.name for block in tokens_only.blocks} == {"softmax"}
    # by hand, of what the attentions of both token blocks have: projections of a window of 147 and of 576
    mha, ea = (147 + 576) * 192, (147 + 576 + 2) * 64 + 2 * (2 * 128 * 64 + 64)
    assert count(softmax) - count(tokens_only) == mha - ea


# -- through timm -----------------------------------------------------------------------------------------------------------------------------------------


class TestT2TViT(TimmContract):
    name = "test_fov_t2t_vit"


class TestTokenModule(TimmContract):
    name = "test_fov_t2t_vit_ea"
    # its halves are those of the other two
    traces = False


class TestEAMLP(TimmContract):
    name = "test_fov_eamlp"


@pytest.mark.parametrize(("size", "parameters"), [("7", 6_146_638), ("14", 29_877_070), ("19", 54_559_054)])
def test_registered_eamlp_is_the_released_one(size, parameters) -> None:
    model = timm.create_model(f"fov_eamlp_{size}", device="meta")
    assert count(model) == parameters
    released = eamlp(size).build(device="meta")
    assert {key: value.shape for key, value in model.state_dict().items()} == {key: value.shape for key, value in released.state_dict().items()}
    assert [block.attn.attn_drop.p for block in (model.patch_embed.attention1, model.patch_embed.attention2)] == [0.1, 0.1]
    assert all(isinstance(block.drop_path1, torch.nn.Identity) for block in model.blocks), "stochastic depth is of the training"


@pytest.mark.parametrize("size", ["7", "14", "19"])
def test_registered_rows_replace_only_the_token_module(size) -> None:
    softmax, tokens_only = (timm.create_model(f"fov_t2t_vit_{size}{end}", device="meta") for end in ("", "_ea"))
    assert {block.attn.name for block in (*softmax.blocks, *tokens_only.blocks)} == {"softmax"}
    assert (softmax.patch_embed.attention1.attn.name, tokens_only.patch_embed.attention1.attn.name) == ("softmax", "external")
    assert count(softmax) - count(tokens_only) == (147 + 576) * 192 - (147 + 576 + 2) * 64 - 2 * (2 * 128 * 64 + 64)


def test_attention_by_name_in_both_places() -> None:
    model = timm.create_model("test_fov_t2t_vit", attention="denoising", options={"shared_values": True}, token_attention="linear")
    assert {block.attn.name for block in model.blocks} == {"denoising"}
    assert model.blocks[0].attn.shared_values
    assert model.patch_embed.attention2.attn.name == "linear"


def test_the_authors_checkpoint_through_timm(tmp_path) -> None:
    _, settings, tensors = read("eamlp_t2t")
    torch.save({"state_dict": part(tensors, "state.", torch.float64)}, tmp_path / "authors.pth")
    shape = {key: value for key, value in settings.items() if key != "tokens_type"}
    # the official divisor over slots has this added
    eps = {"options": {"slots": 64, "expand": 4, "bias": True, "eps": 1e-9}, "token_options": {"slots": 128, "eps": 1e-9}}
    overlay = {"file": str(tmp_path / "authors.pth"), "num_classes": settings["num_classes"]}
    model = timm.create_model("test_fov_eamlp", pretrained=True, pretrained_cfg_overlay=overlay, dtype=torch.float64, **shape, **eps).eval()
    x = part(tensors, "input.", torch.float64)["x"]
    assert relative(model(x), tensors["output"]) < 1e-10


# -- against slow loops and formulas ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(7, 4, 2), (3, 2, 1)])
def test_windows_are_cut_in_rows_channel_by_channel(window) -> None:
    side, stride, padding = window
    x = torch.randn(2, 3, 13, 18)
    got = _windows(x, window)
    rows, columns = ((length + 2 * padding - side) // stride + 1 for length in (13, 18))
    assert got.shape == (2, rows * columns, 3 * side**2)
    for row in range(rows):
        for column in range(columns):
            want = torch.zeros(2, 3, side, side)
            for y in range(side):
                for z in range(side):
                    height, width = row * stride - padding + y, column * stride - padding + z
                    if 0 <= height < 13 and 0 <= width < 18:
                        want[:, :, y, z] = x[:, :, height, width]
            assert torch.equal(got[:, row * columns + column], want.flatten(1))


def test_positions_are_sines_and_cosines() -> None:
    got = sinusoidal_positions(50, 10)
    for place in range(50):
        for channel in range(10):
            angle = place / 10000 ** (2 * (channel // 2) / 10)
            assert got[0, place, channel].item() == pytest.approx(math.cos(angle) if channel % 2 else math.sin(angle), abs=1e-6)
    model = build()
    assert torch.equal(model.pos_embed, sinusoidal_positions(5, 24))
    assert not model.pos_embed.requires_grad
    assert "pos_embed" in model.state_dict()


def norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * module.weight + module.bias


def behind(block: TokenBlock, y: Tensor) -> Tensor:
    hidden = F.gelu(norm(y, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    return y + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def token_block(in_dim: int, dim: int, **config) -> TokenBlock:
    return stir(TokenBlock(in_dim, dim, config_from_dict(config))).double().eval()


def test_a_token_block_of_softmax_carries_its_values() -> None:
    """T2T-ViT: one head; queries, keys and values of the wide window; values and output are added."""
    block, x = token_block(27, 16, attention="softmax"), torch.randn(2, 9, 27, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = (norm(x, block.norm1) @ block.attn.qkv.weight.T).split(16, dim=-1)
        logits = q @ k.mT / 4
        shares = logits.exp() / logits.exp().sum(-1, keepdim=True)
        want = behind(block, v + shares @ v @ block.attn.proj.weight.T + block.attn.proj.bias)
        assert relative(block(x), want) < 1e-12


def test_a_token_block_of_external_attention_carries_its_queries() -> None:
    """EAMLP: softmax over tokens, then sums over slots to one; a bias on the values alone."""
    block, x = token_block(27, 16, attention="external", slots=6), torch.randn(2, 9, 27, dtype=torch.float64)
    assert block.attn.memory.bias_k is None
    with torch.no_grad():
        q = norm(x, block.norm1) @ block.reduce.weight.T + block.reduce.bias
        takes = (q @ block.attn.memory.memory_k.T).exp()
        takes = takes / takes.sum(1, keepdim=True)
        takes = takes / takes.sum(2, keepdim=True)
        read = takes @ block.attn.memory.memory_v + block.attn.memory.bias_v
        want = behind(block, q + read @ block.attn.proj.weight.T + block.attn.proj.bias)
        assert relative(block(x), want) < 1e-12


def test_a_token_block_of_denoising_attention_carries_its_positive_values() -> None:
    block, x = token_block(27, 16, attention="denoising"), torch.randn(2, 9, 27, dtype=torch.float64)
    with torch.no_grad():
        y, attn = norm(x, block.norm1), block.attn
        q, k, v = (y @ attn.qkv.weight.T).split(16, dim=-1)
        read = (q @ k.mT / 4).softmax(-1) @ v - attn.lambdas * ((-(y @ attn.q_neg.weight.T) @ k.mT / 4).softmax(-1) @ (y @ attn.v_neg.weight.T))
        assert relative(block(x), behind(block, v + read @ attn.proj.weight.T + attn.proj.bias)) < 1e-12


def test_steps_and_backbone_in_order() -> None:
    """The whole network out of its parts, by the formula at the top of the file."""
    model, x = stir(build(**EA, img_size=(37, 50))).double().eval(), torch.randn(2, 3, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        step = model.patch_embed
        y = step.attention1(F.unfold(x, 7, stride=4, padding=2).mT).mT.reshape(2, 16, 9, 12)
        y = step.attention2(F.unfold(y, 3, stride=2, padding=1).mT).mT.reshape(2, 16, 5, 6)
        y = F.unfold(y, 3, stride=2, padding=1).mT @ step.project.weight.T + step.project.bias
        assert step.grid_size == (3, 3)
        y = torch.cat([model.cls_token.expand(2, -1, -1), y], dim=1) + model.pos_embed
        for block in model.blocks:
            y = y + block.attn(norm(y, block.norm1))
            y = y + block.mlp(norm(y, block.norm2))
        assert relative(model(x), norm(y, model.norm)[:, 0] @ model.head.weight.T + model.head.bias) < 1e-12


def test_multiply_adds_of_the_token_attention() -> None:
    attn = TokenBlock(27, 16, config_from_dict({"attention": "external", "slots": 6}), device="meta").attn
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attn(torch.empty(1, 49, 16, device="meta"))
    assert isinstance(attn, ExternalAttention)
    assert attn.cost(49).macs == counter.get_total_flops() // 2
    assert attn.cost(49).parameters == count(attn)


# -- as a model -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", list_attentions(form="tokens"))
def test_every_attention_in_the_tokens_and_in_the_backbone_trains(attention) -> None:
    model = stir(build(attention=attention, token_attention=attention))
    assert {block.attn.name for block in (*model.blocks, model.patch_embed.attention1, model.patch_embed.attention2)} == {attention}
    model(torch.randn(2, 3, 32, 32)).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_windows_of_halo_attention_lie_on_the_steps() -> None:
    model = build(attention="halo", token_attention="halo", img_size=(32, 48))
    assert (model.blocks[0].attn.core.num_prefix_tokens, model.blocks[0].attn.core.grid_size) == (1, (2, 3))
    assert model.patch_embed.attention1.attn.core.grid_size == (8, 12)
    assert model.patch_embed.attention2.attn.core.grid_size == (4, 6)
    assert model.patch_embed.attention1.attn.core.num_prefix_tokens == 0
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_parameter_that_learns(kind) -> None:
    model = stir(build(**KINDS[kind])).double()
    model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).logsumexp(-1).sum().backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-15}
    # what moves the logits of all tokens alike cancels in external attention: in the backbone all that these do
    cancels = ("norm1.bias", "attn.q.bias", "attn.memory.bias_k") if kind == "eamlp" else ()
    assert silent == {"pos_embed", *(f"blocks.{depth}.{name}" for depth in range(2) for name in cancels)}


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_nothing(kind) -> None:
    model, x = stir(build(**KINDS[kind])), torch.randn(2, 3, 32, 32)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert model.patch_embed.grad_checkpointing == model.grad_checkpointing == enable
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        results.append([out, *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    assert all(torch.equal(plain, checkpointed) for plain, checkpointed in zip(*results, strict=True))


def test_a_model_off_the_meta_device_starts_as_any_other() -> None:
    model = build(**EA, device="meta").to_empty(device="cpu")
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    assert torch.equal(model.pos_embed, sinusoidal_positions(5, 24))
    assert 0.015 < model.patch_embed.project.weight.std() < 0.025
    assert 0.3 < model.blocks[0].attn.memory.memory_k.std() < 0.6, "N(0, 2 / 12)"
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_dropout_of_the_token_blocks_is_in_training_only() -> None:
    model, x = stir(build(token_drop=0.5)), torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    small = eamlp("7").build(device="meta")
    assert [(b.attn.attn_drop.p, b.attn.proj_drop.p) for b in (small.patch_embed.attention1, small.patch_embed.attention2)] == [(0.1, 0.1)] * 2
    assert small.blocks[6].drop_path1.drop_prob == pytest.approx(0.1)


def test_any_size_of_image() -> None:
    dynamic = build(dynamic_img_size=True).eval()
    assert dynamic(torch.randn(2, 3, 50, 37)).shape == (2, 5)
    model, x = stir(build()).eval(), torch.randn(2, 3, 48, 80)
    resized = stir(build(dynamic_img_size=True)).eval()
    resized.load_state_dict(model.state_dict())
    model.set_input_size(img_size=(48, 80))
    assert model.patch_embed.grid_size == (3, 5)
    assert not model.pos_embed.requires_grad
    torch.testing.assert_close(model(x), resized(x))
    with pytest.raises(InputError, match="make patches of 16×16 pixels"):
        model.set_input_size(patch_size=8)


def test_another_classifier_and_intermediates() -> None:
    model, x = build().eval(), torch.randn(2, 3, 32, 48)
    model.set_input_size(img_size=(32, 48))
    final, maps = model.forward_intermediates(x)
    assert [m.shape for m in maps] == [(2, 24, 2, 3)] * 2
    assert torch.equal(final, model.forward_features(x))
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    model.reset_classifier(0)
    assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))


def test_what_must_not_decay() -> None:
    model = build(**EA)
    free = model.no_weight_decay()
    assert {"patch_embed.attention1.attn.memory.memory_k", "blocks.1.attn.memory.memory_v", "cls_token", "pos_embed"} <= free
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.03)
    grouped = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert all(grouped[id(named[name])] == 0 for name in free if name in named and named[name].requires_grad)
    assert grouped[id(named["patch_embed.attention2.reduce.weight"])] == 0.03
    assert id(model.pos_embed) not in grouped, "fixed"


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.randn(3, 32, 32), r"expects \(B, C, H, W\) with C=3"),
        (torch.randn(2, 1, 32, 32), r"got \(2, 1, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "floating point, got .* of torch.uint8"),
        (torch.randn(2, 3, 32, 48), "for images of 32×32, got 32×48; resize them"),
    ],
)
def test_bad_images_are_refused(x, says) -> None:
    with pytest.raises(InputError, match=says):
        build()(x)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: eamlp("8").build(device="meta"), "unknown size of T2T-ViT '8'; .*known: 14, 19, 7"),
        (lambda: build(attention="sofmax"), "did you mean softmax"),
        (lambda: build(token_attention="external", token_options={"slot": 3}), "did you mean slots"),
        (lambda: build(token_attention="external", token_options={"expand": 4}), "expand must be 1, got 4"),
        (lambda: build(token_attention="softmax", token_options={"attn_head_dim": 4}), "give token_dim instead"),
        (lambda: build(attention="halo", options={"grid_size": (2, 3)}), r"grid_size=\(2, 3\) is not the grid of this model, \(2, 2\)"),
        (lambda: build(patch_size=8), "patch_size cannot be chosen"),
        (lambda: build(num_heads=5), "num_heads must divide dim"),
        (lambda: build(img_size=(32, 2)), "at least 3×3 pixels"),
        (lambda: build(img_size=0), "at least 1×1 pixels"),
        (lambda: TokensToTokens(patch_size=8, attention=config_from_dict({"attention": "softmax"})), "got patch_size=8"),
    ],
)
def test_what_cannot_be_built_is_refused(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_a_file_with_other_settings_is_refused() -> None:
    _, settings, tensors = read("eamlp_t2t")
    state = part(tensors, "state.", torch.float64)
    for change, says in (({"tokens_type": "convolution"}, "unknown tokens_type"), ({"depth": 3}, "missing blocks.2"), ({"img_size": 64}, "pos_embed is")):
        with pytest.raises(InputError, match=says):
            official.load("external.eamlp", state, **settings | change)
    for stray, says in (("blocks.0.attn.qkv.weight", "is no key of"), ("tokens_to_token.attention1.attn.w", "is no key of"), ("kernel", "left over kernel")):
        with pytest.raises(InputError, match=says):
            official.load("external.eamlp", state | {stray: torch.zeros(1, dtype=torch.float64)}, **settings)
    module = official.load("external.eamlp", state, **settings)
    assert module.patch_embed.attention1.attn.attn_drop.p == 0.1
    assert official.load("external.eamlp", state, **settings | {"tokens_type": "transformer"}).patch_embed.attention1.attn.attn_drop.p == 0.0
