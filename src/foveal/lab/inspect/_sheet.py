"""What a sheet of pictures takes of each layer while a model runs; the viewer's page can be of the same run."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor, nn

from ...analysis import attention_maps
from ...analysis.maps import NothingToShow
from ...convert import Where

__all__ = ["SheetMaps"]


@dataclass
class SheetMaps(ABC):
    """The maps of one input, small enough to keep those of all layers."""

    model: nn.Module
    """In evaluation mode."""
    size: tuple[int, ...]
    """Of the input."""
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False)
    """By layer and name."""
    refused: dict[str, Any] = field(default_factory=dict, init=False)
    """Layers that attend over something else, and over what."""
    missing: dict[str, str] = field(default_factory=dict, init=False)
    """Layers whose maps could not be seen, and why."""

    def gather(self, inputs: Tensor, where: Where = "*") -> Self:
        """Run the model for them.

        Args:
            inputs: one, as the model takes it.
            where: which attentions.

        Raises:
            ValueError: no attention is chosen or seen; none of those lies over the input.
        """
        with warnings.catch_warnings():
            # what is missing is in the result
            warnings.filterwarnings("ignore", message=r"the maps of \d+ attentions that ran are missing")
            self.missing = dict(attention_maps(self.model, inputs, where=where, reduce=self.take).missing)
        return self.checked()

    def take(self, layer: str, maps: dict[str, Tensor]) -> None:
        """The whole maps of a layer, of which little is kept."""
        named = self.reduce(layer, maps)
        if named:
            self.layers[layer] = named

    @property
    def ran(self) -> bool:
        """Whether any map was seen, of whatever it is."""
        return bool(self.layers or self.refused)

    def checked(self) -> Self:
        """Itself, once all layers ran.

        Raises:
            ValueError: there is nothing to draw.
        """
        if not self.layers:
            raise NothingToShow(self.nothing())
        return self

    @abstractmethod
    def reduce(self, layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept, by name, copied, for a view would keep the whole map; nothing of a layer that lies over something else."""

    @abstractmethod
    def nothing(self) -> str:
        """Why there is nothing."""
