"""How a model is built, as values: the library that builds it, a name it knows, and arguments. One entry of ``LIBRARIES`` a library."""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import nn

from .._errors import InputError, missing_extra, unknown

__all__ = ["LIBRARIES", "Base", "Library", "base_of", "build_base", "read_base"]


@dataclass(frozen=True)
class Base:
    """What is built before anything is converted, with weights that do not matter."""

    library: str
    """A key of ``LIBRARIES``, or ``""`` where only the user knows."""
    name: str
    """What the library builds; the class, where only the user knows."""
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Library:
    build: Callable[[str, dict[str, Any]], nn.Module]
    describe: Callable[[nn.Module], Base | None]
    """What a model says of itself; None where it says nothing."""


def read_base(text: str, kwargs: Mapping[str, Any] | None) -> Base:
    """``"library:name"`` and arguments, as a user gives them.

    Raises:
        ValueError: an unknown library, or arguments that are no JSON.
    """
    library, colon, name = text.partition(":")
    if not colon or not name:
        raise InputError(f"expected base as 'library:name', such as 'timm:vit_base_patch16_224', got {text!r}; libraries: {', '.join(sorted(LIBRARIES))}")
    if library not in LIBRARIES:
        raise unknown("library of a base", library, LIBRARIES)
    return Base(library, name, _plain(dict(kwargs or {})))


def base_of(model: nn.Module) -> Base:
    """What the model says of itself, or its class where it says nothing."""
    for library in LIBRARIES.values():
        if (base := library.describe(model)) is not None:
            return Base(base.library, base.name, _plain(base.kwargs))
    return Base("", f"{type(model).__module__}.{type(model).__qualname__}")


def build_base(base: Base) -> nn.Module:
    """The model, with weights at random.

    Raises:
        ValueError: the library is not installed or does not know the name; arguments it does not take.
    """
    if base.library not in LIBRARIES:
        raise unknown("library of a base", base.library, LIBRARIES)
    for name in ("pretrained", "weights"):
        if base.kwargs.get(name):
            raise InputError(f"leave {name} out of the base's arguments: the weights are in the folder, and nothing is to be fetched for it")
    try:
        return LIBRARIES[base.library].build(base.name, base.kwargs)
    except TypeError as error:
        raise InputError(f"{base.library} cannot build {base.name} with {base.kwargs}: {error}") from error


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    """As they come back from JSON, where tuples are lists."""
    for name, value in kwargs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise InputError(
                f"the argument {name}={value!r} of the base is no JSON value, so a folder cannot hold it; leave base out and give build= when loading"
            ) from None
    return json.loads(json.dumps(kwargs))


def _tuples(value: Any) -> Any:
    # libraries ask for tuples; JSON has none
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in kwargs.items()}


def _module_class(library: str, namespace: Any, name: str, known: list[str]) -> type[nn.Module]:
    cls = getattr(namespace, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"{library} knows no model {name!r}{hint}")
    return cls


def _import(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise missing_extra(package, extra, "building this model") from error


# -- timm ------------------------------------------------------------------------------------------------------------------------------------------


def _timm_build(name: str, kwargs: dict[str, Any]) -> nn.Module:
    timm = _import("timm", "timm")
    if name.startswith(("fov_", "test_fov_")):
        # the published networks of this library register when they are imported
        from .. import timm as _  # noqa: F401
    if timm.is_model(name):
        return timm.create_model(name, **_arguments(kwargs))
    return _module_class("timm", timm.models, name, timm.list_models())(**_arguments(kwargs))


def _timm_describe(model: Any) -> Base | None:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    cfg = cfg if isinstance(cfg, Mapping) else cfg.to_dict()
    name = cfg.get("architecture")
    if not name:
        return None
    kwargs: dict[str, Any] = {}
    if getattr(model, "num_classes", cfg["num_classes"]) != cfg["num_classes"]:
        kwargs["num_classes"] = model.num_classes
    if getattr(model, "in_chans", cfg["input_size"][0]) != cfg["input_size"][0]:
        kwargs["in_chans"] = model.in_chans
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None and tuple(size) != tuple(cfg["input_size"][1:]):
        kwargs["img_size"] = list(size)
    return Base("timm", name, kwargs)


# -- torchvision -----------------------------------------------------------------------------------------------------------------------------------


def _torchvision_build(name: str, kwargs: dict[str, Any]) -> nn.Module:
    models = _import("torchvision", "train").models
    if name not in models.list_models():
        return _module_class("torchvision", models, name, models.list_models())(**_arguments(kwargs))
    builder = models.get_model_builder(name)
    # detectors and segmenters fetch a backbone unless told not to
    without = {"weights": None, "weights_backbone": None}
    return builder(**{option: value for option, value in without.items() if option in inspect.signature(builder).parameters}, **_arguments(kwargs))


# -- transformers ----------------------------------------------------------------------------------------------------------------------------------


def _transformers_build(name: str, kwargs: dict[str, Any]) -> nn.Module:
    transformers = _import("transformers", "hf")
    cls = _module_class("transformers", transformers, name, [])
    config_class = getattr(cls, "config_class", None)
    if config_class is None or "config" not in kwargs:
        raise InputError(f"transformers builds {name} from a configuration; expected the argument config, got {sorted(kwargs) or 'none'}")
    # lists stay lists: that is how transformers reads its own config.json
    options = {"attn_implementation": kwargs["attn_implementation"]} if "attn_implementation" in kwargs else {}
    return cls._from_config(config_class.from_dict(kwargs["config"]), **options)  # type: ignore[attr-defined]


def _transformers_describe(model: Any) -> Base | None:
    if not type(model).__module__.startswith("transformers.") or not hasattr(model, "config"):
        return None
    config = json.loads(model.config.to_json_string(use_diff=False))
    return Base("transformers", type(model).__name__, {"config": config, "attn_implementation": model.config._attn_implementation})


# -- our own ---------------------------------------------------------------------------------------------------------------------------------------


def _own_build(name: str, kwargs: dict[str, Any]) -> nn.Module:
    module, _, cls = name.rpartition(".")
    if not module.startswith("foveal."):
        raise InputError(f"expected a class of foveal, got {name!r}")
    try:
        namespace = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"this version of foveal has no {module}: {error}") from error
    return _module_class("foveal", namespace, cls, [])(**_arguments(kwargs))


def _own_describe(model: Any) -> Base | None:
    config = getattr(model, "_built_with", None)
    if config is None or not type(model).__module__.startswith("foveal."):
        return None
    return Base("foveal", f"{type(model).__module__}.{type(model).__qualname__}", config)


# -- segmentation_models.pytorch -------------------------------------------------------------------------------------------------------------------


def _smp_build(name: str, kwargs: dict[str, Any]) -> nn.Module:
    smp = _import("segmentation_models_pytorch", "smp")
    return smp.create_model(name, **({"encoder_weights": None} | _arguments(kwargs)))


def _nothing(model: nn.Module) -> Base | None:
    return None


LIBRARIES: dict[str, Library] = {
    "timm": Library(_timm_build, _timm_describe),
    "foveal": Library(_own_build, _own_describe),
    "transformers": Library(_transformers_build, _transformers_describe),
    "torchvision": Library(_torchvision_build, _nothing),
    "smp": Library(_smp_build, _nothing),
}
"""Asked in this order what a model is."""
