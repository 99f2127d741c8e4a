"""``foveal inspect``."""

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
    """Draw where a model looks in one image."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """Folder of a finished run; a model by timm's name; hf:NAME, or a folder with config.json, of transformers; a file of weights, with --model."""
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """An image file."""
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


def inspect(words: list[str]) -> None:
    """Draw where a run or any model looks in one image: inspect RUN|MODEL IMAGE"""
    chosen: _Inspect = parse(_Inspect, "inspect", words)
    from ..lab.training.checkpoint import check_folder

    run = Path(chosen.what)
    if (run / "recipe.json").exists():
        from ..lab.compare.inspect import inspect_image
        from ..lab.training import load_run

        if chosen.model or chosen.weights == "random" or chosen.attention or chosen.where != "*":
            raise InputError(f"{run} is a run, whose model and weights are its own; leave out --model, --weights, --attention and --where")
        out = chosen.out or run / f"inspect-{chosen.image.stem}"
        check_folder(out)
        recipe, bundle, model = load_run(run)
        image = _open(chosen.image)
        if chosen.right is not None:
            if recipe.task.targets != "disparity":
                raise InputError(f"{run} takes single images; leave out --right, which is for stereo")
            # a rectified pair lies as it is stored
            image = [_open(path, upright=False) for path in (chosen.image, chosen.right)]
        about, files = inspect_image(recipe, bundle, model, image, out, title=f"{run.name}: {chosen.image.name}")
        print("\n".join([*map(plain, about.splitlines()), *map(str, files)]))
        return
    from ..lab.looking import inspect_model, open_model

    if chosen.right is not None:
        raise InputError("--right is for runs that match stereo pairs, and this is no run of Foveal; leave it out")
    out = chosen.out or Path(f"inspect-{run.stem.replace(':', '-')}-{chosen.image.stem}")
    check_folder(out)
    image = _open(chosen.image)
    opened = open_model(chosen.what, model=chosen.model, random_weights=chosen.weights == "random")
    lines, files = inspect_model(opened, image, out, attention=chosen.attention, where=chosen.where)
    print("\n".join([*map(plain, lines), *map(str, files)]))


def _open(path: Path, *, upright: bool = True) -> Any:
    """Read as the sets read theirs: three times eight bits."""
    from ..lab.data._image import open_rgb

    return open_rgb(path, f"the image {path}", upright=upright, hint="give another one")
