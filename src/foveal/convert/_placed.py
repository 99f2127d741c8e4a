"""One of our attentions where a host adds positions or masks of its own. They are put together here, once for all hosts.

Shapes     B batch, H heads, N tokens, C width
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from .._fx import Leaf
from ..attention import TokenAttention
from ..attention._base import Rope
from ..attention._grid import set_grid_

__all__ = ["SHIFTED", "Bias", "Placed", "WindowPlaced"]

SHIFTED = "its windows are shifted, and a mask keeps apart what does not belong together"


class Bias(nn.Module):
    """A host's bias of pairs: what it owns for it, and how it is computed."""

    def __init__(self, table: nn.Module, compute: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.table, self.compute = table, compute

    def forward(self) -> Tensor:
        """``(1, H, N, N)`` or ``(H, N, N)``, added to the logits."""
        return self.compute(self.table)


class Placed(Leaf):
    """An attention of ours with the host's bias of pairs, if it has pairs.

    Args:
        attn: ours.
        position: the host's bias, see :class:`Bias`; dropped where ``attn`` has no pairs.
    """

    def __init__(self, attn: nn.Module, position: nn.Module | None = None) -> None:
        super().__init__()
        assert isinstance(attn, TokenAttention), "conversion builds these"
        self.attn = attn
        self.position = position if attn.has_pairwise_logits else None
        self.dim, self.num_heads = attn.dim, attn.num_heads

    def options(
        self, mask: Tensor | None = None, bias: Tensor | None = None, rope: Rope | None = None, context: Tensor | None = None, is_causal: bool = False
    ) -> dict[str, Any]:
        """How the attention is called.

        Args:
            mask: of the host's caller, as ours are. It is honored or refused, never dropped.
            bias: of the host's model, ``(H, N, N)`` or ``(B, H, N, N)``, added to the logits; without pairs it is dropped, as the report says.
            rope: rotary positions, dropped where there are neither queries nor keys to turn.
            context: what is read, if not the tokens that ask.
            is_causal: a token looks only at itself and those before it.
        """
        options: dict[str, Any] = {}
        if self.attn.has_pairwise_logits:
            biases = [] if self.position is None else [self.position()]
            biases += [] if bias is None else [bias]
            for part in biases:
                part = part if part.ndim == 4 else part[None]
                mask = part if mask is None else _plus(part, mask)
        if mask is not None:
            options["attn_mask"] = mask
        if is_causal:
            options["is_causal"] = True
        if rope is not None and self.attn.takes_rotary:
            options["rope"] = rope
        if context is not None:
            options["context"] = context
        return options

    def set_window_size(self, size: tuple[int, int]) -> None:
        """timm asks for it when the size of the images changes."""
        if self.position is not None:
            self.position.table.set_window_size(size)  # type: ignore[union-attr,operator]
        set_grid_(self.attn, size)


class WindowPlaced(Placed):
    """Windows as Swin calls their attention: all windows of all images in one batch, and a mask a window."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B · windows, N, C)``; ``mask`` is ``(windows, N, N)``, added to the logits."""
        if mask is None:
            return self.attn(x, **self.options())
        if not self.attn.has_pairwise_logits:
            raise InputError(
                f"the windows are shifted now, and a mask keeps apart what does not belong together; {type(self.attn).__name__} has no pairs to mask"
            )
        return self.attn(x, **self.options(bias=mask.repeat(x.shape[0] // mask.shape[0], 1, 1)[:, None]))


def _plus(bias: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return bias + mask
    return torch.where(mask, bias, torch.full((), float("-inf"), dtype=bias.dtype, device=bias.device))
