"""Weights as at construction, for models that come from the meta device."""

from torch import nn

from .._errors import missing_extra

try:
    from timm.models import named_apply
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["reset"]


def reset(model: nn.Module) -> None:
    """Call ``reset_parameters`` of all modules, of children before their parents, so that what a block sets stands."""
    named_apply(_reset, model)


def _reset(module: nn.Module, name: str = "") -> None:
    reset_parameters = getattr(module, "reset_parameters", None)
    if reset_parameters is not None:
        reset_parameters()
