"""Images from −1 to 1 as pictures: one, several in rows, a file."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GAP", "image_grid", "mosaic", "pixels"]

GAP = 2
"""Pixels between images."""
_SMALLEST_SIDE = 64


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """``(C, H, W)`` from −1 to 1 as ``(H, W, C)`` from 0 to 255, clipped and not stretched."""
    return ((image.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def mosaic(rows: Sequence[Sequence[Tensor]], columns: int, *, scale: int = 1) -> NDArray[np.uint8]:
    """Images in rows, ``(height, width, 3)``, white between them; each pixel ``scale × scale``."""
    _, height, width = next(image for row in rows for image in row).shape
    height, width = scale * height, scale * width
    sheet = np.full(((height + GAP) * len(rows) - GAP, (width + GAP) * columns - GAP, 3), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = np.kron(pixels(image), np.ones((scale, scale, 1), np.uint8))
    return sheet


def image_grid(images: Tensor, *, smallest: int = _SMALLEST_SIDE) -> bytes:
    """``(n, C, H, W)`` as a PNG, row by row in a square as nearly as it goes; images whose side is below ``smallest`` enlarged by whole pixels, to be seen."""
    from PIL import Image

    columns = int(np.ceil(len(images) ** 0.5))
    scale = max(1, smallest // images.shape[-2])
    sheet = mosaic([list(images[start : start + columns]) for start in range(0, len(images), columns)], columns, scale=scale)
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="PNG", optimize=True)
    return content.getvalue()
