"""``foveal export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .._errors import InputError
from ._options import parse

__all__ = ["export"]


@dataclass(frozen=True)
class _Export:
    """Write a model as one file that other programs run. The file is run and compared with the model before it gets its name."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """Folder of a run, of a checkpoint or of a saved model; a name of timm or torchvision; hf:NAME of transformers, or a folder with its config.json; a
    repository of the hub."""
    to: Literal["onnx", "pt2"] = "onnx"
    """ONNX, or PyTorch's exported program."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The file to write; MODEL.onnx or MODEL.pt2 here, or model.onnx in the folder, if not given."""
    img_size: int | None = None
    """Side of the images; the model's own if not given. Their number is free."""
    attention: str | None = None
    """Convert to this first: a name out of `foveal list`, or a configuration as JSON."""
    where: Annotated[str, tyro.conf.arg(metavar="GLOB")] = "*"
    """Which modules are converted: a glob on their names."""
    pretrained: bool = False
    """Fetch the weights of a network by name of timm or torchvision; they are random if not."""


_USE = {
    "onnx": 'onnxruntime.InferenceSession({path}).run(None, {{"images": images}})',
    "pt2": "torch.export.load({path}).module()(images)",
}
"""How a file is run by those who have no Foveal."""


def export(words: list[str]) -> None:
    """Write a model as ONNX or as a PyTorch program, checked: export RUN|MODEL"""
    chosen: _Export = parse(_Export, "export", words)
    from ..export import example_images, export_model
    from ..lab.inspect import SOURCES, convert_named_, load_model, resolve_model

    if chosen.attention is None and chosen.where != "*":
        raise InputError(f"where={chosen.where!r} says what is converted, and no attention is named; give --attention as well")
    # a file of weights does not say what it is for
    found = resolve_model(chosen.model, accept=[source for source in SOURCES if source != "weights"])
    model = load_model(found, weights="pretrained" if chosen.pretrained or found.has_own_weights else "random", img_size=chosen.img_size).model
    if chosen.attention is not None:
        convert_named_(model, chosen.attention, chosen.where)
        model.eval()
    folder = Path(chosen.model)
    out = chosen.out or (folder / f"model.{chosen.to}" if folder.is_dir() else Path(f"{chosen.model.rpartition('/')[2]}.{chosen.to}"))
    done = export_model(model, out, example_images(model, chosen.img_size), to=chosen.to)
    print(f"{done.format}: images (any number, {', '.join(map(str, done.shape))}); differs from the model by at most {done.error:.1e}\n{done.path}")
    print(f"next, in Python:\n  {_USE[done.format].format(path=repr(str(done.path)))}    # images as the model takes them")
