"""Maps out of models that are not ours, against what the host itself shows when asked for its slow path."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import foveal
from foveal.analysis import attention_maps
from tests.convert.test_hosts import HOSTS, SIDE, stirred, timm_vit, torchvision_vit, transformers_tower

IMAGES = (2, 3, SIDE, SIDE)


def host(name: str) -> nn.Module:
    torch.manual_seed(0)
    return stirred(HOSTS[name]())


def timm_eager(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """timm's own maps: with its fused path switched off, what enters the dropout of maps."""
    model, seen = copy.deepcopy(model), {}
    for name, module in model.named_modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            module.attn_drop.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    with torch.no_grad():
        model(images)
    return seen


def same(got: dict[str, dict[str, torch.Tensor]], want: dict[str, torch.Tensor]) -> None:
    assert list(got) == list(want)
    assert len(want) > 1
    for name, value in want.items():
        assert list(got[name]) == ["combined"]
        torch.testing.assert_close(got[name]["combined"], value, rtol=1e-4, atol=1e-6)


def timm_model(cls: str, **options: object) -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": SIDE, "patch_size": 4, "embed_dim": 24, "num_classes": 5}
    return getattr(timm.models, cls)(**(sizes | options))


TIMM = {
    "ViT": lambda: timm_vit(),
    "ViT, normed, registers": lambda: timm_vit(qk_norm=True, scale_attn_norm=True, reg_tokens=3),
    "Swin, shifted windows": lambda: timm_model("SwinTransformer", depths=(2, 2), num_heads=(2, 4), window_size=4),
    "EVA, rotary": lambda: timm_model("Eva", depth=2, num_heads=2, patch_size=8, use_rot_pos_emb=True),
    "BEiT, position bias": lambda: timm_model("Beit", depth=2, num_heads=2, patch_size=8, use_rel_pos_bias=True, use_abs_pos_emb=False),
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("fused", [True, False])
def test_timm_shows_the_maps_of_its_slow_path(name, fused) -> None:
    torch.manual_seed(0)
    model, images = stirred(TIMM[name]()), torch.randn(IMAGES)
    want = timm_eager(model, images)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    same(attention_maps(model, images), want)


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2", "CLIPVision", "SiglipVision"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_transformers_shows_its_eager_maps(name, implementation) -> None:
    torch.manual_seed(0)
    model, images = stirred(transformers_tower(name)), torch.randn(IMAGES)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(images, output_attentions=True)
    model.set_attn_implementation(implementation)
    got = attention_maps(model, images)
    layers = {layer: maps for layer, maps in got.items() if "head" not in layer}
    same(layers, dict(zip(layers, out.attentions, strict=True)))
    assert len(got) - len(layers) == (name == "SiglipVision"), "its pooling head asks with a query of its own"
    by_name = attention_maps(model, {"pixel_values": images}, where=next(iter(layers)))
    assert list(by_name) == [next(iter(layers))]


def test_torchvision_shows_what_need_weights_gives() -> None:
    torch.manual_seed(0)
    model, images, want = stirred(torchvision_vit()), torch.randn(IMAGES), {}

    def ask(name: str):
        def hook(module: nn.MultiheadAttention, args: tuple, kwargs: dict) -> None:
            if name not in want:
                want[name] = None
                want[name] = module(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})[1]

        return hook

    other = copy.deepcopy(model)
    for name, module in other.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(ask(name), with_kwargs=True)
    with torch.no_grad():
        other(images)
    same(attention_maps(model, images), want)


@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_multihead_attention_is_answered_as_it_asked(need, batched) -> None:
    """Pairs in a decoder, over another input, with every mask; the caller gets what it would have got."""

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(24, 4, batch_first=True)

        def forward(self, x):
            context = x.flip(-2)[..., :5, :]
            mask = torch.zeros(7, 5, dtype=torch.bool)
            mask[2, 1:] = True
            return self.attn(x, context, context, attn_mask=mask, need_weights=need)

    model, x = stirred(Asks()), torch.randn(2, 7, 24) if batched else torch.randn(7, 24)
    got: list = []
    handle = model.register_forward_hook(lambda _, args, output: got.append(output))
    maps = attention_maps(model, x)["attn"]["combined"]
    want = model(x)
    handle.remove()
    torch.testing.assert_close(got[0][0], want[0])
    assert (got[0][1] is None) == (want[1] is None) == (not need)
    assert maps.shape == (2 if batched else 1, 4, 7, 5)
    assert (maps[:, :, 2, 1:] == 0).all()
    if need:
        torch.testing.assert_close(got[0][1], want[1])
        torch.testing.assert_close(maps.mean(1) if batched else maps.mean(1)[0], want[1])


class Kernel(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options = options

    def forward(self, qkv):
        return F.scaled_dot_product_attention(*qkv, **self.options)


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.eye(6, dtype=torch.bool)}, {"attn_mask": torch.linspace(-2, 2, 36).view(6, 6)}],
    ids=["plain", "causal", "scaled", "mask", "bias"],
)
def test_the_kernel_in_the_open_is_the_kernel(options) -> None:
    qkv = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    if isinstance(options.get("attn_mask"), torch.Tensor) and options["attn_mask"].is_floating_point():
        options = {"attn_mask": options["attn_mask"].double()}
    model, seen = Kernel(**options), []
    model.register_forward_hook(lambda _, args, output: seen.append(output))
    maps = attention_maps(model, qkv)[""]["combined"]
    want = F.scaled_dot_product_attention(*qkv, **options)
    torch.testing.assert_close(seen[0], want)
    torch.testing.assert_close(maps @ qkv[2], want)


def test_grouped_queries_are_seen() -> None:
    class Grouped(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True)

    x, model, seen = torch.randn(1, 4, 5, 8), Grouped(), []
    model.register_forward_hook(lambda _, args, output: seen.append(output))
    assert attention_maps(model, x)[""]["combined"].shape == (1, 4, 5, 5)
    torch.testing.assert_close(seen[0], model(x))


@pytest.mark.parametrize("name", HOSTS)
def test_converted_places_keep_their_names_and_maps(name) -> None:
    model, images = host(name), torch.randn(IMAGES)
    want = attention_maps(model, images)
    converted, report = foveal.convert(model, foveal.SoftmaxAttention.Config())
    got = attention_maps(converted, images)
    assert list(got) == list(want)
    assert {swap.name for swap in report.swaps} <= set(got)
    for layer, maps in want.items():
        torch.testing.assert_close(got[layer]["combined"], maps["combined"], rtol=1e-4, atol=1e-6)
    foveal.revert_(converted)
    foveal.convert_(converted, foveal.DenoisingAttention.Config(), where=report.swaps[0].name)
    signed = attention_maps(converted, images)
    assert list(signed) == list(want)
    assert set(signed[report.swaps[0].name]) == {"positive", "negative", "combined"}
    torch.testing.assert_close(signed[report.swaps[0].name]["positive"], want[report.swaps[0].name]["combined"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TIMM)
def test_positions_and_windows_survive_conversion_in_the_maps(name) -> None:
    torch.manual_seed(0)
    model, images = stirred(TIMM[name]()), torch.randn(IMAGES)
    want = attention_maps(model, images)
    converted, _ = foveal.convert(model, foveal.SoftmaxAttention.Config())
    got = attention_maps(converted, images)
    assert list(got) == list(want)
    for layer, maps in want.items():
        torch.testing.assert_close(got[layer]["combined"], maps["combined"], rtol=1e-4, atol=1e-6)


def test_a_plain_model_is_left_as_it_was() -> None:
    model, images = host("timm ViT").train(), torch.randn(IMAGES)
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
    attention_maps(model, images)
    with pytest.raises(AssertionError):
        attention_maps(model, torch.randn(1, 3, 20, 20))
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()] == before
    kernel = F.scaled_dot_product_attention(*torch.randn(3, 1, 1, 2, 2))
    assert kernel.shape == (1, 1, 2, 2)


def test_layers_can_be_chosen_and_reduced_one_at_a_time() -> None:
    model, images = host("timm ViT"), torch.randn(IMAGES)
    every = attention_maps(model, images)
    for where in ("blocks.1.attn", re.compile(r"blocks\.1\..*"), lambda name, module: name == "blocks.1.attn"):
        some = attention_maps(model, images, where=where)
        assert list(some) == ["blocks.1.attn"]
        torch.testing.assert_close(some["blocks.1.attn"]["combined"], every["blocks.1.attn"]["combined"])
    rows = attention_maps(model, images, reduce=lambda layer, maps: maps["combined"][:, :, 0].mean(1))
    assert list(rows) == list(every)
    for layer, row in rows.items():
        torch.testing.assert_close(row, every[layer]["combined"][:, :, 0].mean(1))


def test_reduced_maps_are_not_kept() -> None:
    import weakref

    model, alive, most = host("timm ViT"), [], []

    def reduce(layer: str, maps: dict[str, torch.Tensor]) -> None:
        alive.append(weakref.ref(maps["combined"]))
        most.append(sum(ref() is not None for ref in alive))

    attention_maps(model, torch.randn(IMAGES), reduce=reduce)
    assert most == [1, 1, 1]


def test_a_module_that_runs_twice_shows_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = foveal.SoftmaxAttention(8, 2)

        def forward(self, x):
            return self.attn(self.attn(x))

    model, x = Twice().eval(), torch.randn(1, 4, 8)
    maps = attention_maps(model, x)
    assert list(maps) == ["attn", "attn:2"]
    with torch.no_grad():
        torch.testing.assert_close(maps["attn:2"]["combined"], model.attn.attention_map(model.attn(x))["combined"])


def test_compiled_models_are_seen_through() -> None:
    torch._dynamo.reset()
    model, images = host("timm ViT"), torch.randn(IMAGES)
    compiled = torch.compile(model, backend="eager")
    compiled(images)
    got, want = attention_maps(compiled, images), attention_maps(model, images)
    assert list(got) == list(want)
    for (_, ours), (_, theirs) in zip(got.items(), want.items(), strict=True):
        assert torch.equal(ours["combined"], theirs["combined"])


def test_attention_on_images_shows_its_maps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), foveal.EfficientAttention2d(8))
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        want = model[1].attention_map(model[0](x))["combined"]
    assert torch.equal(attention_maps(model.eval(), x)["1"]["combined"], want)


def test_a_softmax_between_channels_is_no_map_of_tokens() -> None:
    """Cross-covariance attention has heads and a softmax, but tokens do not meet in it: it is named rather than shown."""
    timm = pytest.importorskip("timm")
    model = timm.models.Xcit(img_size=SIDE, patch_size=16, embed_dim=24, depth=1, cls_attn_layers=1, num_heads=2, num_classes=5).eval()
    with pytest.warns(UserWarning, match=r"blocks\.0\.attn: it attends between channels"):
        maps = attention_maps(model, torch.randn(IMAGES))
    # the class attention behind it is a map of tokens
    assert list(maps) == ["cls_attn_blocks.0.attn"]


def test_torchvision_swin_shows_its_windows() -> None:
    """The first block does not shift: its maps, applied to the values of each window, give what the attention gives."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model, seen = stirred(torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=5)), {}
    attn = model.features[1][0].attn
    attn.register_forward_hook(lambda _, args, output: seen.update(x=args[0], y=output))
    maps = attention_maps(model, torch.randn(IMAGES))
    assert list(maps) == [f"features.{stage}.{block}.attn" for stage in (1, 3) for block in (0, 1)]
    assert maps["features.3.1.attn"]["combined"].shape == (2, 4, 16, 16)
    windows = seen["x"].unflatten(1, (2, 4)).unflatten(3, (2, 4)).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)
    values = attn.qkv(windows)[..., 48:].unflatten(-1, (2, 12)).transpose(1, 2)
    out = attn.proj((maps["features.1.0.attn"]["combined"] @ values).transpose(1, 2).flatten(2))
    want = seen["y"].unflatten(1, (2, 4)).unflatten(3, (2, 4)).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-5)
