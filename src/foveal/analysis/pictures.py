"""Attention maps as pictures: over the image they belong to, and a page of them."""

import base64
import html
import io
from collections.abc import Collection, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor

from .._errors import missing_extra

try:
    import numpy as np
    import PIL  # noqa: F401  # of which every function here takes a part
    from numpy.typing import NDArray
except ImportError as error:
    raise missing_extra({"PIL": "pillow"}.get(error.name or "", "numpy"), "train", "drawing pictures") from error
from .layout import upsample

__all__ = ["is_signed", "overlaid", "overlay", "to_pixels", "write_map_sheet", "write_rollout", "write_sheet"]

Picture = NDArray[Any]

_SMALLEST_SIDE = 108
_GAP = 6
_LINE = 16
"""Height of a line of text on a sheet."""
_INK = (36, 41, 47)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #24292f; margin: 2rem; }}
td, th {{ padding: .2rem .3rem; text-align: center; font-weight: 400; color: #57606a; }}
th {{ text-align: right; white-space: nowrap; }}
img {{ image-rendering: pixelated; border-radius: 4px; display: block; }}
</style></head><body><h1>{title}</h1><p>{about}</p><table>{rows}</table></body></html>
"""


def overlay(image: Any, attention: Any = None, *, signed: bool = False) -> str:
    """A data URI of the image, or of an attention map laid over it.

    Args:
        image: ``(H, W, 1 or 3)``, 0 to 255.
        attention: over the patches, ``(grid_h, grid_w)``; the image alone if None.
        signed: from blue (against) over white to red (for), instead of from dark to bright.
    """
    return _uri(_draw(image, attention, signed))


def overlaid(image: Any, attention: Tensor, *, signed: bool = False) -> NDArray[np.uint8]:
    """The picture of :func:`overlay` as bytes, ``(h, w, 3)``; a large image is made smaller.

    Args:
        image: ``(H, W, 1 or 3)``, 0 to 255.
        attention: over cells of the image, ``(grid_h, grid_w)``.
        signed: as in :func:`overlay`.
    """
    return _bytes(_draw(_reduced(image, attention.shape[0]), attention.double().cpu().numpy(), signed))


def is_signed(name: str, maps: Collection[str]) -> bool:
    """Whether this one of a layer's maps has entries of both signs: the combination of a positive and a negative map."""
    return name == "combined" and "negative" in maps


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """``(C, H, W)`` as a model takes it to ``(H, W, C)`` from 0 to 255, stretched: how the input was standardized does not matter for looking."""
    values = image.detach().double().cpu().numpy().transpose(1, 2, 0)
    low, high = values.min(), values.max()
    return ((values - low) / max(high - low, 1e-6) * 255).round().astype(np.uint8)


def write_map_sheet(image: Tensor, maps: dict[str, dict[str, Tensor]], folder: Path, *, title: str, about: str, caption: str = "") -> None:
    """Write ``maps.png`` and ``maps.html``: a row for each layer and map; in it the image, the mean over heads, and every head.

    Args:
        image: the model's input, ``(C, H, W)``.
        maps: by layer and name, ``(heads, grid_h, grid_w)``.
        folder: where to; it is made.
        title: of the page.
        about: one line below the title.
        caption: a line below the pictures, which says who looks.
    """
    from PIL import Image, ImageDraw

    grid = next(iter(next(iter(maps.values())).values())).shape[-2:]
    pixels = _reduced(to_pixels(image), grid[0])
    drawn = {
        f"{layer}: {name}": [_draw(pixels, None, False)] + [_draw(pixels, cell.cpu().numpy(), is_signed(name, named)) for cell in (value.mean(0), *value)]
        for layer, named in maps.items()
        for name, value in named.items()
    }
    columns = max(map(len, drawn.values()))
    names = ["image", "mean", *(f"head {n}" for n in range(columns - 2))]

    high, wide = (side + _GAP for side in next(iter(drawn.values()))[0].shape[:2])
    sheet = Image.new("RGB", (wide * columns, _LINE + (high + _LINE) * len(drawn)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((column * wide, 2), name, fill=_INK)
    for row, (label, pictures) in enumerate(drawn.items()):
        top = _LINE + row * (high + _LINE)
        pen.text((0, top + 2), label, fill=_INK)
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(_bytes(picture)), (column * wide, top + _LINE))

    lines = ["".join(f"<td>{name}</td>" for name in ["", *names])]
    for label, pictures in drawn.items():
        lines.append(f"<th>{html.escape(label)}</th>" + "".join(f'<td><img src="{_uri(picture)}" alt="{html.escape(label)}"></td>' for picture in pictures))
    folder.mkdir(parents=True, exist_ok=True)
    _captioned(sheet, caption).save(folder / "maps.png")
    page = _PAGE.format(
        title=html.escape(title), about=html.escape("; ".join(filter(None, (about, caption)))), rows="".join(f"<tr>{line}</tr>" for line in lines)
    )
    (folder / "maps.html").write_text(page, encoding="utf8", errors="backslashreplace")


def write_rollout(image: Tensor, attention: Tensor, folder: Path, *, caption: str = "") -> Path:
    """Write ``rollout.png``: the image, and beside it a map over it without steps.

    Args:
        image: the model's input, ``(C, H, W)``.
        attention: over the grid, ``(grid_h, grid_w)``.
        folder: where to; it is made.
        caption: a line below the pictures, which says who looks.

    Returns:
        The file.
    """
    from PIL import Image

    pixels = to_pixels(image)
    picture = _draw(pixels, None, False)
    over = _draw(pixels, upsample(attention.double().cpu(), pixels.shape[:2]).numpy(), False)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(_bytes(np.concatenate([picture, np.ones((picture.shape[0], _GAP, 3)), over], axis=1)))
    _captioned(drawn, caption).save(folder / "rollout.png")
    return folder / "rollout.png"


def _captioned(picture: Any, caption: str) -> Any:
    """The picture with a line of text below it, as wide as that needs."""
    if not caption:
        return picture
    from PIL import Image, ImageDraw

    width = max(picture.width, ceil(ImageDraw.Draw(picture).textlength(caption)))
    whole = Image.new("RGB", (width, picture.height + _LINE), "white")
    whole.paste(picture, (0, 0))
    ImageDraw.Draw(whole).text((0, picture.height + 2), caption, fill=_INK)
    return whole


def write_sheet(rows: Sequence[tuple[str, Sequence[tuple[Any, str]]]], folder: Path, *, name: str, title: str, about: str) -> list[Path]:
    """Write ``name.png`` and ``name.html``: pictures in rows.

    Args:
        rows: a title, and pictures ``(H, W, 1 or 3)`` from 0 to 255 with their captions.
        folder: where to; it is made.
        name: of the files.
        title: of the page.
        about: one line below the title.

    Returns:
        The two files.
    """
    from PIL import Image

    drawn = [(label, [(_draw(picture, None, False), caption) for picture, caption in cells]) for label, cells in rows]
    heights = [max(picture.shape[0] for picture, _ in cells) + _GAP for _, cells in drawn]
    widths = [sum(picture.shape[1] + _GAP for picture, _ in cells) for _, cells in drawn]
    sheet = np.ones((sum(heights), max(widths), 3))
    lines, top = [], 0
    for (label, cells), height in zip(drawn, heights, strict=True):
        left, line = 0, f"<th>{html.escape(label)}</th>"
        for picture, caption in cells:
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + _GAP
            line += f'<td><img src="{_uri(picture)}" alt="{html.escape(label)}">{html.escape(caption)}</td>'
        lines.append(line)
        top += height
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.png", folder / f"{name}.html"]
    Image.fromarray(_bytes(sheet)).save(files[0])
    page = _PAGE.format(title=html.escape(title), about=html.escape(about), rows="".join(f"<tr>{line}</tr>" for line in lines))
    files[1].write_text(page, encoding="utf8", errors="backslashreplace")
    return files


def _reduced(pixels: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """A large image as small as can be looked at, patches as whole pixels, so that many heads fit side by side."""
    from PIL import Image

    high = rows * max(1, round(_SMALLEST_SIDE / rows))
    if pixels.shape[0] < 2 * _SMALLEST_SIDE or high >= pixels.shape[0]:
        return pixels
    wide = max(1, round(pixels.shape[1] * high / pixels.shape[0]))
    small = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).resize((wide, high), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(high, wide, -1)


def _draw(image: Any, attention: Any, signed: bool) -> Picture:
    """``(h, w, 3)`` from 0 to 1, enlarged to at least the smallest side that can be looked at."""
    pixels = np.asarray(image, dtype=np.float64)[..., :3] / 255
    picture = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    if attention is not None:
        gray = picture.mean(-1, keepdims=True)
        picture = 0.35 * gray + 0.65 * _enlarge(_shade(np.asarray(attention), signed), picture.shape)
    scale = -(-_SMALLEST_SIDE // picture.shape[0])
    return np.kron(picture, np.ones((scale, scale, 1)))


def _shade(weights: NDArray[Any], signed: bool) -> Picture:
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("matplotlib", "compare", "drawing attention maps") from error
    relative = weights / max(np.abs(weights).max(), 1e-12)
    if signed:
        return np.asarray(matplotlib.colormaps["RdBu_r"](relative / 2 + 0.5))[..., :3]
    return np.asarray(matplotlib.colormaps["inferno"](relative))[..., :3]


def _enlarge(picture: Picture, shape: tuple[int, ...]) -> Picture:
    """Every patch over its pixels."""
    rows, columns = (np.arange(shape[axis]) * picture.shape[axis] // shape[axis] for axis in (0, 1))
    return picture[rows][:, columns]


def _bytes(picture: Picture) -> NDArray[np.uint8]:
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _uri(picture: Picture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_bytes(picture)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
