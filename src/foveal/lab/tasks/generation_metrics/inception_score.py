"""How sure a classifier is of each image, and how far the images are spread over its classes: from 1 to the number of classes.

Paper      Salimans et al., "Improved Techniques for Training GANs", 2016 (arXiv 1606.03498), Sec. 4
Formula    exp E KL(p(y | x) ‖ p(y)), p(y) the mean over all images
By         torchmetrics, in one piece. Only with Inception's answers is it the Inception score; with a classifier of digits it is its analogue on digits
"""

from torch import Tensor
from torchmetrics.image.inception import InceptionScore

from ...._errors import InputError
from ._network import Given, unnoticed

__all__ = ["inception_score"]


def inception_score(logits: Tensor) -> float:
    """The score of images whose logits are ``(n, K)``.

    Raises:
        ValueError: no image, or logits that are not finite.
    """
    if logits.ndim != 2 or not len(logits) or not logits.isfinite().all():
        raise InputError(f"expected finite logits (n, K) of at least one image, got {tuple(logits.shape)}")
    with unnoticed():
        metric = InceptionScore(feature=Given(logits.shape[1]), splits=1, sync_on_compute=False)
        metric.update(logits.double().cpu())
        return metric.compute()[0].item()
