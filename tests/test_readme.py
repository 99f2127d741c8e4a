"""What the README says of results is what they are."""

from pathlib import Path

import pytest
import timm
import torch

import foveal

PAGES = [Path(__file__).parents[1] / name for name in ("README.md", "docs/looking.md")]


@pytest.mark.case("N3")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_say_what_attention_maps_gives(page) -> None:
    lines = [line for line in page.read_text(encoding="utf8").splitlines() if "= foveal.attention_maps(" in line and "#" in line]
    assert lines, "no line with a comment on it"
    assert "{layer: {map: (batch, heads, queries, keys)}}" in lines[0]


@pytest.mark.case("N3")
@pytest.mark.parametrize("attention", [None, "denoising", "external"])
def test_attention_maps_are_layers_of_named_maps(attention) -> None:
    model = timm.create_model("test_vit", img_size=32)
    if attention:
        foveal.convert_(model, foveal.create_attention(attention, dim=8, num_heads=1).Config())
    maps = foveal.attention_maps(model, torch.randn(2, 3, 32, 32))
    assert list(maps) == [name for name, module in model.named_modules() if name.endswith(".attn")]
    for named in maps.values():
        assert {"combined"} <= set(named)
        assert named["combined"].shape[:3] == (2, model.blocks[0].attn.num_heads, model.patch_embed.num_patches + 1)
