"""What data there are: a table of kinds and packages, and a sheet of samples of any kind with their truth drawn.

``foveal data list | fetch | show`` are these.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from .._errors import InputError, missing_extra
from ..analysis.pictures import to_pixels, write_sheet
from .data import DATA, SOURCES, Data, DataBundle
from .data._fetch import find
from .tasks import TASKS, Cell, Row

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise missing_extra("numpy", "train", "foveal.lab.catalogue") from error

__all__ = ["KindLine", "PackageLine", "draw_samples", "kind_named", "list_kinds", "list_packages", "write_samples"]

_WIDTH, _LINE = 150, 14
_INK = (36, 41, 47)


@dataclass(frozen=True)
class KindLine:
    """A kind of data."""

    name: str
    targets: str
    about: str
    comes_from: str
    here: bool | None
    """Whether its package is here; None where files of your own decide."""


@dataclass(frozen=True)
class PackageLine:
    """A package that can be fetched."""

    name: str
    package: str
    client: str
    megabytes: float
    license: str
    about: str
    here: Path | None


def list_kinds() -> list[KindLine]:
    """All kinds of data, by name."""
    lines = []
    for name in DATA:
        cls = DATA[name]
        about = (cls.__doc__ or "").strip().splitlines()[0]
        own = any(field.name == "root" for field in fields(cls))  # type: ignore[arg-type]
        if own:
            lines.append(KindLine(name, cls.targets, about, "your files", None))
        elif cls.package:
            lines.append(KindLine(name, cls.targets, about, cls.package, _place(cls.package) is not None))
        else:
            lines.append(KindLine(name, cls.targets, about, "made", True))
    return lines


def list_packages() -> list[PackageLine]:
    """All packages that ``fetch`` knows, by name."""
    return [
        PackageLine(name, source.package, source.client, source.megabytes, source.license, source.about, _place(name))
        for name, source in sorted(SOURCES.items())
    ]


def _place(name: str) -> Path | None:
    try:
        return find(name)
    except InputError:
        return None


def kind_named(name: str) -> type[Data]:
    """The class behind a name; ``digit-scenes``, ``digit_scenes`` and ``DigitScenes`` are the same.

    Raises:
        ValueError: no such kind; the message lists near matches.
    """
    same = {_plain(known): known for known in DATA}
    return DATA[same.get(_plain(name), name)]


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def write_samples(data: Data, folder: Path, *, split: Literal["train", "val", "test"] = "train", count: int = 6) -> list[Path]:
    """Load the data, and write a sheet of its first samples, ``NAME-SPLIT.png`` and ``.html``.

    Args:
        data: settings of a set.
        folder: where to; it is made.
        split: of which samples.
        count: how many of them.

    Returns:
        The two files.

    Raises:
        ValueError: the data cannot be used; a count below 1.
    """
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    bundle = data.load()
    part = getattr(bundle, split)
    samples = [part[index] for index in range(min(count, len(part)))]
    name = type(data).__name__
    rows = [(row.title, [(_captioned(cell), cell.caption) for cell in row.cells]) for row in draw_samples(data, samples, bundle)]
    classes = f"; classes: {', '.join(bundle.classes[:20])}{' …' if len(bundle.classes) > 20 else ''}" if bundle.classes else ""
    about = f"{len(part)} samples in {split}{classes}" + "".join(f"; {note}" for note in bundle.notes)
    return write_sheet(rows, folder, name=f"{name}-{split}", title=name, about=about)


def draw_samples(data: Data, samples: list[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
    """Samples and their truth, as the first task for such targets draws them; where none does, images with their labels.

    Raises:
        ValueError: no task draws such targets.
    """
    for name in TASKS:
        if TASKS[name].targets == data.targets:
            rows = TASKS[name]().draw_truth(samples, bundle)
            if rows:
                return rows
    if data.targets != "labels":
        raise InputError(f"no task draws {data.targets}, which {type(data).__name__} has")
    return [Row("image", [Cell(to_pixels(image), bundle.classes[int(label)]) for image, label in samples])]


def _captioned(cell: Cell) -> NDArray[np.uint8]:
    """The picture, enlarged so that it can be read, and below it its caption on white."""
    picture = np.broadcast_to(cell.picture, (*cell.picture.shape[:2], 3)).astype(np.uint8)
    # as high, too, as a sheet makes its pictures: it would enlarge the text with them
    scale = max(1, round(_WIDTH / picture.shape[1]), -(-108 // picture.shape[0]))
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    if not cell.caption:
        return picture
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (picture.shape[1], _LINE), "white")
    ImageDraw.Draw(strip).text((1, 1), cell.caption, fill=_INK)
    return np.concatenate([picture, np.asarray(strip)])
