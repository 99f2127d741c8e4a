"""Foveal: visual attention as correct, fast, interchangeable parts.

Names are loaded when they are asked for: ``import foveal`` alone brings in nothing, torch least of all.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._errors import InputError
from ._moved import remember_old_names

if TYPE_CHECKING:
    from . import analysis, functional, hub, official
    from ._param_groups import param_groups
    from .analysis import attention_maps, cost, lambdas, principal_angles, rollout
    from .analysis.viewer import show
    from .attention import (
        AttentionConfig,
        CausalAttention,
        ChannelLinearAttention2d,
        ComplementaryCBAM,
        CrossSampleAttention,
        CrossSampleDictionary,
        DenoisingAttention,
        DifferentialAttention,
        EfficientAttention,
        EfficientAttention2d,
        ExternalAttention,
        ExternalAttention2d,
        HaloAttention,
        HaloAttention2d,
        LinearAttention,
        LinearAttention2d,
        SoftmaxAttention,
        create_attention,
        fit_dictionaries_,
        fuse_,
        list_attentions,
    )
    from .convert import (
        CalibrationReport,
        ConversionReport,
        calibrate_,
        convert,
        convert_,
        every_nth,
        global_only,
        insert_,
        last_stage,
        load_delta,
        register_host,
        revert_,
        save_delta,
        widen_,
    )
    from .export import export_model
    from .hub import from_pretrained, push_to_hub, save_pretrained
    from .models import catt_lxmert_

__version__ = "0.2.0"

__all__ = [
    "AttentionConfig",
    "CalibrationReport",
    "CausalAttention",
    "ChannelLinearAttention2d",
    "ComplementaryCBAM",
    "ConversionReport",
    "CrossSampleAttention",
    "CrossSampleDictionary",
    "DenoisingAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "EfficientAttention2d",
    "ExternalAttention",
    "ExternalAttention2d",
    "HaloAttention",
    "HaloAttention2d",
    "InputError",
    "LinearAttention",
    "LinearAttention2d",
    "SoftmaxAttention",
    "__version__",
    "analysis",
    "attention_maps",
    "calibrate_",
    "catt_lxmert_",
    "convert",
    "convert_",
    "cost",
    "create_attention",
    "every_nth",
    "export_model",
    "fit_dictionaries_",
    "from_pretrained",
    "functional",
    "fuse_",
    "global_only",
    "hub",
    "insert_",
    "lambdas",
    "last_stage",
    "list_attentions",
    "load_delta",
    "official",
    "param_groups",
    "principal_angles",
    "push_to_hub",
    "register_host",
    "revert_",
    "rollout",
    "save_delta",
    "save_pretrained",
    "show",
    "widen_",
]

_PARTS = ("analysis", "functional", "hub", "official")
_HOMES: dict[str, str] = {
    **dict.fromkeys(("attention_maps", "cost", "lambdas", "principal_angles", "rollout"), "analysis"),
    **dict.fromkeys(("CalibrationReport", "ConversionReport", "calibrate_", "convert", "convert_", "every_nth", "global_only", "insert_"), "convert"),
    **dict.fromkeys(("last_stage", "load_delta", "register_host", "revert_", "save_delta", "widen_"), "convert"),
    "catt_lxmert_": "models",
    "export_model": "export",
    "param_groups": "_param_groups",
    "show": "analysis.viewer",
    **dict.fromkeys(("from_pretrained", "push_to_hub", "save_pretrained"), "hub"),
}
"""The part that has a name; all others are of ``attention``."""


if not TYPE_CHECKING:
    # a type checker that knew of it would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'foveal' has no attribute {name!r}")
        value = import_module(f".{name}", __name__) if name in _PARTS else getattr(import_module(f".{_HOMES.get(name, 'attention')}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # importing the part foveal.convert binds its name here, where foveal.convert is the function
        if name == "convert" and isinstance(value, ModuleType):
            value = value.convert
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
remember_old_names()
