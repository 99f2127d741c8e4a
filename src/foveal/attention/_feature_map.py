"""What attentions on feature maps share: one set of argument names, and what a host has to know of them.

Shapes     B batch, C channels, H height, W width
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from .._errors import InputError
from ._base import Cost
from ._registry import AttentionConfig, AttentionModule

__all__ = ["FeatureMapAttention"]


class FeatureMapAttention(AttentionModule, ABC):
    """An attention on feature maps, ``(B, C, H, W)`` to the same, or to ``out_channels`` and a smaller map where it takes the place of a convolution.

    Args:
        channels: C; None where a block takes any number, and no weight depends on it.
        num_heads: heads.
        out_channels: channels that come out; ``channels`` if None.

    Raises:
        ValueError: ``channels`` or ``num_heads`` below 1.
    """

    Config: ClassVar[type[AttentionConfig]]

    is_residual: ClassVar[bool] = True
    """Whether the block adds its input itself, unless an option ``residual`` says otherwise. One that does not stands in the place of a convolution."""
    heads_of_place: ClassVar[bool] = False
    """Whether ``num_heads`` is the host's to say, as ``channels`` is; else it is an option, or there is one head."""

    def __init__(self, channels: int | None, num_heads: int = 1, *, out_channels: int | None = None) -> None:
        super().__init__()
        for what, value in (("channels", channels), ("num_heads", num_heads)):
            if value is not None and value < 1:
                raise InputError(f"{type(self).__name__}: {what} must be at least 1, got {value}")
        self.channels, self.num_heads = channels, num_heads
        self.out_channels = channels if out_channels is None else out_channels

    @abstractmethod
    def attention_map(self, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The maps of this input; ``combined`` is always among them."""

    @abstractmethod
    def cost(self, height: int, width: int) -> Cost:
        """Parameters, and multiply-adds for one sample of that size."""

    def no_weight_decay(self) -> set[str]:
        """Names of own parameters that are not the weights of a linear map, and should not decay."""
        return set()
