"""Attentions of the user's own put into models, starts that mean nothing, and the library's own models as hosts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import (
    DenoisingAttention,
    ExternalAttention,
    HaloAttention,
    InputError,
    SoftmaxAttention,
    convert,
    convert_,
    insert_,
    load_delta,
    revert_,
    save_delta,
)
from foveal.attention import AttentionConfig, TokenAttention, _registry, attention_class, list_attentions, register
from foveal.attention._base import QKVAttention
from tests.convert.hosts import CASES
from tests.convert.test_carried import assert_same, everything
from tests.convert.test_hosts import run, stirred, timm_vit, torchvision_vit, transformers_tower

SOFTMAX, DENOISING = SoftmaxAttention.Config(), DenoisingAttention.Config()
IMAGES = torch.randn(2, 3, 32, 32)
THREE = {"timm": timm_vit, "torchvision": torchvision_vit, "transformers": lambda: transformers_tower("ViT")}


@pytest.fixture
def mine() -> Iterator[dict[str, AttentionConfig]]:
    """Registered for one test: a subclass of the token attentions, one of the qkv base, a module that knows of nothing, and a subclass of one of ours."""
    before = dict(_registry._REGISTRY)

    @register("test mean", family="summary")
    class Mean(TokenAttention):
        """Every token gets the mean of the values, larger or smaller."""

        @dataclass(frozen=True, kw_only=True)
        class Config(AttentionConfig):
            start: float = 0.5

        def __init__(
            self,
            dim: int,
            num_heads: int = 8,
            qkv_bias: bool = False,
            proj_bias: bool = True,
            device: Any = None,
            dtype: Any = None,
            *,
            start: float = 0.5,
            **rest: Any,
        ) -> None:
            super().__init__()
            factory = {"device": device, "dtype": dtype}
            self.dim, self.num_heads = dim, num_heads
            self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias, **factory), nn.Linear(dim, dim, bias=proj_bias, **factory)
            self.gain = nn.Parameter(torch.full((1,), start, **factory))

        def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
            return self.proj(self.gain * self.qkv(x).chunk(3, -1)[2].mean(1, keepdim=True).expand_as(x))

        def attention_map(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
            return {"combined": x.new_full((len(x), self.num_heads, x.shape[1], x.shape[1]), 1 / x.shape[1])}

        def macs(self, num_tokens: int) -> int:
            return num_tokens

    @register("test pairs", family="pairs")
    class Pairs(QKVAttention):
        @dataclass(frozen=True, kw_only=True)
        class Config(AttentionConfig):
            pass

        def __init__(self, dim: int, num_heads: int = 8, **options: Any) -> None:
            known = {"qkv_bias": False, "proj_bias": True, "attn_drop": 0.0, "proj_drop": 0.0, "device": None, "dtype": None} | options
            super().__init__(dim, num_heads, qk_norm=False, scale_norm=False, norm_layer=None, attn_head_dim=None, core="softmax", **known)
            self.extra = nn.Parameter(torch.full((dim,), 3.0))

    @register("test gate", family="summary")
    class Gate(nn.Module):
        @dataclass(frozen=True, kw_only=True)
        class Config(AttentionConfig):
            power: int = 2

        def __init__(self, dim: int, num_heads: int, power: int) -> None:
            super().__init__()
            self.q, self.v, self.proj, self.power = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim), power

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(self.v(x) * self.q(x) ** self.power)

    @register("test denoising", family="signed pairs")
    class Ours(DenoisingAttention):
        @dataclass(frozen=True, kw_only=True)
        class Config(DenoisingAttention.Config):
            pass

    yield {cls.name: cls.Config() for cls in (Mean, Pairs, Gate, Ours)}
    for name in _registry._REGISTRY.keys() - before.keys():
        _registry._REGISTRY.remove(name)


@pytest.mark.case("R8")
@pytest.mark.parametrize("host", THREE)
def test_an_attention_that_the_user_registered(mine, host, tmp_path) -> None:
    for name, config in mine.items():
        torch.manual_seed(0)
        plain = stirred(THREE[host]()).double()
        model, report = convert(plain, config)
        assert {swap.output for swap in report.swaps} == {"changed"}
        swap = report.swaps[0]
        module: Any = model.get_submodule(swap.name)
        ours = next(part for part in module.modules() if isinstance(part, TokenAttention))
        assert sorted(swap.kept + swap.derived + swap.new) == sorted(key for key, _ in ours.named_parameters())
        assert {value.dtype for value in ours.parameters()} == {torch.float64}
        run(model, IMAGES.double()).square().sum().backward()
        save_delta(model, tmp_path / "delta.safetensors")
        other = THREE[host]().double()
        other.load_state_dict(plain.state_dict())
        load_delta(other, tmp_path / "delta.safetensors")
        assert torch.equal(run(other, IMAGES.double()), run(model, IMAGES.double())), name
        revert_(model)
        assert torch.equal(run(model, IMAGES.double()), run(plain, IMAGES.double()))


@pytest.mark.case("R8")
def test_what_means_the_same_is_kept(mine) -> None:
    """Against the formula of each, on the host's own weights."""
    torch.manual_seed(0)
    host = stirred(timm_vit())
    qkv, proj, x = host.blocks[0].attn.qkv, host.blocks[0].attn.proj, torch.randn(2, 5, 24)
    q, _, v = qkv(x).chunk(3, -1)
    want = {
        "test mean": proj(0.5 * v.mean(1, keepdim=True).expand_as(v)),
        "test pairs": host.blocks[0].attn(x),
        "test gate": proj(v * q**2),
        "test denoising": host.blocks[0].attn(x),
    }
    for name, config in mine.items():
        model, report = convert(host, config)
        torch.testing.assert_close(model.blocks[0].attn(x), want[name], rtol=1e-3, atol=1e-3)
        assert bool(report.swaps[0].new) == (name != "test gate")
    swap = convert(host, mine["test gate"])[1].swaps[0]
    assert (swap.kept, swap.dropped) == (["attn.proj.weight", "attn.proj.bias"], ["qkv rows of k"])
    assert swap.macs is None


@pytest.mark.case("R8")
def test_what_such_an_attention_cannot_do_is_said(mine) -> None:
    model = timm_vit()
    convert_(model, mine["test gate"])
    with pytest.raises(InputError, match="Gate takes no attn_mask"):
        model.blocks[0].attn(torch.randn(1, 5, 24), attn_mask=torch.ones(5, 5, dtype=torch.bool))
    with pytest.raises(InputError, match="Gate has no attention_map"):
        model.blocks[0].attn.attention_map(torch.randn(1, 5, 24))
    before = everything(swin := CASES["timm Swin"].model())
    with pytest.raises(InputError, match="windows are shifted"):
        convert_(swin, mine["test mean"], "layers.0.blocks.1.attn")
    assert_same(before, everything(swin))
    assert [one.name for one in convert_(swin, mine["test mean"]).left] == ["layers.0.blocks.1.attn"]

    @register("test odd", family="pairs")
    class Odd(nn.Module):
        @dataclass(frozen=True, kw_only=True)
        class Config(AttentionConfig):
            pass

        def __init__(self, dim: int, num_heads: int, wanted: int) -> None:
            super().__init__()

    with pytest.raises(InputError, match=r"test odd attention cannot be made in this place: .*wanted"):
        convert_(timm_vit(), Odd.Config())
    with pytest.raises(InputError, match="takes maps"):
        convert_(timm_vit(), foveal.ExternalAttention2d.Config(slots=3))


@pytest.mark.case("R8")
def test_an_attention_without_parameters(mine, tmp_path) -> None:
    @register("test flat", family="summary")
    class Flat(nn.Module):
        @dataclass(frozen=True, kw_only=True)
        class Config(AttentionConfig):
            pass

        def __init__(self, dim: int, num_heads: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).expand_as(x)

    for host in THREE.values():
        model = stirred(host())
        want = run(model, IMAGES)
        report = convert_(model, Flat.Config())
        assert report.swaps[0].parameters[1] == 0
        assert "-100%" in report.table()
        run(model, IMAGES)
        save_delta(model, tmp_path / "delta.safetensors")
        revert_(model)
        assert torch.equal(run(model, IMAGES), want)


@pytest.mark.case("R9")
@pytest.mark.parametrize("start", ["exakt", "", float("nan"), float("inf"), -float("inf"), -1e-4, True, False, [1e-4], torch.tensor(0.1), {"a": 1}])
def test_starts_that_are_none(start) -> None:
    for config in (DENOISING, {"*": DENOISING}, SOFTMAX):
        model = timm_vit()
        before = everything(model)
        with pytest.raises(InputError, match="expected warm_start as 'exact' or a"):
            convert_(model, config, warm_start=start)
        assert_same(before, everything(model))


@pytest.mark.case("R9")
def test_starts_that_mean_nothing() -> None:
    for name in list_attentions(form="tokens"):
        config = attention_class(name).Config()
        for start in (1e-4, 0.5, 0, "exact"):
            model = timm_vit()
            before = everything(model)
            if name == "denoising" or (start == "exact" and name in ("softmax", "cross_sample")):
                convert_(model, config, warm_start=start)
                continue
            with pytest.raises(InputError, match=f"has no effect for {name} attention"):
                convert_(model, config, warm_start=start)
            assert_same(before, everything(model))
    convert_(timm_vit(), {"blocks.0.attn": DENOISING, "*": ExternalAttention.Config(slots=3)}, warm_start="exact")
    model = timm_vit()
    convert_(model, DENOISING)
    torch.testing.assert_close(model.blocks[0].attn.q_neg.weight, 1e-4 * model.blocks[0].attn.qkv.weight[:24])


# -- our own models as hosts ---------------------------------------------------------------------------------------------------------------------------


def own(attention: str, **options: Any) -> nn.Module:
    models = pytest.importorskip("foveal.models")
    torch.manual_seed(0)
    return stirred(models.ViT(attention=attention, size="tiny").build(img_size=32, in_chans=3, num_classes=5))


@pytest.mark.case("R15")
@pytest.mark.parametrize("name", list_attentions(form="tokens"))
def test_our_own_attentions_are_hosts(name, tmp_path) -> None:
    plain = own(name)
    for config in (SOFTMAX, DENOISING, ExternalAttention.Config(slots=3), HaloAttention.Config(block_size=2, halo_size=1)):
        model = own(name)
        if config.attention == name != "softmax":
            with pytest.raises(InputError, match="attention already"):
                convert_(model, config)
            continue
        report = convert_(model, config)
        changed = (run(model, IMAGES) - run(plain, IMAGES)).abs().max()
        kept = name == "softmax" and config in (SOFTMAX, DENOISING)
        assert {swap.output for swap in report.swaps} == ({"identical" if config is SOFTMAX else "within warm start"} if kept else {"changed"})
        assert (changed < 1e-3) if kept else (changed > 1e-5)
        run(model, IMAGES).square().sum().backward()
        save_delta(model, tmp_path / "delta.safetensors")
        other = own(name)
        load_delta(other, tmp_path / "delta.safetensors")
        assert torch.equal(run(other, IMAGES), run(model, IMAGES))
        revert_(model)
        assert torch.equal(run(model, IMAGES), run(plain, IMAGES))


@pytest.mark.case("R15")
def test_our_other_models_and_those_that_timm_built_with_ours() -> None:
    models = pytest.importorskip("foveal.models")
    timm = pytest.importorskip("timm")
    t2t = models.T2TViT(img_size=32, embed_dim=24, depth=2, num_heads=4, token_dim=16, num_classes=5)
    external = models.T2TViT(attention="external", token_attention="external", img_size=32, embed_dim=24, depth=2, num_heads=4, token_dim=16, num_classes=5)
    video = {"num_frames": 2, "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 4, "num_classes": 5}
    kinds = ("divided_space_time", "joint_space_time", "space_only")
    videos = [models.TimeSformer(attention="softmax", attention_type=kind, **video) for kind in kinds]
    built = timm.create_model("test_vit", img_size=32, num_classes=5, attn_layer=SOFTMAX.layer())
    # in the steps of the external one memories stand alone, without an attention around them
    for model, count in ((t2t, 4), (external, 2), *zip(videos, (4, 2, 2), strict=True), (built, 6)):
        model = stirred(model)
        x = torch.randn(2, 3, 2, 32, 32) if isinstance(model, models.TimeSformer) else IMAGES
        try:
            want = model(x)
        except InputError:
            x = x.transpose(1, 2)
            want = model(x)
        report = convert_(model, DENOISING, warm_start="exact")
        assert len(report.swaps) == count
        if model is not external:
            assert {swap.output for swap in report.swaps} == {"identical"}
            torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)
        revert_(model)
        assert torch.equal(model(x), want)
    halo = HaloAttention.Config(block_size=2, halo_size=1)
    says = r"needs the grid of one image, and there is none among|it narrows its tokens|none in the steps"
    for model, names in (
        (videos[0], ["blocks.0.temporal_attn", "blocks.1.temporal_attn"]),
        (t2t, ["patch_embed.attention1.attn", "patch_embed.attention2.attn"]),
    ):
        with pytest.raises(InputError, match=says):
            convert_(model, halo, names[0])
        report = convert_(model, halo)
        assert [one.name for one in report.left] == names
        assert len(report.swaps) == 2
    with pytest.raises(InputError, match=says):
        convert_(videos[1], halo)


@pytest.mark.case("R15")
def test_what_a_conversion_put_in_is_no_host_of_its_own() -> None:
    """A part of the model was converted by itself, and then the whole is: the first has to be taken back."""
    model = nn.ModuleDict({"tower": timm_vit()})
    convert_(model["tower"], DENOISING)
    with pytest.raises(InputError, match=r"was converted to .*revert_"):
        convert_(model, SOFTMAX)
    revert_(model["tower"])
    assert len(convert_(model, SOFTMAX).swaps) == 3
    with pytest.raises(InputError, match="takes tokens"):
        insert_(model, DENOISING, after="tower")
