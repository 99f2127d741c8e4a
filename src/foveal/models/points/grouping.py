"""Sampling a cloud down, each sample with its neighborhood: the neighbor embedding of PCT.

Paper      Guo et al., "PCT: Point Cloud Transformer", 2021 (arXiv 2012.09688), Sec. 3.3.
Official   MenghaoGuo/PCT, ``sample_and_group`` and ``Local_op``

Shapes     B batch, N points, n samples, k neighbors, D features, C channels
"""

import torch
from torch import Tensor, nn

from ...functional.points import farthest_points, gather_points, nearest_points

__all__ = ["Local", "conv_norm", "sample_and_group"]


def sample_and_group(xyz: Tensor, features: Tensor, n: int, k: int, *, skip_origin: bool = False) -> tuple[Tensor, Tensor]:
    """Farthest points, and for each the features of its nearest points beside its own.

    Args:
        xyz: ``(B, N, 3)``.
        features: ``(B, N, D)``.
        n: samples.
        k: neighbors, of all N points and by coordinates, the sample itself among them.
        skip_origin: see :func:`foveal.functional.points.farthest_points`.

    Returns:
        The samples' coordinates, ``(B, n, 3)``, and ``[f_j − f_c, f_c]`` for each neighbor j of sample c, ``(B, n, k, 2D)``.
    """
    index = farthest_points(xyz, n, skip_origin=skip_origin)
    centers = gather_points(xyz, index)
    neighbors = gather_points(features, nearest_points(centers, xyz, k))
    own = gather_points(features, index).unsqueeze(2).expand_as(neighbors)
    return centers, torch.cat([neighbors - own, own], -1)


def conv_norm(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Sequential:
    """A map of each point by itself, batch norm, ReLU."""
    return nn.Sequential(nn.Conv1d(in_channels, out_channels, 1, bias=bias), nn.BatchNorm1d(out_channels), nn.ReLU())


class Local(nn.Module):
    """Neighborhoods to features: two maps of each neighbor, the largest of each channel.

    Shape:
        ``(B, n, k, D) -> (B, C, n)``.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_norm(in_channels, channels), conv_norm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        return self.conv2(self.conv1(x.flatten(0, 1).mT)).amax(-1).unflatten(0, (batch, -1)).mT
