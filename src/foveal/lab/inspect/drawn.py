"""A run that draws images, and one of those that it draws: where its networks look."""

from pathlib import Path

from ..._errors import InputError
from ..tasks import Generation
from .loaded import Inspection, LoadedModel

__all__ = ["inspect_drawn"]

_MOST = 10_000


def inspect_drawn(loaded: LoadedModel, word: str, folder: Path, *, title: str) -> Inspection:
    """Draw where the networks of a run look in images that it draws itself.

    Args:
        loaded: a run or checkpoint that draws images.
        word: ``sample:NUMBER``. Of N classes images 0 to N − 1 have one each, and so on; latents are those of ``foveal sample`` with its seed 0.
        folder: where the files go; it is made.
        title: of the page.

    Raises:
        ValueError: no run that draws; another word; its task shows no attention of drawn images.
    """
    if loaded.recipe is None or not isinstance(loaded.recipe.task, Generation):
        raise InputError(f"{word} is an image that a run draws, which {loaded.name} does not; give an image file")
    number = word.removeprefix("sample:")
    if not word.startswith("sample:") or not number.isdecimal() or int(number) >= _MOST:
        raise InputError(f"{loaded.name} draws images and takes none: expected sample:NUMBER with a number below {_MOST}, the image to look into, got {word}")
    lines, files = loaded.recipe.task.draw_attention(loaded.model.eval(), loaded.bundle, int(number), folder, title=title)
    return Inspection(lines, files)
