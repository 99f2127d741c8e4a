"""Writing a model as a graph, and running what was written."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .._errors import InputError, missing_extra, unknown
from .._files import check_folder

__all__ = ["FORMATS", "Exported", "example_images", "export_model"]

TOLERANCE = 1e-4
"""Largest difference that is taken, relative to the largest output where that is above 1."""
_COUNTS = (1, 2, 5)
"""Numbers of images that a file is tried with; it was made with another."""
_EXAMPLES = 3


@dataclass(frozen=True)
class Exported:
    """A file that was written and found to compute what the model computes."""

    path: Path
    format: str
    shape: tuple[int, ...]
    """Of the images, without the batch, which may be of any size."""
    error: float
    """Largest difference from the model's outputs, on random images."""


def export_model(model: nn.Module, path: str | Path, images: Tensor | None = None, *, to: str | None = None) -> Exported:
    """Write a model, converted or not, as ONNX or as a PyTorch program, for any number of images of one size.

    The file is read again, run on other numbers of images, and compared with the model; it gets its name only if they agree to 1e-4.

    Args:
        model: takes one tensor of images. It is exported as in evaluation, and left in the mode it was in.
        path: of the file; ``.onnx`` or ``.pt2``.
        images: whose shape, dtype and device the file is for, ``(B, C, H, W)``; what :func:`example_images` finds if None. Their number is of no matter.
        to: ``"onnx"`` or ``"pt2"``; by the suffix of the path if None.

    Returns:
        What was written.

    Raises:
        ValueError: an unknown format; a model that cannot be traced, with the reason; outputs that differ. There is no file then.
    """
    path = Path(path)
    to = path.suffix.removeprefix(".") if to is None else to
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    check_folder(path.parent)
    images = example_images(model) if images is None else images
    if to == "onnx" and images.dtype not in (torch.float32, torch.float64):
        raise InputError(f"ONNX Runtime on CPUs computes in float32, and the model is in {images.dtype}; export model.float()")
    # neither 0 nor 1, which tracing takes for constants
    images = images[:1].expand(_EXAMPLES, *[-1] * (images.ndim - 1)).clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _evaluating(model), torch.no_grad():
            run = FORMATS[to](_traced(model, images), partial / path.name)
            error = max(_difference(model, run, torch.randn(count, *images.shape[1:]).to(images)) for count in _COUNTS)
        # large weights lie beside the graph, and are there before it
        for file in sorted(partial.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(path, to, tuple(images.shape[1:]), error)


def example_images(model: nn.Module, img_size: int | tuple[int, int] | None = None) -> Tensor:
    """One image, or video, as the model takes it, of random numbers.

    Args:
        model: of timm, torchvision, transformers, or ``foveal.models``, also inside wrappers that hold nothing else.
        img_size: side, or height and width; what the model says of itself if None.

    Raises:
        ValueError: no size is given, and the model does not say one.
    """
    while _size_of(model) is None and not isinstance(model, nn.Sequential) and len(children := list(model.children())) == 1:
        # a wrapper
        (model,) = children
    config = getattr(model, "config", None)
    size: Any = img_size if img_size is not None else _size_of(model)
    if size is None:
        raise InputError(f"{type(model).__name__} does not say which size its images have; give it, with img_size or --img-size")
    height, width = (size, size) if isinstance(size, int) else size
    convolutions = (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    channels = getattr(model, "in_chans", None) or getattr(config, "num_channels", None) or next(convolutions, 3)
    shape = [channels, height, width]
    if isinstance(frames := getattr(model, "num_frames", None), int):
        shape.insert(1, frames)
    elif isinstance(frames := getattr(config, "num_frames", None), int):
        # transformers puts time in front of channels
        shape.insert(0, frames)
    like = next(model.parameters())
    return torch.randn(1, *shape).to(like)


def _size_of(model: nn.Module) -> Any:
    """What the model itself says."""
    config, cfg = getattr(model, "config", None), getattr(model, "pretrained_cfg", None) or {}
    said = [getattr(getattr(model, "patch_embed", None), "img_size", None), getattr(config, "image_size", None), getattr(model, "image_size", None)]
    said.append(tuple(cfg["input_size"][1:]) if "input_size" in cfg else None)
    return next((size for size in said if size is not None), None)


# -- tracing -------------------------------------------------------------------------------------------------------------------------------------------


def _traced(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    try:
        model(images)
    except InputError:
        raise
    # whatever a foreign model's code does
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} does not run on one tensor of shape {tuple(images.shape)}: {_first_lines(error)}; "
            "give images of the size that it takes, or wrap it in a module whose forward takes images alone"
        ) from error
    # said of the tensor and not of an argument: a wrapper's forward(*args, **kwargs) has none of its own
    sizes = torch.export.ShapesCollection()
    sizes[images] = {0: torch.export.Dim("batch", min=1)}
    try:
        return torch.export.export(model, (images,), dynamic_shapes=sizes)
    except InputError:
        raise
    # whatever a foreign model's code does while it is traced
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be traced for images {tuple(images.shape[1:])} in batches of any size: {_first_lines(error)}{_cause(error)}"
        ) from error


def _cause(error: Exception) -> str:
    """What PyTorch's message comes to, where that is known."""
    text = str(error)
    if "data-dependent" in text.lower():
        return "; the model branches on the values of tensors: choose with torch.where instead"
    if "Constraints violated" in text or "ConstraintViolation" in type(error).__name__:
        return "; a number of images is written into the model: read it off the input instead"
    return ""


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"[:500]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# -- formats -------------------------------------------------------------------------------------------------------------------------------------------

Run = Callable[[Tensor], list[Tensor]]
"""Images to all outputs, by what was written."""


def _pt2(program: torch.export.ExportedProgram, path: Path) -> Run:
    torch.export.save(program, path)
    module = torch.export.load(path).module()
    return lambda images: _tensors(module(images))


def _onnx(program: torch.export.ExportedProgram, path: Path) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise missing_extra(error.name or "onnxscript", "onnx", "export to ONNX") from error
    try:
        written = torch.onnx.export(program, (), dynamo=True, input_names=["images"], verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"the model has operations that ONNX has not: {_first_lines(error)}; export it with to='pt2'") from error
    assert written is not None, "as dynamo=True promises"
    written.save(str(path))
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # its errors share no class but this
    except Exception as error:
        raise InputError(f"ONNX Runtime does not take what was exported: {_first_lines(error)}; export it with to='pt2'") from error
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(value) for value in session.run(None, {name: images.cpu().numpy()})]


FORMATS: dict[str, Callable[[torch.export.ExportedProgram, Path], Run]] = {"onnx": _onnx, "pt2": _pt2}
"""Each writes a file and says how to run it."""


# -- comparison ----------------------------------------------------------------------------------------------------------------------------------------


def _tensors(outputs: Any) -> list[Tensor]:
    return [value for value in tree_flatten(outputs)[0] if isinstance(value, Tensor)]


def _difference(model: nn.Module, run: Run, images: Tensor) -> float:
    want, got = _tensors(model(images)), run(images)
    if [tuple(value.shape) for value in want] != [tuple(value.shape) for value in got]:
        shapes = [[tuple(value.shape) for value in values] for values in (got, want)]
        raise InputError(
            f"what was exported gives {shapes[0]} for {len(images)} images, the model {shapes[1]}; the model does not treat a batch image by image"
        )
    worst = 0.0
    for ours, theirs in zip(want, got, strict=True):
        error = float((ours.cpu().double() - theirs.cpu().double()).abs().max()) if ours.numel() else 0.0
        scale = max(1.0, float(ours.abs().max())) if ours.numel() else 1.0
        # not <=, so that NaN is a difference
        if not error <= TOLERANCE * scale:
            raise InputError(
                f"what was exported differs from the model by {error:.1e} for {len(images)} images, where outputs reach {scale:.1e} "
                f"and {TOLERANCE * scale:.0e} is taken; no file was written"
            )
        worst = max(worst, error)
    return worst
