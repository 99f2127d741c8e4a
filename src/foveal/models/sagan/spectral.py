"""Spectral norm, as adversarial networks have it: a weight is divided by its largest singular value, which power iteration follows as the weight moves.

Paper      Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018 (arXiv 1802.05957), Alg. 1.
Official   ``torch.nn.utils.spectral_norm``, which PyTorch-StudioGAN uses; that of ``parametrizations`` iterates in the other order.
Formula    v ← Wᵀu / ‖Wᵀu‖;  u ← Wv / ‖Wv‖;  W / (uᵀWv); one iteration in each forward pass of training, none in evaluation
Differs    W stays a parameter by its own name, so that reading it moves nothing. u and v begin settled, and not of the weight before its initialization.

Shapes     W weight as a matrix, (R, C)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...functional._precision import whole_precision, wide

__all__ = ["SETTLED", "PowerIteration", "Spectral", "SpectralConv2d", "SpectralEmbedding", "SpectralLinear", "power_iterate_"]

_EPS = 1e-6
SETTLED = 15
"""Iterations with which u and v begin, as in PyTorch's ``parametrizations``."""


class PowerIteration(nn.Module):
    """Holds u, ``(R,)``, and v, ``(C,)``, of one weight; in float32 also where the weight is half."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("u", F.normalize(torch.randn(rows), dim=0, eps=_EPS))
        self.register_buffer("v", F.normalize(torch.randn(columns), dim=0, eps=_EPS))
        self.u: Tensor
        self.v: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """The weight divided by its largest singular value, of its shape."""
        with whole_precision(weight):
            matrix = wide(weight.flatten(1))
            if self.training:
                self.iterate_(matrix, 1)
            # copies: another forward pass before the backward one moves the buffers
            u, v = self.u.to(matrix.dtype).clone(), self.v.to(matrix.dtype).clone()
            return (wide(weight) / torch.dot(u, torch.mv(matrix, v))).to(weight.dtype)

    @torch.no_grad()
    def norm(self, weight: Tensor) -> Tensor:
        """The largest singular value of the weight as it is, as far as it has been followed: uᵀWv, in whole precision; nothing moves."""
        with whole_precision(weight):
            matrix = wide(weight.flatten(1))
            return torch.dot(self.u.to(matrix.dtype), torch.mv(matrix, self.v.to(matrix.dtype)))

    @torch.no_grad()
    def iterate_(self, weight: Tensor, count: int) -> None:
        matrix = wide(weight.detach().flatten(1))
        u, v = self.u.to(matrix.dtype), self.v.to(matrix.dtype)
        for _ in range(count):
            v = F.normalize(torch.mv(matrix.mT, u), dim=0, eps=_EPS)
            u = F.normalize(torch.mv(matrix, v), dim=0, eps=_EPS)
        self.u.copy_(u)
        self.v.copy_(v)


class Spectral(nn.Module):
    """A layer whose weight is normalized."""

    weight: nn.Parameter
    spectral: PowerIteration

    def normalized(self) -> Tensor:
        return self.spectral(self.weight)

    def norms(self) -> dict[str, Tensor]:
        """The largest singular values that are divided by, by parameter."""
        return {"weight": self.spectral.norm(self.weight)}

    def iterate_(self, count: int) -> None:
        """Bring what is followed up to the weight as it is."""
        self.spectral.iterate_(self.weight, count)

    def reset_(self) -> None:
        """Orthogonal weights and no bias, as officially."""
        if self.weight.is_meta:
            return
        nn.init.orthogonal_(self.weight)
        bias = getattr(self, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)
        self.iterate_(SETTLED)


class SpectralConv2d(Spectral, nn.Conv2d):  # type: ignore[misc]
    """A convolution that keeps the size of the map, with stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.spectral = PowerIteration(self.weight)
        self.reset_()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized(), self.bias, padding=self.padding)


class SpectralLinear(Spectral, nn.Linear):  # type: ignore[misc]
    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Linear.__init__(self, in_features, out_features)
        self.spectral = PowerIteration(self.weight)
        self.reset_()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized(), self.bias)


class SpectralEmbedding(Spectral, nn.Embedding):  # type: ignore[misc]
    def __init__(self, num_embeddings: int, dim: int) -> None:
        nn.Embedding.__init__(self, num_embeddings, dim)
        self.spectral = PowerIteration(self.weight)
        self.reset_()

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.normalized())


def power_iterate_(model: nn.Module, count: int = 2) -> None:
    """So many power iterations on all weights of a model as they are: after weights were averaged, whose u and v no average of u and v gives."""
    for module in model.modules():
        if isinstance(module, Spectral):
            module.iterate_(count)
