"""DnA ViT through timm: the published count, the authors' numbers, and either layout of positions."""

import pytest
import timm
import torch
from torch import nn

from foveal import InputError, official
from foveal.models import DenoisingViT
from tests.models.timm_contract import TimmContract, stir
from tests.official.test_golden import part, read, relative

GOLDEN_SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 10}


class TestDenoisingViT(TimmContract):
    name = "test_fov_dna_vit"


class TestSharedValues(TimmContract):
    name = "test_fov_dna_shared_vit"
    traces = False


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_published_count() -> None:
    """Positions over the 196 patches; a row for the class token is 768 more."""
    base = timm.create_model("fov_dna_vit_base_patch16_224", device="meta")
    assert count(base) == 100_741_240
    assert base.pos_embed.shape == (1, 196, 768)
    with_row = timm.create_model("fov_dna_vit_base_patch16_224", no_embed_class=False, device="meta")
    assert count(with_row) == 100_741_240 + 768


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_counts_by_hand(size) -> None:
    """timm's ViT of the size, and two projections more in each block (with shared values one), with biases; λ; a row of positions less."""
    plain = timm.create_model(f"vit_{size}_patch16_224", device="meta")
    dim, depth, heads = plain.embed_dim, len(plain.blocks), plain.blocks[0].attn.num_heads
    for kind, projections in (("dna_vit", 2), ("dna_shared_vit", 1)):
        model = timm.create_model(f"fov_{kind}_{size}_patch16_224", device="meta")
        assert count(model) - count(plain) == depth * (projections * (dim * dim + dim) + heads) - dim


@pytest.mark.parametrize("no_embed_class", [True, False])
def test_the_authors_checkpoint_through_timm(tmp_path, no_embed_class) -> None:
    """Their file, in their names and layout, gives their logits, whichever layout the model has."""
    _, settings, tensors = read("dna_vit")
    assert settings["sign"] == "+", "the sign that the reader takes for this layout"
    torch.save({"model": part(tensors, "state.", torch.float64), "epoch": 300}, tmp_path / "authors.pth")
    model = timm.create_model(
        "test_fov_dna_vit",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "authors.pth")},
        no_embed_class=no_embed_class,
        dtype=torch.float64,
    ).eval()
    assert model.pos_embed.shape[1] == 16 + (not no_embed_class)
    x = part(tensors, "input.", torch.float64)["x"].requires_grad_()
    out = model(x)
    assert relative(out, tensors["output"]) < 1e-10
    (out * tensors["cotangent"]).sum().backward()
    assert relative(x.grad, tensors["grad.input.x"]) < 1e-10


def test_the_authors_shared_values_subtract(tmp_path) -> None:
    _, settings, tensors = read("dna_shared_values")
    assert settings["sign"] == "-", "the sign that the reader takes for this layout"
    attention = part(tensors, "state.", torch.float32)
    shape = {"embed_dim": settings["dim"], "num_heads": settings["num_heads"], "qkv_bias": settings["qkv_bias"]}
    model = stir(timm.create_model("test_fov_dna_shared_vit", **shape))
    theirs = {key: value for key, value in model.state_dict().items() if ".attn." not in key}
    for depth in range(3):
        theirs |= {f"blocks.{depth}.attn.{key}": value for key, value in attention.items()}
    torch.save(theirs, tmp_path / "shared.pth")
    loaded = timm.create_model("test_fov_dna_shared_vit", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "shared.pth")}, **shape)
    want = official.load("dna.shared_values", attention, **settings)
    x = torch.randn(2, 17, settings["dim"])
    for block in loaded.blocks:
        assert torch.equal(block.attn(x), want(x))


def test_timms_layout_goes_into_the_authors_and_back(tmp_path) -> None:
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    models = {free: stir(timm.create_model("test_fov_dna_vit", no_embed_class=free, dtype=torch.float64)).eval() for free in (True, False)}
    for free, source in models.items():
        torch.save(source.state_dict(), tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth")}
        other = timm.create_model("test_fov_dna_vit", pretrained=True, pretrained_cfg_overlay=overlay, no_embed_class=not free, dtype=torch.float64)
        assert other.pos_embed.shape != source.pos_embed.shape
        assert relative(other.eval()(x), source(x)) < 1e-12


def test_a_checkpoint_of_another_size_is_resampled(tmp_path) -> None:
    source = stir(timm.create_model("test_fov_dna_vit")).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    larger = timm.create_model("test_fov_dna_vit", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}, img_size=48).eval()
    source.set_input_size(img_size=48)
    x = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(larger(x), source(x))


def test_the_start_is_the_authors() -> None:
    """Linear maps, positions and class token N(0, 0.02) cut off at two; biases zero; λ one half."""
    model = timm.create_model("fov_dna_vit_tiny_patch16_224", depth=2)
    for name, value in model.named_parameters():
        if name.endswith("lambdas"):
            assert torch.equal(value, torch.full_like(value, 0.5))
        elif value.ndim == 2 or name in ("pos_embed", "cls_token"):
            assert 0.016 < value.std() < 0.022, name
        elif name.endswith("bias") and name != "patch_embed.proj.bias":
            assert not value.any(), name


def test_halo_lies_on_the_patches() -> None:
    model = timm.create_model("test_fov_dna_vit", img_size=(32, 48), options={"core": "halo", "core_options": {"block_size": 2, "halo_size": 1}})
    assert (model.blocks[0].attn.core.num_prefix_tokens, model.blocks[0].attn.core.grid_size) == (1, (4, 6))


WINDOWS = {"block_size": 2, "halo_size": 1}
WINDOWED = {
    "test_fov_dna_vit": {"options": {"core": "halo", "core_options": WINDOWS}},
    "test_fov_t2t_vit": {"attention": "halo", "options": WINDOWS, "token_attention": "halo", "token_options": WINDOWS},
    "test_fov_timesformer": {"attention": "halo", "options": WINDOWS, "time_attention": "softmax", "patch_size": 8},
}


@pytest.mark.parametrize("name", WINDOWED)
def test_halo_is_told_of_another_size(name) -> None:
    """As many tokens on another grid: in the windows of the first they would be cut wrongly, and nothing would be seen of it."""
    first, second = ((64, 64), (16, 256)) if name == "test_fov_t2t_vit" else ((32, 32), (16, 64))
    model = stir(timm.create_model(name, img_size=first, **WINDOWED[name])).eval()
    frames = (3, 3) if "timesformer" in name else (3,)
    model.set_input_size(img_size=second)
    anew = timm.create_model(name, img_size=second, **WINDOWED[name]).eval()
    anew.load_state_dict(model.state_dict())
    images = torch.randn(2, *frames, *second)
    assert torch.equal(model(images), anew(images))
    model.set_input_size(img_size=first)
    assert {module.grid_size for module in model.modules() if hasattr(module, "grid_size") and hasattr(module, "halo_size")} == {None}

    moving = timm.create_model(name, img_size=first, dynamic_img_size=True, **WINDOWED[name]).eval()
    moving.load_state_dict(model.state_dict())
    square = torch.randn(2, *frames, *first)
    assert torch.allclose(moving(square), model(square), atol=1e-6)
    with pytest.raises(InputError, match="expects a square grid of tokens, and this image makes"):
        moving(images)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(InputError, match="patch_drop_rate leaves no grid"):
        timm.create_model("test_fov_dna_vit", patch_drop_rate=0.5, options={"core": "halo"})
    with pytest.raises(InputError, match="the attention of a DenoisingViT is denoising"):
        DenoisingViT(attn_layer=nn.Identity)
    with pytest.raises(InputError, match="did you mean shared_values"):
        timm.create_model("test_fov_dna_vit", options={"shared_value": True})
    # the golden file is of this shape
    assert {key: read("dna_vit")[1][key] for key in GOLDEN_SHAPE} == GOLDEN_SHAPE
