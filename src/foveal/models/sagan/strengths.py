"""Numbers of the two networks that say how a training goes: σ and λ of every attention, and how large every weight is before it is normalized.

Papers     σ: Zhang et al., SAGAN, 2018 (arXiv 1805.08318), eq. 2; largest singular values as a sign of collapse: Brock et al., BigGAN, 2018
           (arXiv 1809.11096), section 4.1
"""

import torch
from torch import Tensor, nn

from .cores import DenoisingCore
from .mixer import GanMixer
from .spectral import Spectral

__all__ = ["strengths"]


@torch.no_grad()
def strengths(model: nn.Module) -> dict[str, float]:
    """By name of the place: ``sigma_PLACE`` of every attention, ``lambda_PLACE`` of every denoising one, and ``norm_PLACE`` of every spectrally normalized
    weight, the largest singular value of the weight itself, as power iteration has followed it. One read of the device.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, GanMixer):
            values = {"sigma": module.sigma, "lambda": module.core.lambdas if isinstance(module.core, DenoisingCore) else None}
            found |= {f"{word}_{name}": value.squeeze() for word, value in values.items() if value is not None}
        if isinstance(module, Spectral):
            found |= {f"norm_{name}" + ("" if which == "weight" else f".{which}"): value for which, value in module.norms().items()}
    return dict(zip(found, torch.stack([value.double() for value in found.values()]).tolist(), strict=True)) if found else {}
