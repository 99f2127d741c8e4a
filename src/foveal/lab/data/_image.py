"""The one place that opens a picture: images, masks, frames and views, of every task.

Modes      8 bits stay as they are. 16 bits, gray or color, are taken by their full range, v // 256; data that fill 12 bits or fewer are refused, since nobody
           says what white is. Whole numbers of 32 bits count as 16 if they fit. Floats are shares, 0 to 1. What is negative, larger or no number is refused.
           Transparency is dropped: what lies under it keeps its color. Palettes become their colors. Of animations and stacks the first picture is read.
Upright    A camera says in EXIF how it was held, in one of eight orientations. Pixels are turned accordingly unless the caller wants them as stored.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..._errors import InputError, missing_extra

__all__ = ["EXTENSIONS", "Opened", "PictureError", "Unreadable", "Unscaled", "open_picture", "open_rgb", "rgb"]

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_ORIENTATION = 0x0112
_TURNS = {
    2: ("FLIP_LEFT_RIGHT", "FLIP_LEFT_RIGHT"),
    3: ("ROTATE_180", "ROTATE_180"),
    4: ("FLIP_TOP_BOTTOM", "FLIP_TOP_BOTTOM"),
    5: ("TRANSPOSE", "TRANSPOSE"),
    6: ("ROTATE_270", "ROTATE_90"),
    7: ("TRANSVERSE", "TRANSVERSE"),
    8: ("ROTATE_90", "ROTATE_270"),
}
"""What turns a stored picture upright, by EXIF's number, and what turns it back."""
_HINT = "take it out, or get it anew"


class PictureError(InputError):
    """A picture cannot be used."""

    reason: str = ""

    @classmethod
    def of(cls, name: object, reason: str, hint: str = _HINT) -> Self:
        error = cls(f"cannot read {name}: {reason}; {hint}")
        error.reason = reason
        return error


class Unreadable(PictureError):
    """It is not there or damaged, so that a set may leave it out and name it."""


class Unscaled(PictureError):
    """Nobody says what its values mean. That is so of a whole set, mostly; leaving single pictures out would hide it."""


@dataclass(frozen=True)
class Opened:
    """A picture as it is stored, and how the camera was held."""

    image: Any
    orientation: int
    name: str
    depth: str = ""
    """``cut`` if its colors have more than eight bits and Pillow took the upper eight, ``signed`` if its gray is so."""
    pictures: int = 1
    """How many the file holds; this is the first."""

    @property
    def sideways(self) -> bool:
        """Whether upright and stored have their sides exchanged."""
        return self.orientation >= 5

    def turned(self, orientation: int) -> "Opened":
        """As somebody who held it so would see it."""
        return replace(self, image=_turned(self.image, orientation), orientation=1)

    def rgb(self) -> Any:
        """A PIL image of three times eight bits, not turned.

        Raises:
            ValueError: values that have no stated meaning, see the head of this file.
        """
        return _three(self.image, self.name, self.depth)


def open_picture(source: Path | BytesIO, name: str = "", hint: str = _HINT, *, counted: bool = False) -> Opened:
    """A picture, decoded whole.

    Args:
        source: a path, or the bytes of a file.
        name: for messages; the path if empty.
        hint: what to do about one that cannot be read.
        counted: how many pictures the file holds is looked up, which may need all of it.

    Raises:
        ValueError: it is not there, cannot be decoded, has a damaged EXIF, or would fill the memory.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("pillow", "train", "reading images") from error
    name = name or str(source)
    try:
        # not by its path: Pillow maps plain files into memory then, and of TIFF held sideways it gets the rows wrong (seen in 13.0)
        with source.open("rb") if isinstance(source, Path) else source as file, Image.open(file) as image:
            tiff = image.format == "TIFF"
            # Pillow turns TIFF by itself as it decodes, and forgets how; PNG may have its EXIF behind the pixels
            before = _orientation(image) if tiff else 1
            depth = _depth(image)
            count = getattr(image, "n_frames", 1) if counted else 1
            image.load()
            if tiff:
                return Opened(_turned(image, before, back=True), before, name, depth, count)
            return Opened(image, _orientation(image), name, depth, count)
    except UnidentifiedImageError as error:
        raise Unreadable.of(name, "it is no image, or of a kind that Pillow does not read", hint) from error
    # damaged files make Pillow raise whatever its decoders and parsers come upon: struct.error, IndexError, zlib.error and more were seen
    except Exception as error:
        raise Unreadable.of(name, str(error) or type(error).__name__, hint) from error


def open_rgb(source: Path | BytesIO, name: str = "", *, upright: bool = True, hint: str = _HINT) -> Any:
    """A picture as a PIL image of three times eight bits, upright or as it is stored.

    Raises:
        ValueError: see :func:`open_picture` and :meth:`Opened.rgb`.
    """
    opened = open_picture(source, name, hint)
    return (opened.turned(opened.orientation) if upright else opened).rgb()


def rgb(image: Any, *, upright: bool = True) -> Any:
    """A PIL image of any mode as one of three times eight bits.

    Raises:
        ValueError: it cannot be decoded, or holds values without a stated meaning.
    """
    file = str(getattr(image, "filename", ""))
    name = file or "the image"
    if file and getattr(image, "format", "") == "TIFF" and image.tile and image.tell() == 0:
        # not decoded yet, and see :func:`open_picture` why not by Pillow
        return open_rgb(Path(file), upright=upright)
    try:
        image.load()
        orientation = _orientation(image) if upright else 1
    except Exception as error:
        raise Unreadable.of(name, str(error) or type(error).__name__) from error
    return _three(_turned(image, orientation), name)


def _orientation(image: Any) -> int:
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) and found in _TURNS else 1


def _turned(image: Any, orientation: int, *, back: bool = False) -> Any:
    from PIL import Image

    # not ImageOps.exif_transpose, which writes the rest of the EXIF anew and fails where that is damaged
    return image.transpose(Image.Transpose[_TURNS[orientation][back]]) if orientation in _TURNS else image


def _depth(image: Any) -> str:
    """What of its depth is lost as it is decoded: the lower bits of deep colors, the sign of 16 bits."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        if any(";16S" in str(tile[3]) for tile in image.tile):
            return "signed"
        return ""
    codecs = [tile[3] for tile in image.tile]
    portable = image.format == "PPM" and any(isinstance(args, tuple) and args[-1] > 255 for args in codecs)
    return "cut" if portable or any(";16" in str(args) for args in codecs) else ""


def _three(image: Any, name: str, depth: str = "") -> Any:
    from PIL import Image

    if depth == "signed":
        raise Unscaled.of(name, "its 16 bits are signed, and nobody says what black and white are", "save it with unsigned 8 or 16 bits")
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_bytes(np.asarray(image), name))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "La":
        image = image.convert("LA")
    try:
        picture = image.convert("RGB")
    except ValueError as error:
        raise Unreadable.of(name, f"{error}", "save it in RGB") from error
    if depth == "cut" and max(high for _, high in picture.getextrema()) < 16:
        raise Unscaled.of(name, _few_bits(12), "scale it to all 16 bits, or save it with 8")
    return picture


def _bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Gray of more than eight bits by the rules in the head of this file."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind == "f":
        # a NaN is neither
        if not (low >= 0 and high <= 1):
            raise Unscaled.of(name, f"it holds floats from {low} to {high}; expected shares from 0 to 1", "scale it, or save it with 8 or 16 bits")
        return np.rint(255 * values).astype(np.uint8)
    if low < 0 or high > 65535:
        raise Unscaled.of(name, f"it holds numbers from {low} to {high}; expected 0 to 65535", "scale it, or save it with 8 or 16 bits")
    if 0 < high < 4096:
        raise Unscaled.of(name, _few_bits(int(high).bit_length()), "scale it to all 16 bits, or save it with 8")
    return (values >> 8).astype(np.uint8)


def _few_bits(used: int) -> str:
    return f"of its 16 bits {used} or fewer are used, so that it would be all but black"
