"""From which size on oneDNN's 1×1 convolution beats the linear map of PyTorch's BLAS; sets the constant in ``foveal.attention._linear``."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.attention import _linear

from ._harness import Row, check_equal, inference, paired_ratio


class _Convolution(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        image = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
        return F.conv2d(image, self.linear.weight[:, :, None, None], self.linear.bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def rows() -> Iterator[Row]:
    for tokens, dim in ((65, 48), (197, 192), (256, 384), (197, 768), (1576, 768), (4097, 768)):
        linear, x = nn.Linear(dim, 3 * dim), torch.randn(1, tokens, dim)
        convolution = inference(_Convolution(linear), x)
        check_equal(convolution, inference(linear, x))
        ours, theirs, ratio = paired_ratio(convolution, inference(linear, x))
        taken = x.numel() * 3 * dim >= _linear._CONVOLUTION_PAYS
        target = "≤ 1 where taken" if taken else "not taken"
        yield Row(
            "linear map as a 1×1 convolution",
            f"(1, {tokens}, {dim}) → {3 * dim}",
            f"{1e3 * ours:.2f} ms",
            f"{1e3 * theirs:.2f} ms",
            ratio,
            target,
            not taken or ratio <= 1.02,
        )
