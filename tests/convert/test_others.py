"""Attentions of open_clip, vit-pytorch, ultralytics, DINOv2 and torchvision: whole, to the last bit there again, and trained as before."""

import copy
import os
import tempfile
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, DifferentialAttention, ExternalAttention, InputError, SoftmaxAttention

SOFTMAX = SoftmaxAttention.Config()


def stirred(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for value in (*model.parameters(), *(value for name, value in model.named_buffers() if "running" in name)):
            value.add_(0.2 * torch.rand_like(value))
    return model.eval()


def whole(model: nn.Module, inputs: Any, places: int, config: Any = SOFTMAX, **options: Any) -> None:
    """Kept in evaluation and in training, learns, and comes back bit for bit."""
    give = inputs if isinstance(inputs, tuple) else (inputs,)
    want, state, kinds = model(*give), copy.deepcopy(model.state_dict()), {name: type(module) for name, module in model.named_modules()}
    twin = copy.deepcopy(model)
    report = foveal.convert_(model, config, inputs=inputs, **options)
    assert [swap.output for swap in report.swaps] == ["identical"] * places
    torch.testing.assert_close(model(*give), want, rtol=1e-5, atol=1e-5)
    foveal.revert_(model)
    now = model.state_dict()
    assert list(now) == list(state)
    assert all(torch.equal(now[name], value) for name, value in state.items())
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert torch.equal(model(*give), want)
    # in training what is normalized by the batch counts it once, and gradients are those of before
    foveal.convert_(model, config, inputs=inputs, **options)
    for one in (model, twin):
        one.train()
        one.zero_grad()
        one(*give).square().mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for swap in report.swaps for value in model.get_submodule(swap.name).parameters())
    model.eval()
    foveal.revert_(model)
    grads = {name: value.grad for name, value in model.named_parameters()}
    for name, value in twin.named_parameters():
        if grads[name] is not None and value.grad is not None:
            torch.testing.assert_close(grads[name], value.grad, rtol=1e-4, atol=1e-5)
    for name, value in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value, rtol=1e-5, atol=1e-6)


# -- a norm of its own before the maps, as vit-pytorch has it ----------------------------------------------------------------------------------------


class HeadNorm(nn.Module):
    """A length a head, and no parameter of the name ``weight``."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.gamma * 2


class PreNormAttention(nn.Module):
    def __init__(self, norm: Any = nn.LayerNorm, qk_norm: bool = False, odd: bool = False) -> None:
        super().__init__()
        self.before, self.inner = norm(16), nn.Linear(16, 3 * 24, bias=False)
        self.attend, self.dropout, self.odd = nn.Softmax(dim=-1), nn.Dropout(0.25), nn.Dropout(0.1) if odd else nn.Identity()
        self.q_norm, self.k_norm = (HeadNorm(4, 6) if qk_norm else nn.Identity() for _ in range(2))
        self.out = nn.Sequential(nn.Linear(24, 16), nn.Dropout(0.125))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.odd(self.before(x))
        q, k, v = self.inner(x).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4)
        weights = self.dropout(self.attend(self.q_norm(q) @ self.k_norm(k).mT * 0.5))
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x)


class TokenBatchNorm(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view(x.shape)


TOKENS = torch.randn(3, 7, 16)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"norm": TokenBatchNorm}])
def test_a_norm_before_the_maps_goes_on(options) -> None:
    torch.manual_seed(0)
    model = Block(PreNormAttention(**options)).eval()
    for part in model.modules():
        # drawn apart in the two, dropout would hide what is compared
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    whole(stirred(model), TOKENS, 1)


def test_dropout_stays_where_it_was() -> None:
    model = Block(PreNormAttention()).eval()
    foveal.convert_(model, SOFTMAX, inputs=TOKENS)
    assert (model.attention.attn.attn_drop.p, model.attention.attn.proj_drop.p) == (0.25, 0.125)
    # one in front of the maps is none of an attention: what the host does with it goes on
    other = Block(PreNormAttention(odd=True)).eval()
    odd = other.attention.odd
    foveal.convert_(other, SOFTMAX, inputs=TOKENS)
    assert (other.attention.odd, other.attention.attn.attn_drop.p, other.attention.get_submodule("out.1").p) == (odd, 0.25, 0.125)


class HalfNormedAttention(PreNormAttention):
    """Values are not normalized: the norm is none of the whole attention."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        (q, k, _), (_, _, v) = (self.inner(one).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4) for one in (self.before(x), x))
        return self.out(((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_a_norm_of_some_tokens_alone_goes_on() -> None:
    """What is read of the whole attention does not hold; its forward goes on around ours."""
    model = Block(HalfNormedAttention()).eval()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    whole(stirred(model), TOKENS, 1)


@pytest.mark.parametrize(("module", "options"), [("vit", {}), ("simple_vit", {}), ("simple_vit_with_qk_norm", {})])
def test_vit_pytorch(module, options) -> None:
    made = pytest.importorskip(f"vit_pytorch.{module}")
    sizes = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}
    whole(stirred(getattr(made, "ViT" if module == "vit" else "SimpleViT")(**sizes, **options)), torch.randn(2, 3, 32, 32), 2)


# -- DINOv2's hub classes: Apache-2.0; queries are scaled before they meet the keys ------------------------------------------------------------------


class MemEffAttention(nn.Module):
    """Laid out as in ``dinov2.layers.attention``: qkv, attn_drop, proj, proj_drop."""

    def __init__(self, dim: int = 16, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.attn_drop = nn.Linear(dim, 3 * dim), nn.Dropout(0.0)
        self.proj, self.proj_drop = nn.Linear(dim, dim), nn.Dropout(0.0)

    def forward(self, x: Tensor, attn_bias: Any = None) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        attn = self.attn_drop((q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1))
        return self.proj_drop(self.proj((attn @ v).transpose(1, 2).reshape(batch, count, width)))


def test_dinov2() -> None:
    whole(stirred(Block(MemEffAttention())), TOKENS, 1)


# -- ultralytics: by the names of its parts, in classes of this file's own ---------------------------------------------------------------------------


class Conv(nn.Module):
    def __init__(self, inside: int, outside: int, size: int = 1, groups: int = 1, act: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, size, padding=size // 2, groups=groups, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outside), nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class YoloAttention(nn.Module):
    """Heads one after another, each of queries, keys and values; in as many areas as ``area``."""

    def __init__(self, dim: int = 16, heads: int = 2, key: int | None = None, area: int | None = None, act: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        each = dim // heads if key is None else key
        if key is not None:
            self.key_dim, self.scale = key, key**-0.5
        if area is not None:
            self.area = area
        self.each, self.areas = each, area or 1
        self.qkv, self.proj, self.pe = Conv(dim, heads * 2 * each + dim, act=act), Conv(dim, dim), Conv(dim, dim, 3, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        made = self.qkv(x).flatten(2).unflatten(1, (self.num_heads, -1)).unflatten(-1, (self.areas, -1))
        q, k, v = made.split([self.each, self.each, self.head_dim], dim=2)
        weights = (torch.einsum("bhdan,bhdam->bhanm", q, k) / self.each**0.5).softmax(-1)
        out = torch.einsum("bhanm,bhdam->bhdan", weights, v).flatten(-2).flatten(1, 2).unflatten(-1, (height, width))
        return self.proj(out + self.pe(v.flatten(-2).flatten(1, 2).unflatten(-1, (height, width))))


def named(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    kind = type(name, (YoloAttention,), {"__module__": "ultralytics.nn.modules.block"})
    return stirred(nn.Sequential(nn.Conv2d(3, 16, 1), kind(**options)))


MAPS = torch.randn(2, 3, 4, 6)
YOLO = [("Attention", {"key": 4}), ("Attention", {"key": 8}), ("AAttn", {"area": 1}), ("AAttn", {"area": 4})]


@pytest.mark.parametrize("config", [SOFTMAX, DenoisingAttention.Config()], ids=lambda config: config.attention)
@pytest.mark.parametrize(("name", "options"), YOLO)
def test_attention_over_maps_of_yolo(name, options, config) -> None:
    if config is SOFTMAX:
        return whole(named(name, **options), MAPS, 1)
    model = named(name, **options)
    want = model(MAPS)
    foveal.convert_(model, config, warm_start="exact")
    torch.testing.assert_close(model(MAPS), want, rtol=1e-5, atol=1e-5)
    maps = foveal.attention_maps(model, MAPS)
    assert next(iter(maps.values()))["combined"].shape == (2 * options.get("area", 1), 2, 24 // options.get("area", 1), 24 // options.get("area", 1))
    return None


def test_what_yolos_attention_cannot_be() -> None:
    """No pairs, several streams, heads in halves: what reads the values would have none, or two."""
    for config in (ExternalAttention.Config(), DifferentialAttention.Config(), foveal.CrossSampleAttention.Config()):
        with pytest.raises(InputError, match="a convolution of its values is added"):
            foveal.convert_(named("AAttn", area=1), config)
    with pytest.raises(InputError, match=r"more than a convolution of single pixels"):
        foveal.convert_(named("AAttn", area=1, act=True), SOFTMAX)
    with pytest.raises(InputError, match="wider than its values"):
        foveal.convert_(named("Attention", key=16), SOFTMAX)
    other = named("Attention", key=4)
    other[1].scale = 0.3
    with pytest.raises(InputError, match=r"\.scale is 0\.3, and attentions here divide by .*, 0\.5"):
        foveal.convert_(other, SOFTMAX)
    model = named("AAttn", area=4)
    foveal.convert_(model, SOFTMAX)
    with pytest.raises(InputError, match="4 areas, which the 3 × 3 pixels"):
        model(torch.randn(1, 3, 3, 3))


@pytest.mark.parametrize("config", ["yolo11n.yaml", "yolo12n.yaml"])
def test_ultralytics(config) -> None:
    pytest.importorskip("ultralytics")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(config, nc=3, verbose=False)
    attentions = [(name, module) for name, module in model.named_modules() if type(module).__name__ in ("Attention", "AAttn")]
    assert attentions
    for _, module in attentions[:2]:
        whole(stirred(nn.Sequential(module)), torch.randn(2, module.qkv.conv.in_channels, 4, 8), 1)


# -- open_clip: learned queries of another width, and the mean of a map that asks --------------------------------------------------------------------


class Pooler(nn.Module):
    """As open_clip's ``AttentionalPooler``: queries of 8, tokens of 16."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(3, 8))
        self.attn = nn.MultiheadAttention(8, 2, kdim=16, vdim=16, batch_first=True, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.query.expand(len(x), -1, -1), x, x, need_weights=False)[0]


@pytest.mark.parametrize("bias", [True, False])
def test_queries_of_another_width_than_what_they_read(bias) -> None:
    whole(stirred(Pooler(bias)), TOKENS, 1)
    model = Pooler(bias)
    foveal.convert_(model, SOFTMAX)
    assert model.attn.attn.qkv.k.weight.shape == (8, 16)
    for config in (DenoisingAttention.Config(), ExternalAttention.Config()):
        with pytest.raises(InputError, match=r"tokens of width 16, and its queries of 8|asked by other tokens"):
            foveal.convert_(Pooler(bias), config)
    odd = Pooler(bias)
    odd.attn = nn.MultiheadAttention(8, 2, kdim=16, vdim=12, batch_first=True)
    with pytest.raises(InputError, match="values of another width than its keys"):
        foveal.convert_(odd, SOFTMAX)


def test_a_pooler_is_loaded_again(tmp_path) -> None:
    pytest.importorskip("safetensors")
    model = stirred(Pooler())
    foveal.convert_(model, SOFTMAX)
    foveal.save_pretrained(model, tmp_path / "pooler")
    assert torch.equal(foveal.from_pretrained(tmp_path / "pooler", build=Pooler)(TOKENS), model(TOKENS))


class MapPool(nn.Module):
    """As the pool of CLIP's ResNets; here all places ask, and what the mean is given is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(25, 16))
        self.k_proj, self.q_proj, self.v_proj, self.c_proj = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 6)
        self.num_heads = 4

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        q, k, v = (layer(x).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]


@pytest.mark.parametrize("name", ["open_clip.modified_resnet", "clip.model"])
def test_the_mean_of_a_map_asks(name) -> None:
    kind = type("AttentionPool2d", (MapPool,), {"__module__": name})
    whole(stirred(nn.Sequential(nn.Conv2d(3, 16, 1), kind())), torch.randn(2, 3, 4, 6), 1)
    with pytest.raises(InputError, match="asked by the mean of what it reads"):
        foveal.convert_(nn.Sequential(nn.Conv2d(3, 16, 1), kind()), ExternalAttention.Config())


def test_open_clip() -> None:
    resnets = pytest.importorskip("open_clip.modified_resnet")
    whole(stirred(nn.Sequential(nn.Conv2d(3, 16, 1), resnets.AttentionPool2d(4, 16, 4, 6))), torch.randn(2, 3, 4, 4), 1)


# -- torchvision -------------------------------------------------------------------------------------------------------------------------------------


def test_a_bias_of_keys_that_does_nothing_comes_back_as_it_was() -> None:
    """torchvision's Swin V2 sets it to zero in every call, and keeps it."""
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    model = stirred(nn.Sequential(swin.ShiftedWindowAttentionV2(16, [4, 4], [0, 0], 2)))
    state, maps = copy.deepcopy(model.state_dict()), torch.randn(2, 8, 8, 16)
    assert (state["0.qkv.bias"][16:32] != 0).all()
    want = model(maps)
    for config in (SOFTMAX, DenoisingAttention.Config(), ExternalAttention.Config()):
        foveal.convert_(model, config)
        model(maps)
        foveal.revert_(model)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert torch.equal(model(maps), want)


@pytest.mark.parametrize("sizes", [(2, 4, 4), (3, 5, 7), (8, 8, 8), (1, 2, 3)])
def test_videos_of_any_size(sizes) -> None:
    """Windows that are padded, that the map covers in some directions, and shifted in the others."""
    video = pytest.importorskip("torchvision.models.video.swin_transformer")
    # for a window that is smaller than its own torchvision takes the first of its positions, wherever they lie
    model, maps = stirred(nn.Sequential(video.ShiftedWindowAttention3d(16, [2, 4, 4], [1, 2, 2], 2))), torch.randn(2, *sizes, 16)
    want = model(maps)
    foveal.convert_(model, SOFTMAX)
    torch.testing.assert_close(model(maps), want, rtol=1e-5, atol=1e-5)
