"""Any classifier of timm, ours among them, as the model of a recipe."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import timm
from timm.layers import DropPath
from torch import nn

from .._errors import InputError, unknown
from ..attention import FAMILIES, attention_class, config_from_dict, list_attentions
from ..convert import convert_
from ..models import Arm, ModelConfig, register_model
from ..models._config import NAMED_OPTIONS

__all__ = ["TimmModel"]


@register_model
@dataclass(frozen=True, kw_only=True)
class TimmModel(ModelConfig):
    """What ``timm.create_model`` makes, and if wanted another attention in the places of its own."""

    targets: ClassVar[str] = "labels"
    about: ClassVar[str] = "a network of timm's registry"
    baseline: ClassVar[str] = "own"
    default_arms: ClassVar[tuple[str, ...]] = ("own", "denoising", "external")

    name: str
    """For ``timm.create_model``; ``fov_…`` are ours."""
    options: dict[str, Any] | None = None
    """Of ``timm.create_model``."""
    drop_path: float = 0.0
    """Stochastic depth, which grows from 0 to this, unless it is constant."""
    constant_drop_path: bool = False
    """In every block the same."""
    pretrained: bool = False
    """Start from timm's weights, which are downloaded."""
    attention: str | None = None
    """Put in the places of the network's own attention by :func:`foveal.convert_`; out of ``foveal list``, on tokens."""
    attention_options: dict[str, Any] | None = None
    """Of that attention, as in its ``Config``."""
    smoke_name: str | None = None
    """Of a small network of the same kind, for smoke runs."""

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> nn.Module:
        """The model.

        Raises:
            ValueError: timm has no such network or refuses an option; no attention to replace; no blocks whose stochastic depth could be constant.
        """
        if not timm.is_model(self.name):
            raise unknown("network of timm", self.name, timm.list_models())
        cfg = timm.get_pretrained_cfg(self.name)
        sized = {"img_size": img_size} if cfg is not None and cfg.fixed_input_size else {}
        options = {"drop_path_rate": self.drop_path, **sized, **(self.options or {})}
        try:
            model: nn.Module = timm.create_model(self.name, pretrained=self.pretrained, in_chans=in_chans, num_classes=num_classes, **options)
        except TypeError as error:
            raise InputError(f"timm cannot make {self.name} with {options}: {error}") from error
        if self.constant_drop_path:
            self._hold(model)
        if self.attention is not None:
            convert_(model, config_from_dict({"attention": self.attention, **(self.attention_options or {})}))
        return model

    def _hold(self, model: nn.Module) -> None:
        """timm leaves a block without drop out, and its first has none."""
        places = [(block, name) for block in getattr(model, "blocks", ()) for name in ("drop_path1", "drop_path2") if hasattr(block, name)]
        if not places:
            raise InputError(f"constant_drop_path is for networks with timm's transformer blocks; {self.name} has none, take drop_path alone")
        for block, name in places:
            setattr(block, name, DropPath(self.drop_path) if self.drop_path else nn.Identity())

    def smoke_model(self) -> "TimmModel":
        if self.smoke_name is None:
            return replace(self, pretrained=False)
        return replace(self, name=self.smoke_name, pretrained=False)

    def arms(self) -> dict[str, Arm]:
        """The network as it is, and with every attention on tokens, and some with options, in the places of its own."""
        found = {"own": Arm("own", "the network's own attention", replace(self, attention=None, attention_options=None))}
        for name in list_attentions(form="tokens"):
            found[name] = Arm(name, FAMILIES[attention_class(name).family], replace(self, attention=name, attention_options=None))
        for name, (attention, about, options) in NAMED_OPTIONS.items():
            found[name] = Arm(name, about, replace(self, attention=attention, attention_options=options))
        return found
