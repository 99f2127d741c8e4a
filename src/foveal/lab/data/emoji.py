"""Emoji to be drawn: Google's drawings (npm: emoji-datasource-google, Apache-2.0), on white, in eight categories.

1,636 drawings are few, and no two are alike: a network that draws them can learn them by heart, which the report of a run looks for. Variants in other tones of
skin are left out, as they would lie in two splits; so are flags.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..._errors import InputError
from ..._files import parse_json
from ._bundle import Data, DataBundle, register_data, seed_of
from ._fetch import find
from ._image import open_picture
from .digits import split_by_class
from .generation import DigitImages, ImageBundle, PixelSplit, _prepare

__all__ = ["CATEGORIES", "Emoji"]

CATEGORIES = {
    "smileys": "Smileys & Emotion",
    "people": "People & Body",
    "animals": "Animals & Nature",
    "food": "Food & Drink",
    "travel": "Travel & Places",
    "activities": "Activities",
    "objects": "Objects",
    "symbols": "Symbols",
}
"""Classes, and what the package calls them."""


@register_data
@dataclass(frozen=True, kw_only=True)
class Emoji(Data):
    """Emoji in eight categories; split 70 / 10 / 20 in each. Get them with ``foveal data fetch emoji-google``.

    Raises:
        ValueError: the package was not fetched, or holds something else.
    """

    targets: ClassVar[str] = "images"
    package: ClassVar[str] = "emoji-google"

    img_size: int = 32
    """Side of the images in pixels; the drawings have 64."""
    folder: str | None = None
    """Of the drawings of 64×64, three levels below emoji.json; where the package was fetched if None."""
    seed: int = 0
    """Decides which emoji train, validate and test."""

    def load(self) -> DataBundle:
        folder = find(self.package) if self.folder is None else Path(self.folder)
        files, labels = list_emoji(folder)
        images = np.stack([_read(path, self.img_size) for path in files])
        parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("emoji", self.seed)))
        train, val, test = (PixelSplit(images[part], labels[part]) for part in parts)
        size = (self.img_size, self.img_size)
        return ImageBundle(train, val, test, list(CATEGORIES), img_size=self.img_size, in_chans=3, prepare=_prepare(size, "RGB"), size=size)

    def smoke_data(self) -> Data:
        """Digits: emoji are fetched."""
        return DigitImages().smoke_data()


def list_emoji(folder: Path) -> tuple[list[Path], NDArray[np.int64]]:
    """Files and classes, in the order of the package's list.

    Raises:
        ValueError: the list is not there or no list of emoji, a drawing is missing, or a class has none.
    """
    above = folder.absolute().parents
    path = (above[2] if len(above) > 2 else folder) / "emoji.json"
    try:
        entries = parse_json(path.read_text(encoding="utf8"), "its text")
        known = {name: label for label, name in enumerate(CATEGORIES.values())}
        found = [(folder / entry["image"], known[entry["category"]]) for entry in entries if entry["has_img_google"] and entry["category"] in known]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; expected the folder img/google/64 of emoji-datasource-google") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no list of emoji as emoji-datasource-google 16.0.0 has it: {type(error).__name__} {error}; fetch it again") from error
    missing = [file for file, _ in found if not file.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(found)} drawings that {path} names are not there, for example {missing[0]}; fetch them again")
    counts = np.bincount([label for _, label in found], minlength=len(CATEGORIES))
    if counts.min() < 4:
        few = list(CATEGORIES)[int(counts.argmin())]
        raise InputError(f"{path} names {counts.min()} emoji of the class {few}; at least 4 are needed to train, validate and test")
    return [file for file, _ in found], np.array([label for _, label in found], np.int64)


def _read(path: Path, side: int) -> NDArray[np.uint8]:
    """On white, ``(3, side, side)``."""
    from PIL import Image

    drawing = open_picture(path, hint="fetch it again").image.convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    white.alpha_composite(drawing)
    pixels: Any = np.asarray(white.convert("RGB").resize((side, side), Image.Resampling.BOX))
    return pixels.transpose(2, 0, 1)
