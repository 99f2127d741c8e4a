"""Models of timm, by name or out of a file of weights, and the way timm makes images ready."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._errors import InputError, missing_extra, unknown
from ...analysis.viewer._prepared import timm_transform
from ..data.video._bundle import no_single_image
from ..data.video._sampling import whole_clip
from ..networks._sources import read_state
from ._refused import refused
from .loaded import LoadedModel, Wanted
from .reference import ModelReference

__all__ = ["load_timm", "load_weights", "prepared_by_timm"]


def load_timm(found: ModelReference, wanted: Wanted) -> LoadedModel:
    timm = _known(found.name)
    cfg = timm.get_pretrained_cfg(found.name)
    sized = {"img_size": wanted.img_size} if wanted.img_size is not None and cfg is not None and cfg.fixed_input_size else {}
    random = wanted.weights == "random"
    try:
        model = timm.create_model(found.name, pretrained=not random, **sized)
    except (OSError, RuntimeError, ValueError) as error:
        if random:
            raise InputError(f"timm does not give {found.name}: {error}") from error
        raise refused(found.name, error) from error
    return prepared_by_timm(found.name, model, not random)


def load_weights(found: ModelReference, wanted: Wanted) -> LoadedModel:
    """A file as all weights of a model of timm, of as many classes as the head in it has."""
    name = wanted.base
    if name is None:
        raise InputError(f"{found.word} holds weights and not what they are for; name the model, as in --model vit_small_patch16_224")
    if wanted.weights == "random":
        raise InputError(f"weights of {found.word} or random ones: give the file or --weights random, not both")
    path, timm = Path(found.name), _known(name)
    weights = read_state(str(path))
    empty = timm.create_model(name, pretrained=False)
    head = empty.pretrained_cfg.get("classifier")
    own = weights.get(f"{head}.weight") if isinstance(head, str) else None
    classes = empty.num_classes if not isinstance(head, str) else 0 if own is None else len(own)
    model = timm.create_model(name, pretrained=False, num_classes=classes) if classes != empty.num_classes else empty
    wanted_state = model.state_dict()
    missing, extra = sorted(wanted_state.keys() - weights.keys()), sorted(weights.keys() - wanted_state.keys())
    other = [key for key, value in weights.items() if key in wanted_state and wanted_state[key].shape != value.shape]
    if missing or extra or other:
        said = [f"{what} {len(keys)}, as {keys[0]}" for what, keys in (("missing", missing), ("not of it", extra), ("of another shape", other)) if keys]
        raise InputError(f"{path} does not hold the weights of {name}: {'; '.join(said)}")
    model.load_state_dict(weights)
    return prepared_by_timm(f"{name}, weights of {path.name}", model, True)


def prepared_by_timm(name: str, model: Any, trained: bool) -> LoadedModel:
    """A model that says by its ``pretrained_cfg`` how its images are made ready."""
    from timm.data import ImageNetInfo, resolve_model_data_config

    def prepare_clip(clip: Any) -> Tensor:
        settings = resolve_model_data_config(model)
        frames = whole_clip(clip, model.num_frames, settings["input_size"][-1]).transpose(0, 1) / 255
        mean, std = (torch.tensor(settings[name])[:, None, None, None] for name in ("mean", "std"))
        return (frames - mean) / std

    labels: dict[int, str] = {}
    if getattr(model, "num_classes", 0) == 1000:
        info = ImageNetInfo()
        labels = {index: info.index_to_description(index) for index in range(1000)}
    # of timm's networks those alone are for videos that say how many frames they are for
    if isinstance(getattr(model, "num_frames", None), int):
        return LoadedModel(name, model, no_single_image, labels, trained, prepare_clip=prepare_clip)
    return LoadedModel(name, model, timm_transform(model), labels, trained)


def _known(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "timm", "a model by timm's name") from error
    from ... import timm as _  # noqa: F401  # our published networks are among the names

    if not timm.is_model(name):
        raise unknown("model of timm", name, [word for word in timm.list_models() if word[:3] == name[:3]])
    return timm
