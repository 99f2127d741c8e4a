"""Where the attentions of a generator or of a discriminator look, with how much of what they gather is added.

Shapes     B batch, H·W pixels of the map that attends, keys of the map that is looked at, max-pooled in SAGAN's own form
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .mixer import GanMixer

__all__ = ["GanLook", "gan_attention"]


@dataclass(frozen=True)
class GanLook:
    """One place of attention."""

    name: str
    maps: dict[str, Tensor]
    """By name, ``(B, 1, H·W, keys)``; empty where pixels do not meet, and of blocks of the registry."""
    queries: tuple[int, int]
    """H and W."""
    keys: tuple[int, int]
    """Height and width of what is looked at."""
    sigma: float


@torch.no_grad()
def gan_attention(network: nn.Module, *inputs: Any) -> tuple[Tensor, list[GanLook]]:
    """What a network answers, and its places of attention in their order, named as its modules are.

    Args:
        network: a generator or discriminator, in the mode that it is to be seen in.
        inputs: what it is called with.
    """
    seen: dict[str, Tensor] = {}
    mixers = {name: module for name, module in network.named_modules() if isinstance(module, GanMixer)}
    hooks = [module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0])) for name, module in mixers.items()]
    try:
        answer = network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    looks = []
    for name, x in seen.items():
        mixer = mixers[name]
        assert mixer.sigma is not None, "without attention there is no mixer"
        maps, (height, width) = mixer.attention_map(x), x.shape[2:]
        count = maps["combined"].shape[-1] if maps else height * width
        pooled = (max(height // 2, 1), max(width // 2, 1))
        looks.append(GanLook(name, maps, (height, width), (height, width) if count == height * width else pooled, mixer.sigma.item()))
    return answer, looks
