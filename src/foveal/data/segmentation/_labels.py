"""What the values of a mask file mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._errors import InputError
from ._bundle import IGNORE

__all__ = ["Labels", "read_mask"]

Mask = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Labels:
    """Classes, and how a file says them: by number, by number under other codes, or by colour."""

    classes: tuple[str, ...]
    codes: Mapping[int, int] = field(default_factory=dict)
    """Value in the file to class or IGNORE; those that are not named are what they say."""
    colours: Mapping[Colour, int] = field(default_factory=dict)
    """Red, green, blue to class or IGNORE; masks are colour images then."""
    palette: tuple[Colour, ...] = ()
    unscored: tuple[str, ...] = ()

    def decode(self, values: NDArray[Any], file: Path) -> Mask:
        """Numbers of classes, ``(H, W)``.

        Raises:
            ValueError: a value that means nothing; the message names the file.
        """
        if self.colours:
            return self._of_colours(values, file)
        if values.ndim != 2:
            raise InputError(f"{file} is a mask of shape {values.shape}; expected one channel of class numbers, or a palette image")
        out = np.full(values.shape, IGNORE, np.uint8)
        for value in np.unique(values).tolist():
            known = self.codes.get(value, value)
            if known != IGNORE and not 0 <= known < len(self.classes):
                raise InputError(f"{file} holds the value {value}; expected 0 to {len(self.classes) - 1} for {', '.join(self.classes[:8])}, or {IGNORE}")
            out[values == value] = known
        return out

    def _of_colours(self, values: NDArray[Any], file: Path) -> Mask:
        if values.ndim != 3 or values.shape[2] < 3:
            raise InputError(f"{file} is a mask of shape {values.shape}; expected colours, (H, W, 3)")
        packed = values[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        known = {red << 16 | green << 8 | blue: label for (red, green, blue), label in self.colours.items()}
        out = np.full(packed.shape, IGNORE, np.uint8)
        for value in np.unique(packed).tolist():
            if value not in known:
                colour = (value >> 16, value >> 8 & 255, value & 255)
                raise InputError(f"{file} holds the colour {colour}, which means no class; known: {', '.join(map(str, self.colours))}")
            out[packed == value] = known[value]
        return out


def read_mask(file: Path, labels: Labels) -> Mask:
    """The mask in a file: palette and grey images of 8, 16 or 32 bits, colours where the set has them.

    Raises:
        ValueError: the file cannot be read, or holds what means nothing; the message names it.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            # indices of a palette are the classes; what colours they are shown in does not matter
            values = np.asarray(image.convert("RGB") if labels.colours else image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"cannot read the mask {file}: {error}") from error
    return labels.decode(values.astype(np.int64), file)
