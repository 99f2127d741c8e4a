"""Models of transformers, by name or out of a folder with their config.json."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._errors import InputError, missing_extra
from ._refused import refused
from .loaded import LoadedModel, Wanted
from .reference import ModelReference

__all__ = ["load_transformers"]


def load_transformers(found: ModelReference, wanted: Wanted) -> LoadedModel:
    """What the configuration names as architecture; of two towers the one that sees."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "hf", "a model of transformers") from error
    name, random = found.word.removeprefix("hf:").removeprefix("transformers:"), wanted.weights == "random"
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kinds = [getattr(transformers, kind) for kind in config.architectures or [] if hasattr(transformers, kind)]
        kind = kinds[0] if kinds else transformers.AutoModel
        if random:
            model = kind(config) if kinds else kind.from_config(config)
            missing: Any = []
        else:
            model, info = kind.from_pretrained(name, output_loading_info=True)
            missing = sorted(info["missing_keys"])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise refused(name, error) from error
    if missing:
        raise InputError(f"{name} lacks {len(missing)} weights of a {type(model).__name__}, as {missing[0]}, which would be random")
    tower: Any = getattr(model, "vision_model", model)
    notes = [] if tower is model else ["the vision tower alone"]
    prepare = _processor(transformers, name, getattr(config, "vision_config", config), notes)
    labels = config.id2label if hasattr(model, "classifier") else {}
    frames = getattr(getattr(config, "vision_config", config), "num_frames", None)
    return LoadedModel(name, tower, prepare, dict(labels or {}), not random, notes, frames)


def _processor(transformers: Any, name: str, config: Any, notes: list[str]) -> Callable[[Any], Tensor]:
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        side = getattr(config, "image_size", None)
        if not isinstance(side, int):
            raise InputError(f"{name} has no preprocessor_config.json, and its configuration no image_size: how images are made ready is not known") from None
        notes.append(f"no preprocessor_config.json: the image was brought to {side}×{side}, and from −1 to 1")
        return lambda image: torch.stack([_plain(frame, side) for frame in image]) if isinstance(image, list) else _plain(image, side)

    def ready(image: Any) -> Tensor:
        pixels = [frame.convert("RGB") for frame in image] if isinstance(image, list) else image.convert("RGB")
        made: Tensor = processor(images=pixels, return_tensors="pt")["pixel_values"]
        # processors of images take frames for as many images; those of videos give one video
        return made if isinstance(image, list) and made.ndim == 4 else made[0]

    return ready


def _plain(image: Any, side: int) -> Tensor:
    small = image.convert("RGB").resize((side, side))
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(side, side, 3)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1
