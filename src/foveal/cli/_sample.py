"""``foveal sample``."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .._errors import InputError, unknown
from .._files import check_folder, replace_file
from ._options import parse

__all__ = ["sample"]

_MOST = 10_000


@dataclass(frozen=True)
class _Sample:
    """Draw images with a finished run that draws, such as one of dit-digits, into one PNG: row by row, classes in order."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    n: Annotated[int, tyro.conf.arg(metavar="INT", aliases=("-n",))] = 64
    """How many images."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME …]")] = ()
    """Names of classes that share the images; all classes if not given."""
    guidance: float | None = None
    """How far images go in the direction of their class; 1 is its plain answer, and the run's own if not given."""
    steps: int | None = None
    """Calls of the network that make an image; the run's own if not given."""
    truncation: float | None = None
    """Of generators: entries of a latent beyond it, on either side of 0, are drawn again within it, for images nearer to the common ones; none if not given."""
    latent_scale: float | None = None
    """Of generators: what latents are multiplied by, behind the truncation; nothing if not given."""
    ema: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw with the average of the weights, which a run with optim.ema draws with anyway."""
    no_ema: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw with the weights of the last step, without average."""
    seed: int = 0
    """Image number i follows from it and i."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("samples.png")
    """The picture, a .png."""
    folder: Path | None = None
    """Folder that gets every image as a file of its own too, such as 00007-CLASS.png, in its own size."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= _MOST:
            raise InputError(f"n must be at least 1 and at most {_MOST}, got {self.n}")
        if self.out.suffix.lower() != ".png":
            raise InputError(f"--out must be a file that ends with .png, got {self.out}")
        if self.out.is_dir():
            raise InputError(f"--out must be a file, and {self.out} is a folder")
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise InputError(f"guidance must be at least 0 and finite, got {self.guidance}")
        for name, value in (("truncation", self.truncation), ("latent-scale", self.latent_scale)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {value}")
        if self.ema and self.no_ema:
            raise InputError("--ema and --no-ema are each other's contrary; give one of them, or none for the weights that the run was judged by")
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed must have at most 63 bits, got {self.seed}")


def sample(words: list[str]) -> None:
    """Draw images with a finished run into one picture: sample RUN"""
    chosen: _Sample = parse(_Sample, "sample", words, flags=True)
    import torch

    from ..lab.inspect import resolve_model
    from ..lab.tasks import Generation, image_grid
    from ..lab.training import load_run

    for place in (chosen.out.absolute().parent, *([] if chosen.folder is None else [chosen.folder])):
        check_folder(place)
    found = resolve_model(str(chosen.run), accept=["run"])
    recipe, bundle, model = load_run(Path(found.name), averaged=not chosen.no_ema if chosen.ema or chosen.no_ema else None)
    task = recipe.task
    if not isinstance(task, Generation):
        raise InputError(f"{chosen.run} is a run of {type(task).__name__}, which draws no images; foveal sample is for runs such as those of dit-digits")
    if not bundle.classes and (chosen.classes or chosen.guidance is not None):
        raise InputError(f"{chosen.run} has no classes, so there is nothing to choose or to guide by; leave --classes and --guidance out")
    for name in chosen.classes:
        if name not in bundle.classes:
            raise unknown("class", name, bundle.classes)
    if len(set(chosen.classes)) < len(chosen.classes):
        raise InputError(f"each class can be named once, got {' '.join(chosen.classes)}")
    kinds = [bundle.classes.index(name) for name in chosen.classes] or list(range(max(len(bundle.classes), 1)))
    labels = [kinds[place * len(kinds) // chosen.n] for place in range(chosen.n)]
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    images = task.sample(
        model,
        bundle,
        labels,
        seed=chosen.seed,
        guidance=chosen.guidance,
        steps=chosen.steps,
        truncation=chosen.truncation,
        latent_scale=chosen.latent_scale,
    )
    replace_file(chosen.out, image_grid(images))
    if chosen.folder is not None:
        for number, image in enumerate(images):
            kind = f"-{bundle.classes[labels[number]]}".replace("/", "-") if bundle.classes else ""
            replace_file(chosen.folder / f"{number:05d}{kind}.png", image_grid(image[None], smallest=1))
    if chosen.n < len(kinds):
        print(f"{chosen.n} images are fewer than {len(kinds)} classes, so not every class is there", file=sys.stderr)
    if task.note():
        print(task.note(), file=sys.stderr)
    shown = dict.fromkeys(bundle.classes[label] for label in labels) if bundle.classes else ()
    print(f"{chosen.n} images" + (f" of {', '.join(shown)}, in this order" if shown else ""))
    print(chosen.out if chosen.folder is None else f"{chosen.out}\n{chosen.folder}")
