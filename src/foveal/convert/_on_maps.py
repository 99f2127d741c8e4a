"""Our attentions on feature maps in the place of a host's own on maps. Which of ours can take which is entered a pair at a time.

All other places give tokens; between stages of a network that has no attention, :func:`foveal.insert_` puts one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .._errors import InputError
from .._registry import Registry
from ..attention import AttentionConfig
from ..attention._feature_map import FeatureMapAttention
from ..attention._transfer import Transfer
from ._host import Place, host_key

__all__ = ["Adopted", "adopted_on_maps", "refuse_without_maps", "register_on_maps", "takes_maps"]


@dataclass(frozen=True)
class Adopted:
    """Ours, with the host's weights."""

    attention: FeatureMapAttention
    place: Place
    """What the host's layers are, and which parameters of ours are copies of theirs."""
    transfer: Transfer


Adopt = Callable[[Any, Any, str], Adopted]
"""From the host's module, the configuration and the module's name. The module is not changed."""

_PAIRS: Registry[Adopt] = Registry("attention on maps in the place of another")


def register_on_maps(attention: str, key: str, adopt: Adopt) -> None:
    """Teach conversion that one of our attentions on maps can take the place of a class of the host's."""
    _PAIRS.add(f"{attention} for {key}", adopt)


def takes_maps(config: AttentionConfig | None) -> bool:
    return config is not None and type(config).module.form != "tokens"  # type: ignore[attr-defined]


def adopted_on_maps(module: nn.Module, config: AttentionConfig, name: str) -> Adopted:
    """Ours, made from the host's.

    Raises:
        ValueError: no attention on maps that this one can take the place of; options that are not the host's.
    """
    adopt = _PAIRS.get(f"{config.attention} for {host_key(module)}")
    if adopt is None:
        raise InputError(f"{name} is {type(module).__name__}, and {_only_of(config)}")
    return adopt(module, config, name)


def refuse_without_maps(model: nn.Module, config: AttentionConfig) -> None:
    """Nothing in the model gives maps to its attentions.

    Raises:
        ValueError: an attention on maps, and no place for it.
    """
    if takes_maps(config) and not any(f"{config.attention} for {host_key(module)}" in _PAIRS for module in model.modules()):
        raise InputError(f"{config.attention} attention takes maps, and these places give tokens; foveal.insert_ puts it behind a stage")


def _only_of(config: AttentionConfig) -> str:
    names = sorted(one.rpartition(" for ")[2].rpartition(".")[2] for one in _PAIRS if one.startswith(f"{config.attention} for "))
    kinds = f"takes the place of {' and '.join(names)} alone" if names else "takes the place of no attention"
    return f"{config.attention} attention, on maps, {kinds}; foveal.insert_ puts it behind a stage"
