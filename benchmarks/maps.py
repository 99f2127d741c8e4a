"""What it costs to see every map: ``foveal.attention_maps`` over the plain forward pass of the same model."""

from collections.abc import Iterator

import torch
from timm import create_model
from torch import Tensor, nn

import foveal

from ._harness import Row, at_most, check_equal, inference


def rows() -> Iterator[Row]:
    model = create_model("vit_base_patch16_224").eval()
    images = torch.randn(1, 3, 224, 224)
    for what, config in (("softmax, timm's own", None), ("denoising", foveal.DenoisingAttention.Config())):
        if config is not None:
            foveal.convert_(model, config)
        plain = inference(model, images)
        check_equal(lambda: _answer_while_looking(model, images), plain)
        yield at_most(f"attention maps of ViT-B, {what}", "(1, 3, 224, 224), 12 layers kept", lambda: foveal.attention_maps(model, images), plain, 2.0)


def _answer_while_looking(model: nn.Module, images: Tensor) -> Tensor:
    """The maps are those of this run if the run gives what the model gives."""
    seen: list[Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        foveal.attention_maps(model, images)
    finally:
        handle.remove()
    return seen[0]
