"""The Fréchet distance of two sets of features, as if each were a Gaussian.

Paper      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017 (arXiv 1706.08500), Eq. 6
Formula    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), covariances over n − 1
By         torchmetrics, in float64. It is biased by the number of images: compare numbers of equal n, beside the distance of real from real at that n
"""

from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from ...._errors import InputError
from ._network import Given, check_features

__all__ = ["frechet_distance"]


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """The distance, at least 0.

    Args:
        real: ``(n, d)``.
        drawn: ``(n, d)``.

    Raises:
        ValueError: fewer than 2 d images, whose covariance is singular or nearly so; sets of other sizes; values that are not finite.
    """
    check_features(2, real=real, drawn=drawn)
    count, dim = real.shape
    if count < 2 * dim:
        raise InputError(f"a Fréchet distance in {dim} features needs at least {2 * dim} images on each side, got {count}; draw more, or take fewer features")
    # by one process alone, which waits for no other
    metric = FrechetInceptionDistance(feature=Given(dim), sync_on_compute=False)
    metric.update(real.double().cpu(), real=True)
    metric.update(drawn.double().cpu(), real=False)
    return max(0.0, metric.compute().item())
