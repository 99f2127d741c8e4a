"""Latents of drawn images: each follows from numbers of its own, whatever else is drawn, cut off and scaled as asked.

Paper      the truncation trick: Brock et al., BigGAN, 2018 (arXiv 1809.11096), section 3.1
Formula    z_j ~ N(0, 1); where |z_j| > T another, of N(0, 1) given |z_j| ≤ T; then ψ z
Differs    What lies beyond T is not drawn until it lies within, but once, by the inverse of the distribution function: the same distribution for every T,
           where a loop does not end if T is small.

Shapes     Z width of a latent
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import InputError
from ..data import seed_of

__all__ = ["Latents"]


@dataclass(frozen=True)
class Latents:
    """How latents of this width are drawn.

    Raises:
        ValueError: a truncation or a scale that is not above 0 and finite.
    """

    width: int
    truncation: float | None = None
    """The largest magnitude of an entry; without bound if None."""
    scale: float | None = None
    """What entries are multiplied by; nothing if None."""

    def __post_init__(self) -> None:
        for name, value in (("truncation", self.truncation), ("latent_scale", self.scale)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {value}")

    def draw(self, *parts: Any) -> Tensor:
        """``(Z,)``, which follows from ``parts``."""
        generator = torch.Generator().manual_seed(seed_of(*parts))
        z = torch.randn(self.width, generator=generator)
        if self.truncation is not None:
            z = torch.where(z.abs() > self.truncation, _within(self.truncation, self.width, generator).to(z.dtype), z)
        return z if self.scale is None else self.scale * z


def _within(bound: float, width: int, generator: torch.Generator) -> Tensor:
    """``(Z,)`` of the normal distribution between −bound and bound, in float64. As many numbers are drawn for every bound, so that it moves no others."""
    place = 2 * torch.rand(width, generator=generator, dtype=torch.float64) - 1
    # rounding may end beyond the bound, and at a place of −1 and a large bound it ends at infinity
    return (math.sqrt(2) * torch.erfinv(place * math.erf(bound / math.sqrt(2)))).clamp(-bound, bound)
