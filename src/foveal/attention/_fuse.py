"""Fold what can be folded into weights, all over a model, for inference."""

from typing import TypeVar

from torch import nn

from .._errors import InputError
from .denoising import DenoisingAttention

__all__ = ["fuse_"]

Model = TypeVar("Model", bound=nn.Module)


def fuse_(model: Model) -> Model:
    """Fuse every denoising attention of a model in place, for inference: one projection, no sign and no λ left to apply. Outputs are equal but for rounding.

    There is no way back: save the model before, or fuse a copy. A state dict of the fused model has other names. A model from ``foveal.convert_`` can still be
    reverted. Fusing twice does nothing more.

    Args:
        model: in evaluation mode; a denoising attention, or anything that holds some.

    Returns:
        The model.

    Raises:
        ValueError: no denoising attention in it, one that trains, or one whose projections are more than linear maps. Nothing is changed then.

    Example:
        >>> attention = DenoisingAttention(dim=64, num_heads=4).eval()
        >>> x = torch.randn(2, 49, 64)
        >>> before = attention(x)
        >>> torch.allclose(fuse_(attention)(x), before, atol=1e-5)
        True
    """
    found = [module for module in model.modules() if isinstance(module, DenoisingAttention)]
    if not found:
        raise InputError("fuse_ found no denoising attention in this model, and has nothing to fold elsewhere; leave it out")
    for module in found:
        module.check_fusible()
    for module in found:
        module.fuse_()
    return model
