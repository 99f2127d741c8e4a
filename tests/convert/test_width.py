"""Heads of another width: as near as a map of that rank can be, measured by whole matrices in float64; and the way not to do it, for comparison."""

import pytest
import torch
from torch import Tensor, nn

from foveal import (
    CausalAttention,
    DenoisingAttention,
    EfficientAttention,
    HaloAttention,
    InputError,
    SoftmaxAttention,
    convert,
    convert_,
    load_delta,
    save_delta,
)
from foveal.attention import TokenAttention
from tests.convert.test_bias import DecomposedAttention, Windowed
from tests.convert.test_hosts import SIDE, stirred, timm_vit, torchvision_vit, transformers_tower

DIM, TOKENS = 32, 40


def host(heads: int, bias: bool = True, mixed: float = 0.0, proj_bias: bool = True) -> nn.Module:
    """timm's attention in float64; ``mixed`` is how much of W_Q lies in W_K."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    attn = timm.layers.Attention(DIM, heads, qkv_bias=bias, proj_bias=proj_bias).double().eval()
    with torch.no_grad():
        for value in attn.parameters():
            value.normal_()
        attn.qkv.weight[DIM : 2 * DIM].mul_(1 - mixed).add_(mixed * attn.qkv.weight[:DIM])
    return nn.ModuleDict({"attn": attn})


def narrowed(model: nn.Module, width: int, config=SoftmaxAttention.Config) -> tuple[TokenAttention, str]:
    other, report = convert(model, config(attn_head_dim=width), warm_start="exact")
    return other["attn"], report.swaps[0].output


def logits(attn: nn.Module, x: Tensor) -> Tensor:
    """Before the softmax, each row less its mean, which the softmax does not see."""
    heads = attn.num_heads
    q, k, _ = attn.qkv(x).unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
    out = q @ k.mT * q.shape[-1] ** -0.5
    return out - out.mean(-1, keepdim=True)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("bias", "proj_bias"), [(True, True), (True, False), (False, True)])
def test_maps_are_the_nearest_of_their_rank(heads, bias, proj_bias) -> None:
    """Against the decomposition of the whole product, C × C, of one head at a time."""
    model, x = host(heads, bias, proj_bias=proj_bias), torch.randn(TOKENS, DIM, dtype=torch.float64)
    ones = torch.ones(TOKENS, 1, dtype=torch.float64)
    attn, width = model["attn"], DIM // heads // 2
    got, function = narrowed(model, width)
    assert function == "changed"
    q, k, v = attn.qkv.weight.detach().chunk(3)
    b_q, _, b_v = attn.qkv.bias.detach().chunk(3) if bias else [torch.zeros(DIM, dtype=torch.float64)] * 3
    ours = logits(got, x)
    wanted_out = 0.0 if not proj_bias else attn.proj.bias.detach() + (attn.proj.weight.detach() @ b_v)
    for head in range(heads):
        rows = slice(head * 2 * width, (head + 1) * 2 * width)
        u, s, vh = torch.linalg.svd(torch.cat([q[rows], b_q[rows, None]], 1).T @ k[rows])
        want = torch.cat([x, ones], 1) @ (u[:, :width] * s[:width]) @ vh[:width] @ x.T * (2 * width) ** -0.5
        torch.testing.assert_close(ours[head], want - want.mean(-1, keepdim=True), rtol=1e-9, atol=1e-9)
        values = v[rows] if proj_bias else torch.cat([v[rows], b_v[rows, None]], 1)
        u, s, vh = torch.linalg.svd(attn.proj.weight.detach()[:, rows] @ values)
        low = (u[:, :width] * s[:width]) @ vh[:width]
        weights = want.softmax(-1)
        wanted_out = wanted_out + weights @ (x if proj_bias else torch.cat([x, ones], 1)) @ low.T
    torch.testing.assert_close(got(x[None])[0], wanted_out, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("mixed", "apart_at_most"), [(0.0, 0.15), (0.5, 0.5)])
def test_queries_and_keys_apart_lose_what_together_they_keep(mixed, apart_at_most) -> None:
    """Half the rank of one head as wide as the tokens. Apart is rjccv/DnA's way: the first right singular vectors of each, Σ Vᵀ."""
    model, x = host(1, bias=False, mixed=mixed), torch.randn(200, DIM, dtype=torch.float64)
    want, half = logits(model["attn"], x), DIM // 2
    together = correlation(logits(narrowed(model, half)[0], x), want)
    cut = []
    for weight in model["attn"].qkv.weight.detach().chunk(3)[:2]:
        _, s, vh = torch.linalg.svd(weight)
        cut.append(x @ (s[:half, None] * vh[:half]).T)
    apart = correlation(cut[0] @ cut[1].T - (cut[0] @ cut[1].T).mean(-1, keepdim=True), want)
    assert together > 0.97
    assert abs(apart) < apart_at_most


@pytest.mark.parametrize("config", [SoftmaxAttention.Config, DenoisingAttention.Config, CausalAttention.Config], ids=lambda config: config.__qualname__)
@pytest.mark.parametrize("proj_bias", [True, False])
def test_a_rank_that_suffices_keeps_the_function(config, proj_bias) -> None:
    """Heads whose second half is made of the first."""
    model, x = host(4, proj_bias=proj_bias), torch.randn(2, TOKENS, DIM, dtype=torch.float64)
    attn = model["attn"]
    with torch.no_grad():
        for value in (attn.qkv.weight, attn.qkv.bias):
            rows = value.unflatten(0, (12, 8))
            rows[:, 4:] = rows[:, :4]
    other, report = convert(model, config(attn_head_dim=4), warm_start=None if config is CausalAttention.Config else "exact")
    # what causal attention makes of the host is another function, but of the same weights
    want = attn if config is not CausalAttention.Config else convert(model, config())[0]["attn"]
    torch.testing.assert_close(other["attn"](x), want(x), rtol=1e-9, atol=1e-9)
    assert report.swaps[0].output == ("changed" if config is CausalAttention.Config else "identical")
    assert report.swaps[0].kept == []
    assert report.swaps[0].parameters[1] < report.swaps[0].parameters[0] * (1 if config is DenoisingAttention.Config else 0.6)


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, lambda: transformers_tower("ViT")], ids=["timm", "torchvision", "transformers"])
def test_wider_heads_keep_the_function_and_learn(make) -> None:
    model, images = stirred(make()), torch.randn(2, 3, SIDE, SIDE)
    other, report = convert(model, SoftmaxAttention.Config(attn_head_dim=9))
    assert {swap.output for swap in report.swaps} == {"identical"}
    want, got = (out if isinstance(out, Tensor) else out.last_hidden_state for out in (model(images), other(images)))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    got.square().sum().backward()
    attn = next(module for module in other.modules() if isinstance(module, SoftmaxAttention))
    per_row = attn.qkv.weight.grad.unflatten(0, (3, 4, 9))[..., 6:, :].abs().sum((0, 1, 3))
    assert (attn.proj.weight.grad.unflatten(1, (4, 9))[..., 6:].abs().sum((0, 1)) > 0).all()
    assert (per_row > 0).all(), "further queries are moved by their keys"


def test_two_thirds_of_the_width_is_as_large_as_the_host() -> None:
    model = timm_vit()
    report = convert_(model, DenoisingAttention.Config(attn_head_dim=4))
    before, after = report.parameters
    # 4 C² and 6 · (2/3) C²; biases and λ aside
    assert [before - 3 * 4 * 24, after - 3 * (5 * 16 + 24 + 4)] == [3 * 4 * 24**2] * 2
    assert "beyond width 4" in report.swaps[0].dropped[-1]
    assert model(torch.randn(1, 3, SIDE, SIDE)).shape == (1, 5)


def test_a_delta_of_narrow_heads_is_the_model(tmp_path) -> None:
    """With one half of a pair trained and the other not."""
    torch.manual_seed(0)
    base, images = stirred(timm_vit()), torch.randn(2, 3, SIDE, SIDE)
    model, _ = convert(base, DenoisingAttention.Config(attn_head_dim=3))
    with torch.no_grad():
        model.blocks[0].attn.proj.weight.mul_(1.1)
    save_delta(model, tmp_path / "delta.safetensors")
    load_delta(base, tmp_path / "delta.safetensors")
    assert torch.equal(base(images), model(images))


def test_what_belongs_to_the_hosts_width_is_refused() -> None:
    for options, says in (({"qk_norm": True}, "q_norm normalizes"), ({"scale_attn_norm": True}, "norm normalizes")):
        with pytest.raises(ValueError, match=says):
            convert_(timm_vit(**options), SoftmaxAttention.Config(attn_head_dim=3))
    model = timm_vit()
    model.blocks[1].attn.qkv.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="more than a plain linear map"):
        convert_(model, DenoisingAttention.Config(attn_head_dim=3))
    assert type(model.blocks[0].attn).__name__ == "Attention"


@pytest.mark.parametrize("config", [HaloAttention.Config(attn_head_dim=3, block_size=2), EfficientAttention.Config(attn_head_dim=3)], ids=lambda c: c.attention)
def test_other_attentions_run_at_another_width(config) -> None:
    model = timm_vit()
    report = convert_(model, config)
    assert {swap.output for swap in report.swaps} == {"changed"}
    assert model.blocks[0].attn.head_dim == 3
    assert model(torch.randn(1, 3, SIDE, SIDE)).shape == (1, 5)


def test_positions_that_are_multiplied_with_queries_are_of_the_hosts_width() -> None:
    """Of a class that is declared, and of one that is read by its structure; refused before anything is changed."""
    pytest.importorskip("timm")
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5, "window_size": 2}
    models = {"*attn": (32, VisionTransformerSAM(**sizes, use_rel_pos=True)), "attention": (16, Windowed(DecomposedAttention(), maps=True))}
    for where, (side, model) in models.items():
        kinds = [type(module) for module in model.modules()]
        with pytest.raises(InputError, match="its positions are multiplied with queries of the host's width"):
            convert_(model, DenoisingAttention.Config(attn_head_dim=2), where, inputs=torch.randn(2, 3, side, side))
        assert [type(module) for module in model.modules()] == kinds
