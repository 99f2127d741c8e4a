"""One way for all published networks into timm's registry: a name, the class, its options, and what its paper says of it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._errors import missing_extra
from .._registry import Registry

try:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.timm") from error

__all__ = ["PUBLISHED", "Filter", "Published", "enter"]

Filter = Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]]
"""A checkpoint in whatever layout it was saved, and the model it is for, to a state dict of the model."""


@dataclass(frozen=True)
class Published:
    """What others say of a network. ``result`` is theirs and is not reproduced here; an empty string where nothing is known."""

    source: str
    parameters: str = ""
    """As the source prints it; an exact number where it is exact."""
    result: str = ""


PUBLISHED: Registry[Published] = Registry("published network")
"""Of every registered name but those that are for tests."""


def enter(
    name: str,
    build: Callable[..., nn.Module],
    *,
    module: str,
    published: Published | None = None,
    cfg: Mapping[str, Any] | None = None,
    filter_fn: Filter | None = None,
    feature_cfg: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Register a network with timm.

    Args:
        name: for ``timm.create_model``; begins with ``fov_``, or ``test_fov_`` where it is a miniature for tests.
        build: the class, or a function with its options.
        module: the caller's ``__name__``; what timm lists as the model's module.
        published: what the paper says; None for tests.
        cfg: of timm's ``PretrainedCfg``, where it differs from images of 224 pixels and 1000 classes.
        filter_fn: reads checkpoints.
        feature_cfg: of timm's feature extraction.
        options: of ``build``; those a user gives win. Options of an attention are joined one by one, and left out where the user names another attention.
    """
    # a bare prefix is what keeps us off timm's names, present and to come
    assert name.startswith(("fov_", "test_fov_")), f"{name} must begin with fov_ or test_fov_"
    assert (published is None) == name.startswith("test_"), f"say what is published of {name}, or that it is for tests"
    home = sys.modules[module]
    defaults = {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }
    if not hasattr(home, "default_cfgs"):
        home.default_cfgs = {}  # type: ignore[attr-defined]
    home.default_cfgs.update(generate_default_cfgs({name: defaults | dict(cfg or {})}))

    def entrypoint(pretrained: bool = False, **given: Any) -> nn.Module:
        features = dict(feature_cfg or {})
        if "out_indices" in given:
            features["out_indices"] = given.pop("out_indices")
        return build_model_with_cfg(build, name, pretrained, pretrained_filter_fn=filter_fn, feature_cfg=features, **_with_defaults(given, options))

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = module
    entrypoint.__doc__ = f"``timm.create_model({name!r})``" + (f"; {published.source}" if published else "")
    setattr(home, name, entrypoint)
    register_model(entrypoint)
    if published is not None:
        PUBLISHED.add(name, published)


def _with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(defaults) | dict(given)
    for key, default in defaults.items():
        if not key.endswith("options") or default is None:
            continue
        name = key.removesuffix("options") + "attention"
        if out.get(name) != defaults.get(name):
            out[key] = given.get(key)
        else:
            # a shared value or a number of slots is what the network is; one option more must not undo it
            out[key] = default | (given.get(key) or {})
    return out
