"""A network on videos and one clip, drawn: where each layer looks in each frame, and which frames it reads together."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from torch import Tensor

from ..._errors import InputError
from ...analysis.maps import NothingToShow
from ...analysis.pictures import is_signed, overlaid, to_pixels, write_sheet
from ...convert import Where
from ..data import Split
from ..data.video import open_clip
from .branches import said_of_branches
from .clip_maps import ClipMaps
from .clip_viewer import Shown, view_clip, write_clip_page
from .conversion import convert_saying_
from .loaded import Inspection, LoadedModel
from .viewing import introduced, prediction

__all__ = ["inspect_video", "numbered", "open_video", "sample_of_test"]


def open_video(loaded: LoadedModel, path: Path) -> Tensor:
    """A video file, or a folder with its frames, as the model takes it, ``(C, T, H, W)``.

    Raises:
        ValueError: the model takes no videos; nothing is there, or it cannot be read.
    """
    if loaded.prepare_clip is None:
        raise InputError(f"{loaded.name} takes images, and {path} is a video; give an image file")
    with open_clip(path) as clip:
        return loaded.prepare_clip(clip)


def sample_of_test(loaded: LoadedModel, word: str) -> tuple[Tensor, str]:
    """A clip of a run's own test, ``(C, T, H, W)``, and its true class; of several views that in the middle.

    Args:
        loaded: a run on videos.
        word: ``test:NUMBER``.

    Raises:
        ValueError: no run on videos; no such clip.
    """
    if loaded.bundle is None or loaded.prepare_clip is None:
        raise InputError(f"{word} is a clip out of the test of a run on videos, which {loaded.name} is not; give a file")
    clip, label = numbered(loaded.bundle.test, word)
    return clip if clip.ndim == 4 else clip[len(clip) // 2], str(loaded.bundle.classes[int(label)])


def numbered(test: Split, word: str) -> tuple[Any, Any]:
    """The sample that ``test:NUMBER`` means.

    Raises:
        ValueError: another word; no such sample.
    """
    number = word.removeprefix("test:")
    if number == word or not number.isdecimal() or int(number) >= len(test):
        raise InputError(f"expected test:NUMBER with a number from 0 to {len(test) - 1}, got {word}")
    return test[int(number)]


def inspect_video(
    loaded: LoadedModel,
    clip: Tensor,
    folder: Path,
    *,
    attention: str | None = None,
    where: Where = "*",
    title: str | None = None,
    truth: str | None = None,
    against: tuple[LoadedModel, Tensor] | None = None,
) -> Inspection:
    """Draw the maps of all layers over the frames of a clip: ``maps.png`` and ``maps.html``; and ``attention.html``, the viewer with a slider of frames.

    A row of the sheet holds the frames in their order, under one scale of brightness. Of attention in space it shows where in each frame the head's token
    looks, a mean over heads; of attention over time what the frames of a patch, all together, read of the one that is drawn, and beside it who reads whom, by
    head, queries down and keys to the right.

    Args:
        loaded: a model on videos.
        clip: its input, ``(C, T, H, W)``.
        folder: where the files go; it is made.
        attention: convert the model to this one first, as :func:`convert_named_` takes it; the viewer then shows it beside what it was.
        where: what is converted, or if nothing is, what is looked at.
        title: of the page; the model's name if None.
        truth: the true class, by its index or its name.
        against: another model and its own input, which the viewer shows beside the first.

    Raises:
        ValueError: no attention lies over the frames of a clip; a true class that the model does not know.
    """
    model, notes, shown, unseen = loaded.model.eval(), list(loaded.notes), list[Shown](), list[str]()

    def view(*which: Any, **options: Any) -> None:
        try:
            shown.append(view_clip(*which, truth=truth, **options))
        except NothingToShow as error:
            if "beside" in options and not options["beside"].ran:
                raise
            # the sheet has its maps all the same
            unseen.append(f"no attention.html: {error}")

    if attention is not None:
        if against is None:
            view(loaded, clip, where=where, name=f"{loaded.name}, before")
        notes.append(convert_saying_(model, attention, where))
        where = "*"
    maps, before = ClipMaps(model, tuple(clip.shape)), len(shown)
    view(loaded, clip, where=where, name=None if attention is None else f"{loaded.name}, {attention}", beside=maps)
    maps.checked()
    viewed = next((one for one, _ in shown[before:]), None)
    notes += [f"not drawn: {name}: {reason}" for name, reason in (maps.refused | maps.missing).items()]
    if against is not None:
        against[0].model.eval()
        view(*against)
    said = [introduced(loaded), *prediction(loaded, loaded.to_input(clip), viewed)]
    if truth is not None:
        said.append(f"the true class is {truth}")
    said.append(f"{clip.shape[1]} frames; in space where {maps.looks} looks" if maps.looks else f"{clip.shape[1]} frames")
    lines = [*said, *notes]
    files = write_sheet(_rows(clip, maps), folder, name="maps", title=title or loaded.name, about="; ".join(lines))
    pages = [] if unseen else [write_clip_page(shown, folder / "attention.html", title=title or loaded.name)]
    return Inspection([*lines, *unseen, *said_of_branches(model)], [*pages, *files])


def _rows(clip: Tensor, maps: ClipMaps) -> list[tuple[str, list[tuple[Any, str]]]]:
    pixels = to_pixels(rearrange(clip, "c t h w -> c h (t w)"))
    frames = clip.shape[1]
    rows: list[tuple[str, list[tuple[Any, str]]]] = [("clip", [(cell, f"frame {n}") for n, cell in enumerate(_split(pixels, frames))])]
    for layer, named in maps.layers.items():
        for name, value in named.items():
            mean, signed = value.mean(0), is_signed(name, named)
            # each step in time is drawn on the frame in its middle, where a patch is of several
            steps = len(mean)
            shown = np.concatenate([_split(pixels, frames)[(2 * step + 1) * frames // (2 * steps)] for step in range(steps)], axis=1)
            drawn = overlaid(shown, rearrange(mean, "t h w -> h (t w)"), signed=signed)
            row = [(cell, "") for cell in _split(drawn, steps)]
            for head, square in enumerate(maps.times.get(layer, {}).get(name, ())):
                black = np.zeros((*square.shape, 3), np.uint8)
                row.append((overlaid(black, square, signed=signed), f"over time, head {head}"))
            rows.append((f"{layer}: {name}", row))
    return rows


def _split(strip: Any, parts: int) -> list[Any]:
    """Pictures side by side, one by one."""
    edges = [round(part * strip.shape[1] / parts) for part in range(parts + 1)]
    return [strip[:, left:right] for left, right in pairwise(edges)]
