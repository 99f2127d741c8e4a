"""Maps out of whole models, and how much of them lies where."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foveal import InputError
from foveal.analysis import attention_maps, mass_on, patch_mask
from foveal.analysis.pictures import overlay, to_pixels, write_map_sheet
from foveal.models import ViT


def model(attention: str = "denoising", **options):
    torch.manual_seed(0)
    return ViT(attention=attention, options=options, patch_size=4).build(img_size=16, in_chans=1, num_classes=3)


def hooks(module: nn.Module) -> int:
    return sum(len(child._forward_pre_hooks) + len(child._forward_hooks) for child in module.modules())


def test_every_layer_shows_the_maps_of_its_own_input() -> None:
    vit, images = model().eval(), torch.randn(2, 1, 16, 16)
    maps = attention_maps(vit, images)
    assert list(maps) == [f"blocks.{n}.attn" for n in range(3)]
    # by hand: the tokens as timm makes them, block by block
    with torch.no_grad():
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        for block, named in zip(vit.blocks, maps.values(), strict=True):
            want = block.attn.attention_map(block.norm1(tokens))
            assert named.keys() == want.keys() == {"positive", "negative", "combined"}
            for name in want:
                assert named[name].shape == (2, 6, 17, 17)
                torch.testing.assert_close(named[name], want[name])
            tokens = block(tokens)


def test_the_model_is_left_as_it_was() -> None:
    vit, images = model(), torch.randn(2, 1, 16, 16)
    vit.train()
    vit.blocks[1].eval()
    modes = [module.training for module in vit.modules()]
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    maps = attention_maps(vit, images)
    assert [module.training for module in vit.modules()] == modes
    assert hooks(vit) == 0
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
    assert not any(value.requires_grad for named in maps.values() for value in named.values())


def test_the_model_is_left_as_it_was_after_an_error() -> None:
    vit = model().train()
    with pytest.raises(AssertionError):
        attention_maps(vit, torch.randn(2, 1, 20, 20))
    assert hooks(vit) == 0
    assert all(module.training for module in vit.modules())


def test_dropout_does_not_show() -> None:
    vit, images = model(), torch.randn(2, 1, 16, 16)
    for block in vit.blocks:
        block.attn.attn_drop.p = block.attn.proj_drop.p = 0.5
    one, other = (attention_maps(vit.train(), images)["blocks.2.attn"]["combined"] for _ in range(2))
    assert torch.equal(one, other)


def test_models_without_attention_are_refused() -> None:
    with pytest.raises(InputError, match="no attention whose maps could be seen"):
        attention_maps(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(-1)), torch.randn(1, 3, 16, 16))
    with pytest.raises(InputError, match=r"no attention that ran is chosen by 'blocks\.9\.\*'"):
        attention_maps(model(), torch.randn(1, 1, 16, 16), where="blocks.9.*")


@pytest.mark.parametrize(("shape", "grid"), [((8, 8), (4, 4)), ((6, 10), (3, 2)), ((5, 7), (5, 7)), ((4, 4), (1, 1)), ((2, 3, 8, 6), (2, 3))])
def test_a_patch_is_touched_when_one_of_its_pixels_is(shape, grid) -> None:
    mask = torch.rand(shape) < 0.15
    got = patch_mask(mask, grid)
    assert got.shape == (*shape[:-2], grid[0] * grid[1])
    high, wide = shape[-2] // grid[0], shape[-1] // grid[1]
    for flat_got, flat_mask in zip(got.reshape(-1, grid[0] * grid[1]), mask.reshape(-1, *shape[-2:]), strict=True):
        want = [bool(flat_mask[r * high : (r + 1) * high, c * wide : (c + 1) * wide].any()) for r in range(grid[0]) for c in range(grid[1])]
        assert flat_got.tolist() == want


def test_masks_that_do_not_fall_into_patches_are_refused() -> None:
    with pytest.raises(InputError, match="8×9 pixels does not fall into 4×4 patches"):
        patch_mask(torch.zeros(8, 9, dtype=torch.bool), (4, 4))


def test_mass_is_the_share_that_lies_on_the_region() -> None:
    attention, region = torch.randn(2, 3, 9, dtype=torch.float64), torch.rand(2, 1, 9) < 0.4
    got = mass_on(attention, region)
    assert got.shape == (2, 3)
    for b in range(2):
        for h in range(3):
            row = attention[b, h].tolist()
            want = sum(value for value, here in zip(row, region[b, 0].tolist(), strict=True) if here) / sum(abs(value) for value in row)
            assert got[b, h].item() == pytest.approx(want)
    assert mass_on(torch.full((8,), 0.125), torch.arange(8) < 3).item() == pytest.approx(3 / 8), "looking everywhere alike gives the region's share"
    assert mass_on(-torch.ones(4), torch.ones(4, dtype=torch.bool)).item() == -1
    assert mass_on(torch.zeros(4), torch.ones(4, dtype=torch.bool)).item() == 0, "no attention is no share, not NaN"


# -- pictures -------------------------------------------------------------------------------------------------------------------------------------


def decode(uri: str) -> np.ndarray:
    import base64
    import io

    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), dtype=float)


def test_pixels_are_stretched_to_the_full_range() -> None:
    image = torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]])
    assert to_pixels(image).tolist() == [[[0], [64]], [[128], [255]]]
    assert to_pixels(torch.zeros(3, 2, 2)).tolist() == np.zeros((2, 2, 3)).tolist()


def test_an_image_alone_is_shown_as_it_is() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (12, 18, 1))
    picture = decode(overlay(gray))
    assert min(picture.shape[:2]) >= 108
    scale = picture.shape[0] // 12
    np.testing.assert_array_equal(picture[::scale, ::scale], np.broadcast_to(gray, (12, 18, 3)))


def test_attention_brightens_the_patch_it_lies_on() -> None:
    attention = np.zeros((2, 3))
    attention[1, 2] = 0.7
    picture = decode(overlay(np.full((12, 18, 1), 100), attention)).sum(-1)
    patches = picture.reshape(2, picture.shape[0] // 2, 3, picture.shape[1] // 3).mean((1, 3))
    assert np.unravel_index(patches.argmax(), patches.shape) == (1, 2)
    assert patches.max() > 2 * np.median(patches)


def test_signed_attention_is_red_for_and_blue_against() -> None:
    picture = decode(overlay(np.full((12, 12, 1), 128), np.array([[1.0, -1.0]]), signed=True))
    # 0.35 of the gray image, and 0.65 of the ends of the scale, (103, 0, 31) and (5, 48, 97)
    left, right = picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]
    np.testing.assert_allclose(left, np.broadcast_to([112, 45, 65], left.shape), atol=1)
    np.testing.assert_allclose(right, np.broadcast_to([48, 76, 108], right.shape), atol=1)


def test_the_sheet_has_a_row_for_each_map_and_escapes_names(tmp_path) -> None:
    maps = {"layer<1>": {"combined": torch.rand(2, 3, 3)}, "layer 2": {"positive": torch.rand(2, 3, 3), "negative": torch.rand(2, 3, 3)}}
    write_map_sheet(torch.rand(1, 12, 12), maps, tmp_path / "new", title="<b>title</b>", about="a & b")
    page = (tmp_path / "new" / "maps.html").read_text(encoding="utf8")
    assert page.count("<img ") == 3 * (1 + 1 + 2)
    assert "&lt;b&gt;title&lt;/b&gt;" in page
    assert "layer&lt;1&gt;: combined" in page
    assert "<b>" not in page
    with Image.open(tmp_path / "new" / "maps.png") as sheet:
        # a line of names above, and one above every row
        assert sheet.size == (4 * 114, 16 + 3 * (16 + 114))
