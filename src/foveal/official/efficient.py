"""Checkpoints of cmsflash/efficient-attention.

The official block drops the key channels that its heads do not divide, in silence; their rows are in its checkpoints and do nothing. Such a file is refused.
"""

from torch import Tensor, nn

from ..attention import EfficientAttention2d
from ._fuse import fuse_qkv
from ._registry import State, kind

__all__: list[str] = []


def _conv2d(in_channels: int, key_channels: int, head_count: int, value_channels: int) -> nn.Module:
    return EfficientAttention2d(in_channels, key_channels=key_channels, value_channels=value_channels, num_heads=head_count)


@kind("efficient.conv2d", build=_conv2d)
def _translate_conv2d(state: State, **settings: int) -> dict[str, Tensor]:
    return fuse_qkv(state, ("queries", "keys", "values"), {"reprojection.": "proj."})
