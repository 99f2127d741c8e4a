"""What the values of a mask file mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError
from .._image import Opened, Unreadable, open_picture
from ._bundle import IGNORE

__all__ = ["Labels", "decode_mask", "open_mask"]

Mask = NDArray[np.uint8]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Labels:
    """Classes, and how a file says them: by number, by number under other codes, or by color."""

    classes: tuple[str, ...]
    codes: Mapping[int, int] = field(default_factory=dict)
    """Value in the file to class or IGNORE; those that are not named are what they say."""
    colors: Mapping[Color, int] = field(default_factory=dict)
    """Red, green, blue to class or IGNORE; masks are color images then."""
    palette: tuple[Color, ...] = ()
    unscored: tuple[str, ...] = ()
    closed: bool = False
    """Whether values that ``codes`` does not name mean nothing."""
    hint: str = ""
    """What to do about masks of other numbers."""

    def decode(self, values: NDArray[Any], file: Path) -> Mask:
        """Numbers of classes, ``(H, W)``.

        Raises:
            ValueError: a value that means nothing; the message names the file.
        """
        if self.colors:
            return self._of_colors(values, file)
        if values.ndim != 2:
            raise InputError(
                f"{file} is a mask of shape {values.shape}; expected one channel of class numbers, or a palette image: "
                "save it as gray, with the number of its class in every pixel"
            )
        out = np.full(values.shape, IGNORE, np.uint8)
        for value in np.unique(values).tolist():
            known = self.codes.get(value, -1 if self.closed else value)
            if known != IGNORE and not 0 <= known < len(self.classes):
                raise InputError(f"{file} holds the value {value}; expected {self.expected()}{self.hint}")
            out[values == value] = known
        return out

    def expected(self) -> str:
        """The values that mean something, in words."""
        names = ", ".join(self.classes[:8])
        if self.closed:
            known = {**dict(enumerate(self.classes)), IGNORE: "no class"}
            return ", ".join(f"{value} for {known[label]}" for value, label in sorted(self.codes.items())[:8])
        return f"0 to {len(self.classes) - 1} for {names}, or {IGNORE}"

    def _of_colors(self, values: NDArray[Any], file: Path) -> Mask:
        if values.ndim != 3 or values.shape[2] < 3:
            raise InputError(f"{file} is a mask of shape {values.shape}; expected colors, (H, W, 3)")
        packed = values[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        known = {red << 16 | green << 8 | blue: label for (red, green, blue), label in self.colors.items()}
        out = np.full(packed.shape, IGNORE, np.uint8)
        for value in np.unique(packed).tolist():
            if value not in known:
                color = (value >> 16, value >> 8 & 255, value & 255)
                raise InputError(f"{file} holds the color {color}, which means no class; known: {', '.join(map(str, self.colors))}")
            out[packed == value] = known[value]
        return out


def open_mask(file: Path) -> Opened:
    """The picture in a mask file.

    Raises:
        ValueError: it cannot be read, or is a stack of several.
    """
    try:
        opened = open_picture(file, counted=True)
    except Unreadable as error:
        raise Unreadable.of(f"the mask {file}", error.reason) from error
    if opened.pictures > 1:
        raise InputError(f"{file} holds {opened.pictures} pictures; expected a mask of one, with the number of its class in every pixel")
    return opened


def decode_mask(opened: Opened, labels: Labels, file: Path) -> Mask:
    """Numbers of classes in a mask: palette and gray images of 1, 8, 16 or 32 bits, floats that are whole numbers, colors where the set has them.

    Raises:
        ValueError: values that mean nothing; the message names the file.
    """
    # indices of a palette are the classes; what colors they are shown in does not matter
    values = np.asarray(opened.image.convert("RGB") if labels.colors else opened.image)
    if values.dtype.kind == "f":
        odd = values[~(np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < 2**31))]
        if odd.size:
            raise InputError(f"{file} is a mask of floats and holds {odd[0]}; expected whole numbers of classes: save it as gray of 8 or 16 bits")
    return labels.decode(values.astype(np.int64), file)
