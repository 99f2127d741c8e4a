"""Widths of the published networks, by the side of the images."""

from dataclasses import dataclass

from ..._errors import InputError

__all__ = ["SIZES", "SAGANSize", "size_of_side"]


@dataclass(frozen=True)
class SAGANSize:
    """Widths as multiples of the network's own."""

    generator: tuple[int, ...]
    """Of the first map, 4×4, and behind each block, which doubles it."""
    discriminator: tuple[int, ...]
    """Behind each block."""
    down: tuple[bool, ...]
    """Which blocks of the discriminator halve the map."""
    attention_g: int
    """The block of the generator, counted from 1, behind which its attention stands."""
    attention_d: int = 1


SIZES = {
    8: SAGANSize((4, 4), (2, 2), (True, False), 1),
    16: SAGANSize((4, 4, 4), (2, 2, 2), (True, True, False), 1),
    32: SAGANSize((4, 4, 4, 4), (2, 2, 2, 2), (True, True, False, False), 2),
    64: SAGANSize((16, 8, 4, 2, 1), (1, 2, 4, 8, 16), (True, True, True, True, False), 3),
    128: SAGANSize((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), (True, True, True, True, True, False), 4),
}
"""By side; those of 8 and 16 are ours, for tests and small images, the others published."""


def size_of_side(img_size: int | tuple[int, int]) -> SAGANSize:
    """Widths for square images of a side.

    Raises:
        ValueError: images that are not square, or of another side.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height != width or height not in SIZES:
        raise InputError(f"SAGAN draws square images of {', '.join(map(str, SIZES))} pixels a side, got {height}×{width}; bring the images to such a size")
    return SIZES[height]
