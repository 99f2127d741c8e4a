"""The kernel distance of two sets of features: squared maximum mean discrepancy under a cubic kernel, without bias, so that it may fall below 0.

Paper      Bińkowski et al., "Demystifying MMD GANs", 2018 (arXiv 1801.01401), Sec. 4
Formula    mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y), x ≠ x′ and y ≠ y′;   k(x, y) = (x · y / d + 1)³
By         torchmetrics, once over all images and not over random subsets, so that it is one number
"""

from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from ._network import Given, check_features, unnoticed

__all__ = ["kernel_distance"]


def kernel_distance(real: Tensor, drawn: Tensor) -> float:
    """The distance; around 0 for two samples of the same images.

    Args:
        real: ``(n, d)``.
        drawn: ``(n, d)``.

    Raises:
        ValueError: fewer than two images; sets of other sizes; values that are not finite.
    """
    check_features(2, real=real, drawn=drawn)
    with unnoticed():
        metric = KernelInceptionDistance(feature=Given(real.shape[1]), subsets=1, subset_size=len(real), sync_on_compute=False)
        metric.update(real.double().cpu(), real=True)
        metric.update(drawn.double().cpu(), real=False)
        return metric.compute()[0].item()
