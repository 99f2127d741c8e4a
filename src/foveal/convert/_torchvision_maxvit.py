"""torchvision: MaxViT, whose block cuts windows or grids and gives them to its attention side by side.

Shapes     B images, G windows, N tokens of a window, C width
"""

from typing import Any

from torch import Tensor, nn

from ._host import Place, register_host
from ._parts import Scaled, only
from ._placed import Bias, Placed

__all__: list[str] = []


class SideBySidePlaced(Placed):
    """Called with windows side by side, ``(B, G, N, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x.flatten(0, 1), **self.options()).unflatten(0, x.shape[:2])


def _bias(table: Any) -> Tensor:
    return table.get_relative_positional_bias()


def _position(module: Any) -> Bias:
    return Bias(only(module, ("relative_position_bias_table", "relative_position_index")), _bias)


def _read(module: Any, model: nn.Module, name: str) -> Place:
    width = module.head_dim
    # its logits are divided by the root of the tokens' width, and not of the heads'
    factor = module.scale_factor * width**0.5
    return Place(
        dim=module.to_qkv.in_features,
        num_heads=module.n_heads,
        head_dim=width,
        qkv=module.to_qkv,
        proj=module.merge,
        q_norm=Scaled(nn.Identity(), factor) if abs(factor - 1) > 1e-6 else nn.Identity(),
        num_prefix_tokens=0,
        grid=(module.size, module.size),
        windows=None,
        position=_position(module),
    )


register_host("torchvision.models.maxvit.RelativePositionalMultiHeadAttention", _read, lambda module, ours: SideBySidePlaced(ours, _position(module)))
