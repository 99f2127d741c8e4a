"""Where the points of a cloud look, layer by layer.

Shapes     B batch, H heads, N points, S slots
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .mixer import PointMixer

__all__ = ["LayerLook", "point_attention"]


@dataclass(frozen=True)
class LayerLook:
    """The maps of a layer and the points that they are of."""

    name: str
    xyz: Tensor
    """``(B, N, 3)``: of the cloud, or of those that a network sampled of it."""
    maps: dict[str, Tensor]
    """By name, ``(B, H, N, N)``, ``slots`` of external attention ``(B, H, N, S)``; empty where points do not meet."""


@torch.no_grad()
def point_attention(model: nn.Module, points: Tensor, *rest: Any) -> list[LayerLook]:
    """The maps of every :class:`PointMixer` of a network for these clouds, in the order in which layers run. In evaluation mode, whatever the network is in.

    Args:
        model: of ours, with its training mode left as it is.
        points: ``(B, N, C)``, coordinates first.
        rest: what else the network is called with, such as the classes of clouds.
    """
    mixers = {module: name for name, module in model.named_modules() if isinstance(module, PointMixer)}
    seen: list[tuple[str, dict[str, Tensor]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, PointMixer), "hooks are of mixers"
        seen.append((mixers[module], module.attention_map(*args)))

    hooks = [mixer.register_forward_pre_hook(keep) for mixer in mixers]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model(points, *rest)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    sampled = model.sampled_points(points) if hasattr(model, "sampled_points") else points[..., :3]  # type: ignore[operator]
    return [LayerLook(name, sampled, maps) for name, maps in seen]
