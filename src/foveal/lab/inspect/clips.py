"""A model that looks at videos and one video: which frames it is given, and the page on which a reader asks for its maps."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..._errors import InputError
from ...analysis.viewer import ViewedModel, write_page
from ...analysis.viewer._clips import frames_of
from ...convert import Where
from ..data import VideoBundle
from ..data.video._reader import VIDEO_EXTENSIONS, open_clip
from ..data.video._sampling import frame_places
from .branches import said_of_branches
from .conversion import convert_named_
from .loaded import Inspection, LoadedModel
from .viewing import view_loaded

__all__ = ["inspect_clip", "is_video", "open_video"]


def is_video(path: Path) -> bool:
    """Whether a path is of a video: a file by its ending, or a folder, of frames."""
    return path.is_dir() or path.suffix.lower() in VIDEO_EXTENSIONS


def open_video(path: Path, loaded: LoadedModel) -> Any:
    """A video as ``loaded.prepare`` takes it: of a run the path, for its data say which frames are read; else as many frames as the model takes, as PIL images,
    evenly over the whole video.

    Raises:
        ValueError: it cannot be read; the model looks at single images.
    """
    from PIL import Image

    with open_clip(path) as clip:
        if isinstance(loaded.bundle, VideoBundle):
            return path
        if loaded.num_frames is None:
            raise InputError(f"{path} is a video, and {loaded.name} looks at single images; give an image")
        pictures = clip.read(clip.numbers_at(frame_places(clip.count, clip.count, loaded.num_frames, 0.5)))
    return [Image.fromarray(picture) for picture in pictures]


def inspect_clip(
    loaded: LoadedModel,
    video: Any,
    folder: Path,
    *,
    attention: str | None = None,
    where: Where = "*",
    title: str,
    against: LoadedModel | None = None,
    truth: str | None = None,
) -> Inspection:
    """Write ``attention.html``: where each patch of a frame looks, in its frame, in the others, or over time, with a slider of frames.

    Args:
        loaded: the model.
        video: what :func:`open_video` gave.
        folder: where to.
        attention: convert the model to this one first; the page then shows it beside what it was.
        where: what is converted, or looked at.
        title: of the page.
        against: another model that takes such videos, shown beside the first.
        truth: the true class, by its index or its name.

    Raises:
        ValueError: the model has no attention over the frames; a true class that it does not know.
    """
    model = loaded.model.eval()
    lines = [loaded.name if loaded.trained else f"{loaded.name}, weights drawn at random: nothing was learned", *loaded.notes]

    def look(one: LoadedModel, name: str, at: Where) -> tuple[ViewedModel, Tensor]:
        return view_loaded(one, video, where=at, truth=truth, name=name), frames_of(one.model, one.prepare(video))

    shown = []
    if attention is not None:
        if against is None:
            shown.append(look(loaded, f"{loaded.name}, before", where))
        report = convert_named_(model, attention, where)
        outputs = sorted({swap.output for swap in report.swaps})
        lines.append(f"{len(report.swaps)} attentions converted to {attention}, untrained: the output is {' or '.join(outputs)}")
    shown.append(look(loaded, loaded.name if attention is None else f"{loaded.name}, {attention}", "*" if attention is not None else where))
    if against is not None:
        shown.append(look(against, against.name, "*"))
    frames = max(layer.frames for viewed, _ in shown for layer in viewed.layers)
    viewed = shown[-1][0] if against is None else shown[-2][0]
    if viewed.answers:
        lines.append(f"predicted {viewed.answers[0][0]} with probability {viewed.answers[0][1]:.0%}")
    lines.append(f"{frames} frames; the page has a slider for them")
    page = write_page([one for one, _ in shown], [seen for _, seen in shown], title=title)
    return Inspection(lines + said_of_branches(model), [page.save(folder / "attention.html")])
