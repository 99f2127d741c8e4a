"""What models of transformers are called with where images alone will not do; each may be several, of which the first that runs is taken."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["GIVEN"]

Given = list[dict[str, Any]]


def _images(*shape: int, **others: Tensor) -> Given:
    return [{"pixel_values": torch.randn(shape), **others}]


def _flat(width: int, grid: str = "grid_thw", first: str = "pixel_values") -> Given:
    return [{first: torch.randn(32, width), grid: torch.tensor([[1, 4, 8]])}]


def _rendered(width: int) -> Given:
    """Rows and columns of patches stand in front of their pixels."""
    patches = torch.randn(1, 16, width + 2)
    patches[..., 0], patches[..., 1] = torch.arange(16) // 4 + 1, torch.arange(16) % 4 + 1
    return [{"flattened_patches": patches, "attention_mask": torch.ones(1, 16)}]


def _with_image_tokens(token: int, shape: tuple[int, ...], **others: Tensor) -> Given:
    """As many tokens for the image as it has features, which its towers know."""
    words = torch.randint(20, 90, (1, 5))
    return [
        {"pixel_values": torch.randn(shape), "input_ids": torch.cat([torch.full((1, count), token), words], dim=1), **others}
        for count in (1, 2, 4, 5, 8, 9, 16, 17, 18, 20, 21, 32, 36)
    ]


def _words(count: int = 7) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 90, (1, count)), "attention_mask": torch.ones(1, count, dtype=torch.long)}


def _native(width: int) -> Given:
    """Patches in a row, and where each lies."""
    rows = torch.stack([torch.arange(36) % 6, torch.arange(36) // 6], dim=-1)[None]
    return [{"pixel_values": torch.rand(1, 36, width), "pixel_position_ids": rows}]


GIVEN: dict[str, Callable[[], Given]] = {
    "bridgetower_vision_model": lambda: [{"image": torch.randn(1, 3, 32, 32)}],
    "depth_pro": lambda: _images(1, 3, 128, 128),
    "dots3_note_vision_encoder": lambda: _flat(192),
    "florence2": lambda: _with_image_tokens(10, (1, 3, 64, 64), decoder_input_ids=torch.tensor([[2, 5]])),
    "gemma4_vision": lambda: _native(192),
    "idefics3": lambda: _with_image_tokens(10, (1, 1, 3, 32, 32)),
    "idefics_vision": lambda: _images(1, 3, 32, 32),
    "inkling2_vision": lambda: _images(2048, 3, image_grid_thw=torch.tensor([[1, 4, 8]])),
    "inkling_vision": lambda: _images(4, 2, 8, 8, 3) + _images(4, 3, 2, 8, 8) + _images(4, 384) + _images(1, 3, 2, 32, 32),
    "kosmos_2_5_vision_model": lambda: _rendered(192),
    "llava_onevision": lambda: _with_image_tokens(10, (1, 2, 3, 32, 32), image_sizes=torch.tensor([[32, 32]])),
    "lw_detr": lambda: _images(1, 3, 64, 64, pixel_mask=torch.ones(1, 64, 64, dtype=torch.long)),
    "lw_detr_vit": lambda: _images(1, 3, 64, 64),
    "minicpm_ocr_vision": lambda: _images(1, 3, 8, 128, target_sizes=torch.tensor([[4, 4]], dtype=torch.int32)),
    "minicpmv4_6_vision": lambda: _images(1, 3, 8, 128, target_sizes=torch.tensor([[4, 4]], dtype=torch.int32)),
    "minicpmv4_7_vision": lambda: _images(1, 3, 8, 128, target_sizes=torch.tensor([[4, 4]], dtype=torch.int32)),
    "mllama_vision_model": lambda: _images(
        1, 1, 4, 3, 32, 32, aspect_ratio_ids=torch.ones(1, 1, dtype=torch.long), aspect_ratio_mask=torch.ones(1, 1, 4, dtype=torch.long)
    ),
    "molmo2_vision": lambda: _images(1, 16, 192) + _images(1, 1, 16, 192),
    "muse_glimmer_vision": lambda: _flat(384) + _flat(384, first="hidden_states"),
    "muse_spark_vision": lambda: _flat(384) + _flat(384, first="hidden_states"),
    "oneformer": lambda: _images(1, 3, 128, 128, task_inputs=torch.randint(1, 90, (1, 77))),
    "paddleocr_vl_vision": lambda: _images(1, 32, 3, 8, 8, grid_thw=torch.tensor([[1, 4, 8]])) + _images(32, 3, 8, 8, grid_thw=torch.tensor([[1, 4, 8]])),
    "pix2struct_vision_model": lambda: _rendered(192),
    "sam3": lambda: _images(1, 3, 64, 64, **_words(8)) + _images(1, 3, 32, 32, **_words(8)),
    "seggpt": lambda: _images(1, 3, 32, 32, prompt_pixel_values=torch.randn(1, 3, 32, 32), prompt_masks=torch.randn(1, 3, 32, 32)),
    "siglip2": lambda: _images(
        1, 16, 192, pixel_attention_mask=torch.ones(1, 16, dtype=torch.long), spatial_shapes=torch.tensor([[4, 4]]), **_words(8)
    ),
    "tvp": lambda: [{"pixel_values": torch.randn(1, 4, 3, 64, 64), **_words()}],
    "unlimited_ocr_vision_encoder": lambda: [{"patch_embeds": torch.randn(1, *shape)} for shape in ((32, 4, 4), (16, 32), (4, 4, 32))],
    "vision-encoder-decoder": lambda: _images(1, 3, 32, 32, decoder_input_ids=torch.randint(3, 90, (1, 7))),
    "vitmatte": lambda: _images(1, 4, 64, 64) + _images(1, 4, 32, 32),
    "vitpose": lambda: _images(1, 3, 64, 64) + _images(1, 3, 64, 48),
}  # fmt: skip
