"""Denoising attention as it was trained: the maps of a small vision transformer on cluttered digits."""

import torch
from matplotlib.figure import Figure

from foveal.analysis import attention_maps, mass_on, patch_mask
from foveal.lab.data import ClutteredDigits
from foveal.lab.training import read_weights
from foveal.models import ViT

from ._style import figure, panels, show_image, show_map
from ._weights import KEPT

PATCHES = (9, 9)
SCENES = (1, 3, 7)


@figure
def denoising() -> Figure:
    """For three test scenes: what the class token takes in the last layer, mean over heads, by branch and combined."""
    bundle = ClutteredDigits(train_scenes=1, val_scenes=1, test_scenes=max(SCENES) + 1).load()
    model = ViT(attention="denoising", patch_size=4).build(img_size=bundle.img_size, in_chans=bundle.in_chans, num_classes=len(bundle.classes)).eval()
    model.load_state_dict(read_weights(KEPT))
    images = torch.stack([bundle.test[index][0] for index in SCENES])
    maps = attention_maps(model, images)[f"blocks.{len(model.blocks) - 1}.attn"]
    drawing, axes = panels(len(SCENES), 4)
    titles = {"positive": "A⁺", "negative": "A⁻", "combined": "A⁺ − λA⁻"}
    for row, index in enumerate(SCENES):
        image = images[row, 0]
        show_image(axes[row, 0], (image - image.min()) / (image.max() - image.min()), f"reads it as {int(model(images).argmax(-1)[row])}")
        target = patch_mask(bundle.test.masks(index)["target"], PATCHES)
        for ax, (name, title) in zip(axes[row, 1:], titles.items(), strict=True):
            # the class token's row, over patches
            attention = maps[name][row, :, 0, 1:].mean(0)
            signed = name == "combined"
            told = "" if signed else f": {float(mass_on(attention, target)):.0%} on the target"
            show_map(ax, attention.unflatten(0, PATCHES), title + told, signed=signed)
    return drawing
