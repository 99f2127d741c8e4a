"""Principal angles between the subspaces that the two branches of denoising attention read their values from.

The paper wants V⁺ and V⁻ to span subspaces with large principal angles. Nothing in its loss asks for it, and its code does not measure it. So we print the
angle between the row spaces of W_V⁺ and W_V⁻ of each head, which needs no data, and beside it what random subspaces of the same size show: two random
64-dimensional subspaces of a 768-dimensional space already lie 57° apart at the nearest and 76° on average.

Source     Björck & Golub, "Numerical methods for computing angles between linear subspaces", 1973
"""

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import DenoisingAttention, SoftmaxAttention

__all__ = ["HeadAngles", "chance_angles", "lambdas", "neighbor_angles", "principal_angles", "value_angles", "value_overlap"]


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between the column spaces of ``a`` ``(n, p)`` and ``b`` ``(n, q)``, in degrees, smallest first, ``(min(rank a, rank b),)``.

    Computed in float64. Angles below 45° come from sines and those above from cosines: arccos alone loses everything below about 0.03° in float32.

    Raises:
        ValueError: the two do not lie in the same space, or one of them is zero.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[0]:
        raise InputError(f"expected two matrices with as many rows, (n, p) and (n, q), got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = _basis(a), _basis(b)
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosines = torch.linalg.svdvals(a.mT @ b).clamp(max=1.0)
    # b's part outside of a; its singular values come in the opposite order
    sines = torch.linalg.svdvals(b - a @ (a.mT @ b)).clamp(max=1.0).flip(0)
    return torch.where(cosines > 0.5**0.5, sines.asin(), cosines.acos()).rad2deg()


def chance_angles(space: int, dim: int, *, samples: int = 64, seed: int = 0) -> tuple[float, float]:
    """Smallest and mean principal angle of two random ``dim``-dimensional subspaces of a ``space``-dimensional space, in degrees, averaged over samples."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randn(samples, 2, space, dim, generator=generator, dtype=torch.float64)
    angles = torch.stack([principal_angles(a, b) for a, b in pairs])
    return angles[:, 0].mean().item(), angles.mean().item()


@dataclass(frozen=True)
class HeadAngles:
    """Of one head, in degrees."""

    layer: str
    head: int
    smallest: float
    mean: float


def value_angles(model: nn.Module) -> list[HeadAngles]:
    """Principal angles between the row spaces of W_V⁺ and W_V⁻, for every head of every denoising attention with values apart."""
    out = []
    for layer, module in model.named_modules():
        if _has_values_apart(module):
            for head, (positive, negative) in enumerate(zip(*_value_weights(module), strict=True)):
                angles = principal_angles(positive.mT, negative.mT)
                out.append(HeadAngles(layer, head, angles[0].item(), angles.mean().item()))
    return out


def neighbor_angles(model: nn.Module) -> list[HeadAngles]:
    """Principal angles between the value row spaces of each head and the next, in every softmax attention: what ordinary heads show."""
    out = []
    for layer, module in model.named_modules():
        if isinstance(module, SoftmaxAttention):
            values = module.qkv.weight[2 * module.inner_dim :].unflatten(0, (module.num_heads, -1))
            for head in range(module.num_heads - 1):
                angles = principal_angles(values[head].mT, values[head + 1].mT)
                out.append(HeadAngles(layer, head, angles[0].item(), angles.mean().item()))
    return out


def value_overlap(model: nn.Module) -> Tensor:
    """How much V⁺ and V⁻ read the same: mean cos² of their principal angles over all heads, 0 for orthogonal to 1 for equal spaces.

    Differentiable, to be added to a loss. This penalty is our extension: the paper's wider angles do not come by themselves.

    Raises:
        ValueError: there is no denoising attention with values apart.
    """
    overlaps = []
    for module in model.modules():
        if _has_values_apart(module):
            positive, negative = (torch.linalg.qr(weight.mT.float()).Q for weight in _value_weights(module))
            overlaps.append((positive.mT @ negative).square().sum((-2, -1)).mean() / module.head_dim)
    if not overlaps:
        raise InputError("the overlap of values needs a denoising attention with values of its own in both branches; this model has none")
    return torch.stack(overlaps).mean()


def lambdas(model: nn.Module) -> dict[str, list[float]]:
    """λ of every head of every denoising and every centered softmax attention, by layer."""
    found = {layer: module.lambdas for layer, module in model.named_modules() if isinstance(module, DenoisingAttention | SoftmaxAttention)}
    return {layer: value.tolist() for layer, value in found.items() if value is not None}


def _has_values_apart(module: nn.Module) -> TypeGuard[DenoisingAttention]:
    if isinstance(module, DenoisingAttention) and module.fused and not module.shared_values:
        raise InputError("the values of a fused denoising attention have λ folded in; take the angles before foveal.fuse_")
    return isinstance(module, DenoisingAttention) and module.v_neg is not None


def _value_weights(module: DenoisingAttention) -> tuple[Tensor, Tensor]:
    """W_V⁺ and W_V⁻ by head, ``(H, D, C)`` each."""
    assert module.v_neg is not None, "values are apart"
    positive = module.qkv.weight[2 * module.inner_dim :]
    return positive.unflatten(0, (module.num_heads, -1)), module.v_neg.weight.unflatten(0, (module.num_heads, -1))


def _basis(matrix: Tensor) -> Tensor:
    """Orthonormal columns that span those of the matrix; directions that rounding made are dropped."""
    u, s, _ = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    tolerance = max(matrix.shape) * torch.finfo(matrix.dtype).eps * s.max()
    rank = int((s > tolerance).sum())
    if rank == 0:
        raise InputError("a zero matrix spans no space; principal angles need at least one direction")
    return u[:, :rank]
