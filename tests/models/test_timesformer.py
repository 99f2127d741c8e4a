"""TimeSformer: against slow loops, against the image model it is inflated from, and as a citizen of timm and PyTorch."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor

from foveal import InputError, official
from foveal.attention import list_attentions
from foveal.models import TimeSformer, VisionTransformer, inflate_
from tests.models.timm_contract import TimmContract
from tests.official.test_golden import part, read, relative

TYPES = ["divided_space_time", "joint_space_time", "space_only"]
SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
VIDEO = (2, 3, 3, 16, 16)


def build(attention_type: str = "divided_space_time", attention: str = "denoising", **options) -> TimeSformer:
    return TimeSformer(attention=attention, attention_type=attention_type, **{"num_frames": 3, **SMALL, **options})


def image_model(attention: str | None = None, **options) -> VisionTransformer:
    """timm's plain transformer, or ours with an attention, in float64 and with weights that are not those of a start."""
    layer = {} if attention is None else {"attn_layer": timm_layer(attention)}
    return stir(VisionTransformer(**{**SMALL, "qkv_bias": True, **options}, **layer)).double().eval()


def timm_layer(attention: str) -> type:
    from foveal.attention import config_from_dict

    return config_from_dict({"attention": attention}).layer()


@torch.no_grad()
def stir(model: torch.nn.Module) -> torch.nn.Module:
    for p in model.parameters():
        p.add_(0.2 * torch.randn_like(p))
    return model


def standstill(frames: int = 3, size: int = 16) -> tuple[Tensor, Tensor]:
    image = torch.randn(2, 3, size, size, dtype=torch.float64)
    return image, image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


# -- against slow loops -----------------------------------------------------------------------------------------------------------------------------------


def slow_denoising(weights: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """One sequence ``(N, C)``, head by head, query by query, out of the formula."""
    q, k, v = F.linear(x, weights["qkv.weight"], weights["qkv.bias"]).chunk(3, dim=-1)
    q_neg, v_neg = (F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in ("q_neg", "v_neg"))
    width = x.shape[-1] // heads
    out = torch.zeros_like(x)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for token in range(x.shape[0]):
            wants = (k[:, own] @ q[token, own] / math.sqrt(width)).exp()
            shuns = (-k[:, own] @ q_neg[token, own] / math.sqrt(width)).exp()
            out[token, own] = wants @ v[:, own] / wants.sum() - weights["lambdas"][head] * (shuns @ v_neg[:, own]) / shuns.sum()
    return F.linear(out, weights["proj.weight"], weights["proj.bias"])


def slow_block(block: torch.nn.Module, prefix: Tensor, patches: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Divided attention on one video: prefix ``(P, C)``, patches ``(T, N, C)``."""
    weights = dict(block.named_parameters())

    def inside(place: str) -> dict[str, Tensor]:
        return {name.removeprefix(place): value for name, value in weights.items() if name.startswith(place)}

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def mlp(x: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(norm("norm2", x), weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]))
        return x + F.linear(hidden, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])

    frames, count, _ = patches.shape
    after = torch.zeros_like(patches)
    for patch in range(count):
        moved = slow_denoising(inside("temporal_attn."), norm("temporal_norm1", patches[:, patch]), heads)
        after[:, patch] = patches[:, patch] + F.linear(moved, weights["temporal_fc.weight"], weights["temporal_fc.bias"])
    told, out = [], torch.zeros_like(patches)
    for frame in range(frames):
        seen = slow_denoising(inside("attn."), norm("norm1", torch.cat([prefix, after[frame]])), heads)
        told.append(seen[: len(prefix)])
        out[frame] = mlp(after[frame] + seen[len(prefix) :])
    return mlp(prefix + torch.stack(told).mean(0)), out


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_divided_attention_is_loops_over_patches_and_frames(prefix) -> None:
    tokens = {"class_token": prefix > 0, "reg_tokens": max(prefix - 1, 0), "global_pool": "avg"}
    model = stir(build(depth=1, img_size=(16, 24), **tokens)).double().eval()
    assert model.num_prefix_tokens == prefix
    with torch.no_grad():
        x = torch.randn(2, prefix + 3 * 6, 24, dtype=torch.float64)
        got = model.blocks[0](x, 3)
        for sample in range(2):
            front, back = slow_block(model.blocks[0], x[sample, :prefix], x[sample, prefix:].reshape(3, 6, 24), heads=2)
            assert relative(got[sample], torch.cat([front, back.flatten(0, 1)])) < 1e-12


def test_positions_in_time_reach_every_patch_of_their_frame_and_no_prefix_token() -> None:
    model = build(depth=1, img_size=(16, 24)).double()
    x = torch.randn(2, 3, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        before = model._embed(x)
        model.time_embed.copy_(torch.randn(1, 3, 24))
        moved = model._embed(x) - before
    assert torch.equal(moved[:, 0], torch.zeros(2, 24, dtype=torch.float64))
    for frame in range(3):
        for patch in range(6):
            torch.testing.assert_close(moved[0, 1 + 6 * frame + patch], model.time_embed[0, frame].detach())


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_positions_in_time_are_interpolated_linearly(frames) -> None:
    """numpy's interpolation between the middles of the frames, clamped at the ends."""
    model = stir(build()).double()
    table = model.time_embed[0].detach().numpy()
    middles = (np.arange(frames) + 0.5) * 3 / frames - 0.5
    want = np.stack([np.interp(middles, np.arange(3), table[:, channel]) for channel in range(24)], axis=1)
    np.testing.assert_allclose(model._time_embed(frames)[0].detach().numpy(), want, atol=1e-14)
    assert model(torch.randn(1, 3, frames, 16, 16, dtype=torch.float64)).shape == (1, 5)


def test_order_of_frames() -> None:
    x = torch.randn(VIDEO, dtype=torch.float64)
    for attention_type in TYPES:
        model = stir(build(attention_type)).double().eval()
        change = relative(model(x.flip(2)), model(x))
        assert change < 1e-12 if attention_type == "space_only" else change > 1e-3


# -- against the image model ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
@pytest.mark.parametrize("attention", [name for name in list_attentions(form="tokens") if name != "halo"])
def test_a_video_that_stands_still_is_its_image(attention, attention_type) -> None:
    image, video = standstill()
    source = image_model(attention)
    model = build(attention_type, attention).double().eval()
    kept = inflate_(model, source.state_dict(), copy_head=True)
    new = ["time_embed", *(f"blocks.{depth}.temporal_fc.{field}" for depth in range(2) for field in ("weight", "bias"))]
    assert kept == (new if attention_type == "divided_space_time" else [])
    assert relative(model(video), source(image)) < 1e-12


@pytest.mark.parametrize("attention_type", TYPES)
def test_one_frame_is_an_image(attention_type) -> None:
    image, video = standstill(frames=1)
    source = image_model("denoising")
    model = build(attention_type, num_frames=1).double().eval()
    inflate_(model, source.state_dict(), copy_head=True)
    assert relative(model(video), source(image)) < 1e-12
    assert relative(model.forward_features(video), source.forward_features(image)) < 1e-12


def test_joint_attention_counts_repeated_keys_repeatedly() -> None:
    """Among patches alone that changes nothing in a softmax; against one class token it does."""
    image, video = standstill()
    for class_token in (False, True):
        options = {"class_token": class_token, "global_pool": "avg"}
        source = image_model("denoising", **options)
        model = build("joint_space_time", **options).double().eval()
        inflate_(model, source.state_dict(), copy_head=True)
        error = relative(model(video), source(image))
        assert error > 1e-5 if class_token else error < 1e-12


def test_time_begins_as_a_copy_of_space() -> None:
    source = image_model("denoising").state_dict()
    model = build().double()
    inflate_(model, source)
    for depth in range(2):
        state = model.blocks[depth].state_dict()
        for key, value in state.items():
            if key.startswith("temporal_") and "fc" not in key:
                assert torch.equal(value, source[f"blocks.{depth}.{key.removeprefix('temporal_')}"])
                assert value.data_ptr() != state[key.removeprefix("temporal_")].data_ptr()


def test_the_head_stays_unless_it_is_asked_for() -> None:
    source = image_model("denoising", num_classes=7).state_dict()
    model = build().double()
    own = model.head.weight.clone()
    kept = inflate_(model, source)
    assert {"head.weight", "head.bias"} <= set(kept)
    assert torch.equal(model.head.weight, own)
    with pytest.raises(InputError, match=r"head.weight is \(7, 24\), wanted \(5, 24\)"):
        inflate_(model, source, copy_head=True)


def test_a_plain_softmax_transformer_starts_denoising_attention() -> None:
    """The authors' loader leaves Q⁻ and V⁻ of such a checkpoint random: its warm start looks for keys that their model has not."""
    image, video = standstill()
    source = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, num_heads=3, num_classes=5, qk_norm=True)
    source = stir(source).double().eval()
    options = {"embed_dim": 192, "num_heads": 3, "qk_norm": True}
    exact, close = (build(**options).double().eval() for _ in range(2))
    inflate_(exact, source.state_dict(), copy_head=True, warm_start=0.0)
    assert relative(exact(video), source(image)) < 1e-12
    kept = inflate_(close, source.state_dict(), copy_head=True)
    assert not any("q_neg" in name or "v_neg" in name for name in kept)
    assert 0 < relative(close(video), source(image)) < 1e-3
    for block in close.blocks:
        for attention in (block.attn, block.temporal_attn):
            q, _, v = attention.qkv.weight.chunk(3)
            torch.testing.assert_close(attention.q_neg.weight, 1e-4 * q)
            torch.testing.assert_close(attention.v_neg.weight, 1e-4 * v)
            assert torch.equal(attention.q_neg_norm.weight, attention.q_norm.weight)
            assert attention.lambdas.tolist() == [0.5, 0.5, 0.5]
    close(video).sum().backward()
    assert all(block.attn.v_neg.weight.grad.abs().max() > 0 for block in close.blocks)


def test_the_authors_image_checkpoint_arrives_whole() -> None:
    """Their loader matches no key of the attention in their image model, and reads its positions, of patches alone, as if the first were the class token's."""
    _, settings, tensors = read("dna_vit")
    source = official.load("dna.vit", part(tensors, "state.", torch.float64), **settings)
    ours = official.translate("dna.vit", part(tensors, "state.", torch.float64), **settings)
    shape = {key: settings[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")}
    image, video = standstill(size=settings["img_size"])
    for no_embed_class in (False, True):
        model = TimeSformer(attention="denoising", num_frames=3, no_embed_class=no_embed_class, **shape).double().eval()
        inflate_(model, ours, copy_head=True)
        assert relative(model(video), source(image)) < 1e-12
        places = model.pos_embed[:, -16:]
        assert torch.equal(places, ours["pos_embed"])
    with pytest.raises(InputError, match=r"missing .*official\.translate first"):
        inflate_(model, part(tensors, "state.", torch.float64))


@pytest.mark.parametrize("registers", [0, 2])
def test_positions_of_prefix_tokens_move_into_the_tokens(registers) -> None:
    image, video = standstill()
    source = image_model("denoising", reg_tokens=registers)
    model = build(reg_tokens=registers, no_embed_class=True).double().eval()
    inflate_(model, source.state_dict(), copy_head=True)
    assert relative(model(video), source(image)) < 1e-12


def test_positions_of_another_grid_are_resampled() -> None:
    """To the model's grid, as timm does it, class token apart."""
    source = image_model("denoising", img_size=(32, 24))
    with pytest.raises(InputError, match=r"13 rows, which is neither the model's grid of patches nor a square one; give grid"):
        inflate_(build().double(), source.state_dict())
    model = build(img_size=(24, 16)).double().eval()
    inflate_(model, source.state_dict(), grid=(4, 3), copy_head=True)
    source.set_input_size(img_size=(24, 16))
    torch.testing.assert_close(model.pos_embed, source.pos_embed)
    with pytest.raises(InputError, match="which is not 3×3 patches with or without 1 prefix tokens"):
        inflate_(model, source.state_dict(), grid=(3, 3))


def test_positions_that_can_be_read_two_ways_are_not_guessed() -> None:
    square = image_model("denoising", img_size=32).state_dict()
    model = build(img_size=(16, 64)).double()
    with pytest.raises(InputError, match="17 rows, which may be 2×8 patches and 1 prefix tokens or 4×4 patches and 1 prefix tokens"):
        inflate_(model, square)
    inflate_(model, square, grid=(4, 4))


def test_where_time_has_another_attention() -> None:
    image, video = standstill()
    source = image_model("denoising")
    model = build(time_attention="linear").double().eval()
    with pytest.raises(InputError, match=r"left over blocks.0.temporal_attn.\w+.*copy_time=False"):
        inflate_(model, source.state_dict())
    own = model.blocks[1].temporal_attn.qkv.weight.clone()
    kept = inflate_(model, source.state_dict(), copy_time=False, copy_head=True)
    assert "blocks.1.temporal_attn.qkv.weight" in kept
    assert torch.equal(model.blocks[1].temporal_attn.qkv.weight, own)
    assert relative(model(video), source(image)) < 1e-12


def test_inflation_changes_all_or_nothing() -> None:
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    source = {key: value.float() for key, value in image_model("denoising").state_dict().items()}
    for change, says in [
        ({"norm.weight": None}, "missing norm.weight"),
        ({"blocks.2.norm1.weight": torch.ones(24)}, "left over blocks.2.norm1.weight"),
        ({"cls_token": None}, "has no prefix token, the model cls_token; build it"),
        ({"pos_embed": None}, "missing pos_embed"),
        ({"pos_embed": torch.zeros(1, 5, 30)}, "build the model with its embed_dim"),
        ({"patch_embed.proj.weight": torch.zeros(24, 1, 8, 8)}, "patch_embed.proj.weight is"),
    ]:
        broken = {key: value for key, value in (source | change).items() if value is not None}
        with pytest.raises(InputError, match=says):
            inflate_(model, broken)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match="leave shared_values out"):
        inflate_(build(options={"shared_values": True}), image_model().float().state_dict())


# -- as a model -------------------------------------------------------------------------------------------------------------------------------------------


def test_published_parameter_counts() -> None:
    """121.57 M with softmax; with denoising attention in both places 149.92 M, 23.3 % more. By hand from the layers of the paper."""
    width, depth, heads = 768, 12, 12
    around = (3 * 16 * 16 + 1) * width + (1 + 197 + 8) * width + 2 * width + 401 * width - width + 400
    block = 3 * 2 * width + (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width
    attention = {"softmax": 4 * width * width + 4 * width, "denoising": 6 * width * width + 6 * width + heads}
    for name, millions in (("softmax", 121.57), ("denoising", 149.92)):
        model = TimeSformer(attention=name, num_classes=400, num_frames=8, device="meta")
        count = sum(p.numel() for p in model.parameters())
        assert all(p.is_meta for p in model.parameters())
        assert count == around + depth * (block + 2 * attention[name])
        assert round(count / 1e6, 2) == millions


def test_a_model_off_the_meta_device_starts_as_any_other() -> None:
    model = build(device="meta").to_empty(device="cpu")
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not model.time_embed.any()
    assert all(not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any() for block in model.blocks)
    assert 0.015 < model.blocks[0].temporal_attn.qkv.weight.std() < 0.025
    assert model.blocks[0].attn.lambdas.tolist() == [0.5, 0.5]
    assert model(torch.randn(VIDEO)).isfinite().all()
    assert [name for name, p in build(device="meta", dtype=torch.bfloat16).named_parameters() if p.dtype != torch.bfloat16] == []


@pytest.mark.parametrize("attention", list_attentions(form="tokens"))
def test_every_attention_in_space_and_in_time_trains(attention) -> None:
    for attention_type in TYPES:
        if attention == "halo":
            if attention_type == "joint_space_time":
                continue
            model = build(attention_type, attention, **({"time_attention": "softmax"} if attention_type == "divided_space_time" else {}), img_size=(16, 24))
        else:
            model = build(attention_type, attention, img_size=(16, 24))
        assert all(block.attn.name == attention for block in model.blocks)
        stir(model)(torch.randn(2, 3, 4, 16, 24)).logsumexp(-1).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention_type", TYPES)
def test_a_gradient_reaches_every_parameter(attention_type) -> None:
    model = stir(build(attention_type)).double()
    model(torch.randn(VIDEO, dtype=torch.float64)).logsumexp(-1).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_a_fresh_model_learns_time_through_the_projection_first() -> None:
    model = build()
    model(torch.randn(VIDEO)).logsumexp(-1).sum().backward()
    for block in model.blocks:
        assert block.temporal_fc.weight.grad.any()
        assert not block.temporal_attn.qkv.weight.grad.any()


@pytest.mark.parametrize("attention_type", TYPES)
def test_gradient_checkpointing_changes_nothing(attention_type) -> None:
    model, x = stir(build(attention_type)), torch.randn(VIDEO)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        results.append([out, *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(plain, checkpointed) for plain, checkpointed in zip(*results, strict=True))


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
def test_compiles_without_a_graph_break(attention_type) -> None:
    model, x = stir(build(attention_type, depth=1)), torch.randn(2, 3, 5, 16, 16)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention_type", TYPES)
def test_exports_with_a_dynamic_batch(attention_type) -> None:
    model = stir(build(attention_type, depth=1)).eval()
    program = torch.export.export(model, (torch.randn(VIDEO),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}})
    for batch in (1, 5):
        x = torch.randn(batch, *VIDEO[1:])
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


def test_stochastic_depth_drops_whole_videos_and_only_in_training() -> None:
    model = stir(build(drop_path_rate=0.9, depth=2))
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks] == pytest.approx([0.0, 0.9])
    block, x = model.blocks[1], torch.randn(64, 1 + 3 * 4, 24)
    # prefix tokens pass through a dropped space, whatever becomes of time
    unchanged = (block(x, 3) == x)[:, 1:].flatten(1)
    assert torch.equal(unchanged.all(1), unchanged.any(1)), "a video passes whole or is touched everywhere"
    assert 0 < unchanged.all(1).sum() < 64
    assert not (block.eval()(x, 3) == x).flatten(1).all(1).any()


def test_options_reach_both_attentions() -> None:
    both = build(options={"lambda_init": 0.25})
    assert both.blocks[1].temporal_attn.lambdas.tolist() == both.blocks[1].attn.lambdas.tolist() == [0.25, 0.25]
    apart = build(options={"lambda_init": 0.25}, time_options={"lambda_init": 0.75})
    assert (apart.blocks[0].attn.lambda_init, apart.blocks[0].temporal_attn.lambda_init) == (0.25, 0.75)
    mixed = build(options={"lambda_init": 0.25}, time_attention="external", time_options={"slots": 8}, num_heads=2)
    assert [mixed.blocks[0].attn.name, mixed.blocks[0].temporal_attn.name] == ["denoising", "external"]
    assert mixed.blocks[0].temporal_attn.memory.slots == 8
    model = build(attention="differential", depth=3)
    assert [block.attn.lambda_init for block in model.blocks] == [block.temporal_attn.lambda_init for block in model.blocks]
    assert model.blocks[2].temporal_attn.lambda_init == pytest.approx(0.470713, abs=1e-6)


@pytest.mark.parametrize("space", [{"attention": "halo"}, {"attention": "denoising", "options": {"core": "halo", "core_options": {"block_size": 2}}}])
def test_windows_lie_on_the_grid_of_a_frame(space) -> None:
    model = build(**space, time_attention="softmax", img_size=(16, 40), class_token=False, global_pool="avg")
    assert (model.blocks[0].attn.core.num_prefix_tokens, model.blocks[0].attn.core.grid_size) == (0, (2, 5))
    for attention_type, where in (("divided_space_time", "over time"), ("joint_space_time", "several frames")):
        # four tokens would pass for a grid of 2×2
        with pytest.raises(InputError, match=where):
            build(attention_type, num_frames=4, class_token=False, global_pool="avg", **space)


def test_what_must_not_decay() -> None:
    model = build()
    free = model.no_weight_decay()
    assert free == {"pos_embed", "cls_token", "time_embed", *(f"blocks.{d}.{place}.lambdas" for d in range(2) for place in ("attn", "temporal_attn"))} | (
        free - set(dict(model.named_parameters()))
    )
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    assert not {name for name, p in model.named_parameters() if id(p) in decayed} & free
    assert id(model.blocks[0].temporal_fc.weight) in decayed


def test_time_lies_in_the_stem_for_layer_decay() -> None:
    from timm.models import group_parameters

    groups = group_parameters(build(), build().group_matcher(), reverse=True)
    assert groups["time_embed"] == groups["pos_embed"] < groups["blocks.0.temporal_fc.weight"] == groups["blocks.0.attn.proj.weight"]


def test_another_classifier() -> None:
    model = build()
    assert model.get_classifier() is model.head
    model.reset_classifier(9)
    assert model(torch.randn(VIDEO)).shape == (2, 9)
    model.reset_classifier(0)
    features = model(torch.randn(VIDEO))
    assert features.shape == (2, model.num_features)
    x = torch.randn(VIDEO)
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), model(x))


@pytest.mark.parametrize("attention_type", TYPES)
def test_intermediates(attention_type) -> None:
    model, x = stir(build(attention_type, img_size=(16, 24))).eval(), torch.randn(2, 3, 4, 16, 24)
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert [m.shape for m in maps] == [(2, 24, 4, 2, 3)] * 2
    ((tokens, prefix),) = model.forward_intermediates(x, indices=[-1], output_fmt="NLC", norm=True, return_prefix_tokens=True, intermediates_only=True)
    assert (tokens.shape, prefix.shape) == ((2, 24, 24), (2, 1, 24))
    if attention_type != "space_only":
        assert torch.equal(torch.cat([prefix, tokens], 1), final)
        assert torch.equal(tokens.unflatten(1, (4, 2, 3))[:, 3, 1, 2], final[:, -1])
    (first,) = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    assert torch.equal(first, maps[0])
    assert [t.shape for t in model.get_intermediate_layers(x, n=1)] == [(2, 24, 24)]
    for wrong, says in (({"indices": 3}, "1 to 2"), ({"indices": [2]}, "got"), ({"output_fmt": "NHWC"}, "NCTHW"), ({"output_dict": True}, "as a list")):
        with pytest.raises(InputError, match=says):
            model.forward_intermediates(x, **wrong)


def test_any_size_of_image_and_any_number_of_frames() -> None:
    dynamic = build(dynamic_img_size=True)
    assert dynamic(torch.randn(1, 3, 7, 24, 40)).shape == (1, 5)
    with pytest.raises(InputError, match="do not tile frames of 24×41"):
        dynamic(torch.randn(1, 3, 7, 24, 41))
    model, x = stir(build()).eval(), torch.randn(1, 3, 6, 16, 16)
    want = model(x)
    model.set_input_size(num_frames=6)
    assert model.time_embed.shape == (1, 6, 24)
    assert torch.equal(model(x), want)
    model.set_input_size(img_size=32)
    assert model.pos_embed.shape == (1, 17, 24)
    assert model(torch.randn(1, 3, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(InputError, match="num_frames"):
        model.set_input_size(num_frames=0)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.randn(2, 3, 16, 16), r"expects \(B, C, T, H, W\) with C=3"),
        (torch.randn(2, 4, 3, 16, 16), r"move the channels in front of the frames: x.transpose\(1, 2\)"),
        (torch.randn(2, 3, 0, 16, 16), "T at least 1"),
        (torch.zeros(2, 3, 3, 16, 16, dtype=torch.uint8), "floating point, got .* of torch.uint8"),
        (torch.randn(2, 3, 3, 16, 24), "for frames of 16×16, got 16×24; resize them"),
    ],
)
def test_bad_videos_are_refused(x, says) -> None:
    with pytest.raises(InputError, match=says):
        build()(x)


def test_masks_are_refused() -> None:
    for mask in ({"attn_mask": torch.ones(13, 13, dtype=torch.bool)}, {"is_causal": True}):
        with pytest.raises(InputError, match="neither attn_mask nor is_causal"):
            build()(torch.randn(VIDEO), **mask)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention_type": "divided"}, "did you mean divided_space_time"),
        ({"attention": "denoisng"}, "did you mean denoising"),
        ({"options": {"lambda": 1}}, "unknown option of denoising"),
        ({"time_attention": "softmx"}, "did you mean softmax"),
        ({"attention_type": "space_only", "time_attention": "softmax"}, "are for divided_space_time"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"num_heads": 5}, "num_heads must divide dim"),
        ({"attn_layer": "diff"}, "attn_layer cannot be chosen"),
    ],
)
def test_what_cannot_be_built_is_refused(options, says) -> None:
    with pytest.raises(InputError, match=says):
        TimeSformer(**{"attention": "denoising", "num_frames": 3, **SMALL, **options})


def test_a_file_with_other_settings_is_refused() -> None:
    _, settings, tensors = read("dna_timesformer_divided_space_time")
    state = part(tensors, "state.", torch.float64)
    for change, says in (
        ({"attention_type": "joint_space_time"}, "left over blocks.0.temporal_"),
        ({"num_frames": 8}, r"time_embed is \(1, 3, 24\), wanted \(1, 8, 24\)"),
        ({"attention_type": "both"}, "unknown attention type"),
    ):
        with pytest.raises(InputError, match=says):
            official.load("dna.timesformer", state, **settings | change)


# -- through timm -----------------------------------------------------------------------------------------------------------------------------------------


class OfVideo(TimmContract):
    shape = (3, 3, 32, 32)
    attention_type = "divided_space_time"

    def create(self, **options):
        return super().create(**{"attention_type": self.attention_type, **options})


class TestDivided(OfVideo):
    name = "test_fov_dna_timesformer"
    traces = False


class TestSoftmax(OfVideo):
    name = "test_fov_timesformer"


class TestJoint(OfVideo):
    name = "test_fov_dna_timesformer"
    attention_type = "joint_space_time"
    traces = False


class TestSpaceOnly(OfVideo):
    name = "test_fov_dna_timesformer"
    attention_type = "space_only"
    traces = False


def test_counts_of_the_registered_models() -> None:
    """121.57 M with softmax and 149.92 M with denoising attention in space and in time, 400 classes."""
    counts = {}
    for name in ("timesformer", "dna_timesformer"):
        model = timm.create_model(f"fov_{name}_base_patch16_224", device="meta")
        counts[name] = sum(p.numel() for p in model.parameters())
    assert [round(count / 1e6, 2) for count in counts.values()] == [121.57, 149.92]
    # a block has two attentions more, each with two projections with biases and λ
    assert counts["dna_timesformer"] - counts["timesformer"] == 12 * 2 * (2 * (768**2 + 768) + 12)


def test_an_image_checkpoint_is_inflated_through_timm(tmp_path) -> None:
    """The authors' file of images, as it is: table of the patches alone, fused projections, added branch."""
    _, settings, tensors = read("dna_vit")
    torch.save({"model": part(tensors, "state.", torch.float64)}, tmp_path / "image.pth")
    shape = {key: settings[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}
    overlay = {"file": str(tmp_path / "image.pth")}
    model = timm.create_model("test_fov_dna_timesformer", pretrained=True, pretrained_cfg_overlay=overlay, dtype=torch.float64, **shape).eval()
    source = official.load("dna.vit", part(tensors, "state.", torch.float64), **settings)
    image, video = standstill(size=settings["img_size"])
    assert relative(model.forward_features(video)[:, 0], source.forward_features(image)[:, 0]) < 1e-12
    assert model(video).shape == (2, 10)


def test_the_authors_video_checkpoint_through_timm(tmp_path) -> None:
    _, settings, tensors = read("dna_timesformer_divided_space_time")
    assert settings.pop("sign") == "+"
    torch.save({"model_state": part(tensors, "state.", torch.float64)}, tmp_path / "video.pth")
    options = {key: value for key, value in settings.items() if key not in ("norm_eps",)}
    overlay = {"file": str(tmp_path / "video.pth"), "num_classes": options["num_classes"]}
    model = timm.create_model("test_fov_dna_timesformer", pretrained=True, pretrained_cfg_overlay=overlay, dtype=torch.float64, **options).eval()
    assert relative(model(*part(tensors, "input.", torch.float64).values()), tensors["output"]) < 1e-10
