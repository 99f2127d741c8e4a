"""Layouts are read off the model, never guessed from a number of tokens: patches that are no squares, registers, pooling, towers in larger models."""

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import InputError, SoftmaxAttention
from foveal.analysis import Layout, attention_maps, fold_to_grid, look_from, reshape_transform_for, token_layout
from tests.convert.test_hosts import stirred, timm_vit


def patches_of(convolution: nn.Conv2d, images: Tensor) -> tuple[int, int]:
    """What the model's own convolution makes of an image."""
    with torch.no_grad():
        return tuple(convolution(images).shape[-2:])


@pytest.mark.case("C13")
@pytest.mark.parametrize(
    ("options", "size", "grid"),
    [
        ({"img_size": 64, "patch_size": (32, 8)}, (64, 64), (2, 8)),
        ({"img_size": (64, 32), "patch_size": (16, 32)}, (64, 32), (4, 1)),
        ({"img_size": (32, 72), "patch_size": 8}, (32, 72), (4, 9)),
        # with its class token and registers the number of all tokens is a square as well
        ({"img_size": (24, 32), "patch_size": (8, 16), "reg_tokens": 2}, (24, 32), (3, 2)),
        ({"img_size": 64, "patch_size": (32, 8), "dynamic_img_size": True}, (64, 128), (2, 16)),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "converted", "wrapped"])
def test_grids_that_are_no_squares_are_those_of_timms_patches(options, size, grid, kind) -> None:
    model = timm_vit(**options).eval()
    assert patches_of(model.patch_embed.proj, torch.randn(1, 3, *size)) == grid
    tokens = model.num_prefix_tokens + grid[0] * grid[1]
    model = model if kind == "plain" else nn.Sequential(nn.Identity(), model)
    if kind == "converted":
        foveal.convert_(model, SoftmaxAttention.Config())
    assert token_layout(model, tokens, size).grid == grid
    with pytest.raises(InputError, match="are no grid of the proportions"):
        token_layout(model, tokens + 1, size)


def tower(name: str, **options: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    return stirred(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes | options)))


@pytest.mark.case("C13", "C18")
@pytest.mark.parametrize(
    ("name", "options", "size", "prefix", "grid", "suffix", "looks"),
    [
        ("Dinov2WithRegisters", {"image_size": 28, "patch_size": 14}, (42, 70), 5, (3, 5), 0, "the class token"),
        ("Dinov2WithRegisters", {"image_size": 28, "patch_size": 14, "num_register_tokens": 2}, (42, 42), 3, (3, 3), 0, "the class token"),
        ("ViT", {"image_size": (32, 64), "patch_size": 8}, (32, 64), 1, (4, 8), 0, "the class token"),
        ("ViT", {"image_size": (32, 32), "patch_size": (16, 4)}, (32, 32), 1, (2, 8), 0, "the class token"),
        ("DeiT", {"image_size": 32, "patch_size": 8}, (32, 32), 2, (4, 4), 0, "the class token"),
        ("Beit", {"image_size": 32, "patch_size": 8}, (32, 32), 1, (4, 4), 0, "the mean of all patches"),
        ("IJepa", {"image_size": 32, "patch_size": 8}, (32, 32), 0, (4, 4), 0, "the mean of all patches"),
        ("SiglipVision", {"image_size": 32, "patch_size": 8}, (32, 32), 0, (4, 4), 0, "the mean of all patches"),
        ("Yolos", {"image_size": [32, 72], "patch_size": 8, "num_detection_tokens": 7}, (32, 72), 1, (4, 9), 7, "the mean of the detection tokens"),
    ],
)
def test_towers_of_transformers_say_their_tokens(name, options, size, prefix, grid, suffix, looks) -> None:
    """The number of tokens is that of a map of the model's own attention; the grid that of its own convolution."""
    model, images = tower(name, **options), torch.randn(1, 3, *size)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        tokens = model(pixel_values=images, output_attentions=True).attentions[0].shape[-1]
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert patches_of(convolution, images) == grid
    assert tokens == prefix + grid[0] * grid[1] + suffix
    layout = token_layout(model, tokens, size)
    assert (layout.num_prefix_tokens, layout.grid, layout.num_suffix_tokens, layout.looks) == (prefix, grid, suffix, looks)
    folded = fold_to_grid(torch.arange(tokens), layout)
    assert folded.flatten().tolist() == list(range(prefix, prefix + grid[0] * grid[1]))


class Own(nn.Module):
    """A transformer with names of its own around a patch embedding."""

    def __init__(self, patch: tuple[int, int], convolution: bool) -> None:
        super().__init__()
        self.patch = patch
        self.cut = nn.Conv2d(3, 16, patch, patch) if convolution else nn.Linear(3 * patch[0] * patch[1], 16)
        self.first = nn.Parameter(torch.randn(1, 1, 16))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.cut, nn.Conv2d):
            x = self.cut(x).flatten(2).mT
        else:
            x = self.cut(x.unfold(2, self.patch[0], self.patch[0]).unfold(3, self.patch[1], self.patch[1]).permute(0, 2, 3, 1, 4, 5).flatten(3)).flatten(1, 2)
        return self.layers(torch.cat([self.first.expand(len(x), -1, -1), x], 1))


@pytest.mark.case("C13")
def test_a_model_that_says_nothing_is_asked_for_and_not_guessed() -> None:
    """16 patches are a square, and lie in 2 rows of 8."""
    cut = Own((32, 8), convolution=True).eval()
    with pytest.raises(InputError, match=r"does not say how many .* give num_prefix_tokens, and .* grid_size"):
        token_layout(cut, 17, (64, 64))
    assert token_layout(cut, 17, (64, 64), num_prefix_tokens=1) == Layout(1, (2, 8))
    assert token_layout(cut, 17, (64, 64), grid_size=(2, 8)) == Layout(1, (2, 8))
    silent = Own((32, 8), convolution=False).eval()
    for options in ({}, {"num_prefix_tokens": 2}):
        with pytest.raises(InputError, match="grid_size"):
            token_layout(silent, 17, (64, 64), **options)
    layout = token_layout(silent, 17, (64, 64), grid_size=(2, 8))
    assert layout == Layout(1, (2, 8))
    with pytest.raises(InputError, match="are no grid"):
        token_layout(silent, 17, (64, 64), num_prefix_tokens=1, grid_size=(3, 5))
    folded = reshape_transform_for(silent, (64, 64), grid_size=(2, 8))(torch.arange(17.0).view(1, 17, 1))
    assert folded.tolist() == [[torch.arange(1.0, 17).view(2, 8).tolist()]]


@pytest.mark.case("C14")
@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ({"class_token": False, "reg_tokens": 4, "global_pool": "avg"}, "the mean of all patches"),
        ({"class_token": False, "reg_tokens": 1, "global_pool": "avg", "patch_size": (32, 8), "img_size": 64}, "the mean of all patches"),
        ({"class_token": True, "global_pool": "avg"}, "the mean of all patches"),
        ({"class_token": True, "reg_tokens": 2, "global_pool": "avgmax", "no_embed_class": True}, "the mean of all patches"),
        ({"class_token": False, "global_pool": "map"}, "the mean of all patches"),
        ({"class_token": True, "reg_tokens": 4}, "the class token"),
        ({"class_token": True, "global_pool": ""}, "the class token"),
    ],
)
def test_what_the_head_reads_looks(options, looks) -> None:
    model = stirred(timm_vit(**options))
    size = model.patch_embed.img_size
    maps = attention_maps(model, torch.randn(2, 3, *size))["blocks.1.attn"]["combined"]
    first, (rows, columns) = model.num_prefix_tokens, model.patch_embed.grid_size
    layout = token_layout(model, maps.shape[-1], size)
    assert layout.looks == looks
    queries = [0] if looks == "the class token" else range(first, first + rows * columns)
    for row in range(rows):
        for column in range(columns):
            key = first + row * columns + column
            want = sum(maps[..., query, key] for query in queries) / len(queries)
            torch.testing.assert_close(look_from(maps, layout)[..., row, column], want)


@pytest.mark.case("C14")
@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("vit_base_patch16_224", "the class token"),
        ("vit_medium_patch16_reg4_gap_256", "the mean of all patches"),
        ("deit_tiny_distilled_patch16_224", "the class token"),
        ("beit_base_patch16_224", "the mean of all patches"),
        ("vit_base_patch16_siglip_224", "the mean of all patches"),
    ],
)
def test_timms_own_names_say_what_looks(name, looks) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, embed_dim=24, depth=1, num_heads=4)
    grid = model.patch_embed.grid_size
    layout = token_layout(model, model.num_prefix_tokens + grid[0] * grid[1], model.patch_embed.img_size)
    assert (layout.num_prefix_tokens, layout.looks) == (model.num_prefix_tokens, looks)


@pytest.mark.case("C14")
@pytest.mark.parametrize(("pool", "who"), [("token", "where the class token looks"), ("avg", "where the mean of all patches looks")])
def test_pictures_say_who_looks(pool, who, tmp_path, monkeypatch) -> None:
    from PIL import Image, ImageDraw

    from foveal.lab.inspect import LoadedModel, inspect_model

    written: list[str] = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **options: (written.append(text), write(self, place, text, **options)))
    model = timm_vit(global_pool=pool, reg_tokens=2)
    lines, files = inspect_model(LoadedModel("own", model, lambda image: torch.randn(3, 32, 32), trained=False), Image.new("RGB", (32, 32)), tmp_path)
    assert who in lines
    assert who in written
    assert f"{who}, through all layers" in written
    assert who in (tmp_path / "maps.html").read_text()
    assert {file.name for file in files} >= {"maps.html", "attention.html"}
    assert len(files) == 4


@pytest.mark.case("C14")
def test_the_mean_is_over_all_who_look_where_keys_are_pooled() -> None:
    """64 queries at 16 keys, as in MViT: the first 16 queries are the upper quarter of the image."""
    maps, layout = torch.rand(2, 3, 64, 16).softmax(-1), Layout(0, (4, 4), pooling="mean")
    want = sum(maps[:, :, row] for row in range(64)) / 64
    torch.testing.assert_close(look_from(maps, layout).flatten(-2), want)
    behind = torch.rand(2, 3, 1 + 64 + 2, 1 + 16 + 2)
    want = sum(behind[:, :, row, 1:17] for row in range(1, 65)) / 64
    torch.testing.assert_close(look_from(behind, Layout(1, (4, 4), 2, "mean")).flatten(-2), want)
    torch.testing.assert_close(look_from(behind, Layout(1, (4, 4), 2, "detection")).flatten(-2), (behind[:, :, 65, 1:17] + behind[:, :, 66, 1:17]) / 2)
    with pytest.raises(InputError, match="64 tokens look at 16 in this map"):
        look_from(maps, layout, query=(1, 2))


@pytest.mark.case("C14")
def test_pictures_of_mvit_are_the_mean_of_all_its_queries(tmp_path, monkeypatch) -> None:
    timm = pytest.importorskip("timm")
    from PIL import Image

    from foveal.lab.inspect import LoadedModel, model_page

    config = timm.models.mvitv2.MultiScaleVitCfg(depths=(1, 1), embed_dim=8, num_heads=1, stride_kv_adaptive=(2, 2))
    torch.manual_seed(0)
    model, image = stirred(timm.models.MultiScaleVit(config, img_size=32, num_classes=5)).eval(), torch.randn(3, 32, 32)
    drawn: dict[str, dict[str, Tensor]] = {}
    write = model_page.write_map_sheet
    monkeypatch.setattr(model_page, "write_map_sheet", lambda pixels, maps, *more, **options: (drawn.update(maps), write(pixels, maps, *more, **options)))
    model_page.inspect_model(LoadedModel("own", model, lambda _: image, trained=False), Image.new("RGB", (32, 32)), tmp_path)
    maps = attention_maps(model, image[None])
    assert any(named["combined"].shape[-2] > named["combined"].shape[-1] for named in maps.values())
    assert list(drawn) == list(maps)
    for layer, named in maps.items():
        torch.testing.assert_close(drawn[layer]["combined"].flatten(-2), named["combined"][0].mean(-2))


@pytest.mark.case("C13")
def test_a_pyramid_that_goes_down_unevenly_is_not_guessed() -> None:
    """8 rows of 2 are as many as 4 of 4."""

    class Uneven(Own):
        def __init__(self, step: tuple[int, int]) -> None:
            super().__init__((8, 8), convolution=True)
            self.step = nn.AvgPool2d(step)

    assert token_layout(Uneven((2, 2)), 16, (64, 64), num_prefix_tokens=0) == Layout(0, (4, 4))
    with pytest.raises(InputError, match=r"which would be 8×8; give num_prefix_tokens or grid_size"):
        token_layout(Uneven((1, 4)), 16, (64, 64), num_prefix_tokens=0)


@pytest.mark.case("C14")
def test_slots_that_are_as_many_as_tokens_are_no_picture(tmp_path, monkeypatch) -> None:
    from PIL import Image

    from foveal.lab.inspect import LoadedModel, class_token_maps, model_page
    from foveal.models import ViT

    model = ViT(attention="external", options={"slots": 17}, patch_size=8).build(img_size=32, in_chans=3, num_classes=5).eval()
    image = torch.randn(3, 32, 32)
    maps = attention_maps(model, image[None])
    assert {named["slots"].shape[-1] for named in maps.values()} == {named["combined"].shape[-1] for named in maps.values()} == {17}
    drawn: dict[str, dict[str, Tensor]] = {}
    write = model_page.write_map_sheet
    monkeypatch.setattr(model_page, "write_map_sheet", lambda pixels, maps, *more, **options: (drawn.update(maps), write(pixels, maps, *more, **options)))
    model_page.inspect_model(LoadedModel("own", model, lambda _: image, trained=False), Image.new("RGB", (32, 32)), tmp_path)
    for seen in (drawn, class_token_maps(model, image[None])):
        assert {tuple(named) for named in seen.values()} == {("combined",)}
