"""``foveal inspect``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._console import plain
from .._errors import InputError
from ._options import parse

__all__ = ["inspect"]


@dataclass(frozen=True)
class _Inspect:
    """Draw where a model looks in one image, or in one video."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """Folder of a run, of a checkpoint or of a saved model; a name of timm or torchvision; hf:NAME of transformers, or a folder with its config.json; a
    repository of the hub; a file of weights, with --model."""
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """An image file; for models on videos a video file, a folder with its frames, or of a run test:NUMBER, a clip of its test; of
    a run with visual probes always that; for adversarial runs sample:NUMBER, an image that they draw."""
    right: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """The right image, where the run matches stereo pairs; IMAGE is the left one."""
    out: Path | None = None
    """Folder for what is drawn; RUN/inspect-IMAGE, or inspect-MODEL-IMAGE, if not given."""
    model: str | None = None
    """timm's name of the model that a file of weights is for."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """random builds the model and loads nothing; otherwise weights that cannot be loaded are an error."""
    attention: str | None = None
    """Convert the model to this attention first, one out of `foveal list`."""
    where: Annotated[str, tyro.conf.arg(metavar="GLOB")] = "*"
    """Which attentions are converted, or without --attention are looked at; a glob on their names."""
    against: Annotated[str | None, tyro.conf.arg(metavar="RUN|MODEL")] = None
    """A second model, beside the first on attention.html; with --attention, that is the model before its conversion if not given."""
    truth: Annotated[str | None, tyro.conf.arg(metavar="CLASS")] = None
    """The true class of the image, by its name or its number."""


def inspect(words: list[str]) -> None:
    """Draw where a run or any model looks in one image or video: inspect RUN|MODEL IMAGE"""
    chosen: _Inspect = parse(_Inspect, "inspect", words)
    from ..lab.data.video import is_video
    from ..lab.inspect import inspect_model, inspect_run, load_model, open_image, open_pair, resolve_model
    from ..lab.training.checkpoint import check_folder

    found = resolve_model(chosen.what)
    path = Path(chosen.what)
    of_run = found.source in ("run", "checkpoint")
    if of_run and (chosen.model or chosen.weights == "random" or chosen.attention or chosen.where != "*"):
        raise InputError(f"{path} is a run, whose model and weights are its own; leave out --model, --weights, --attention and --where")
    if not of_run and chosen.right is not None:
        raise InputError("--right is for runs that match stereo pairs, and this is no run of Foveal; leave it out")
    named = chosen.image.stem.replace(":", "-")
    out = chosen.out or (path / f"inspect-{named}" if of_run else Path(f"inspect-{path.stem.replace(':', '-')}-{named}"))
    check_folder(out)
    other = None if chosen.against is None else resolve_model(chosen.against)
    clip = is_video(chosen.image) or _of_test(chosen.image)
    image: Any = None if of_run or clip else open_image(chosen.image)
    loaded = load_model(found, weights=chosen.weights, base=chosen.model)
    if (by_itself := _by_itself(loaded)) is not None:
        look, why = by_itself
        if chosen.right is not None or other is not None or chosen.truth is not None:
            raise InputError(f"{path} {why}; leave out --right, --against and --truth")
        lines, files = look(loaded, str(chosen.image), out, title=f"{path.name}: {chosen.image.name}")
        print("\n".join([*map(plain, lines), *map(str, files)]))
        return
    if clip or loaded.prepare_clip is not None:
        second = None if other is None else load_model(other, weights="pretrained" if other.has_own_weights else chosen.weights)
        _inspect_video(chosen, loaded, second, out)
        return
    beside: Any = {"truth": chosen.truth}
    if other is not None:
        beside["against"] = load_model(other, weights="pretrained" if other.has_own_weights else chosen.weights)
    if of_run:
        if chosen.right is not None and loaded.recipe.task.targets != "disparity":
            raise InputError(f"{path} takes single images; leave out --right, which is for stereo")
        image = open_image(chosen.image) if chosen.right is None else open_pair(chosen.image, chosen.right)
        lines, files = inspect_run(loaded, image, out, title=f"{path.name}: {chosen.image.name}", **beside)
    else:
        lines, files = inspect_model(loaded, image, out, attention=chosen.attention, where=chosen.where, **beside)
    print("\n".join([*map(plain, lines), *map(str, files)]))


def _by_itself(loaded: Any) -> tuple[Callable[..., Any], str] | None:
    """How a run is looked into that knows what it is shown, and why nothing goes beside it; None for what is shown files."""
    from ..lab.inspect import inspect_drawn, inspect_probes, takes_probes

    if takes_probes(loaded):
        return inspect_probes, "is asked about videos by words"
    if loaded.recipe is not None and loaded.recipe.task.targets == "images":
        return inspect_drawn, "draws images itself"
    return None


def _of_test(path: Path) -> bool:
    return str(path).startswith("test:") and not path.exists()


def _inspect_video(chosen: _Inspect, loaded: Any, other: Any, out: Path) -> None:
    from ..lab.data.video import is_video
    from ..lab.inspect import inspect_video, open_video, sample_of_test

    if chosen.right is not None:
        raise InputError("--right is for runs that match stereo pairs, and this is a video; leave it out")
    if other is not None and _of_test(chosen.image):
        raise InputError("with --against give a video file, or a folder with its frames: another model need not know the clips of this run's test")
    if not _of_test(chosen.image) and chosen.image.is_file() and not is_video(chosen.image):
        raise InputError(f"{chosen.image} is a picture, and {loaded.name} takes videos; give a video file, or a folder with its frames")
    clip, truth = sample_of_test(loaded, str(chosen.image)) if _of_test(chosen.image) else (open_video(loaded, chosen.image), chosen.truth)
    against = None if other is None else (other, open_video(other, chosen.image))
    title = f"{loaded.name}: {chosen.image.name}"
    lines, files = inspect_video(loaded, clip, out, attention=chosen.attention, where=chosen.where, title=title, truth=truth, against=against)
    print("\n".join([*map(plain, lines), *map(str, files)]))
