"""What one call of a network costs that takes more than a tensor."""

from typing import Any

import torch
from torch import Tensor, nn

from ...attention import Cost

__all__ = ["cost_of"]


def cost_of(model: nn.Module, *args: Any, **named: Any) -> Cost:
    """All parameters, and the multiply-adds of one call.

    Args:
        model: the network.
        args: what it takes, tensors and dictionaries of them; brought to where it is.
        named: likewise, by name.
    """
    # takes longer to import than all of a task
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device

    def here(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else {name: here(part) for name, part in value.items()}

    # without what gradients need the counter trips over a view of a parameter, which CATT's dictionaries are
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        model(*map(here, args), **here(named))
    return Cost(parameters=sum(value.numel() for value in model.parameters()), macs=counter.get_total_flops() // 2)
