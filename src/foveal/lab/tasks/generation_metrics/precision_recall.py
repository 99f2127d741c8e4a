"""Improved precision and recall: how many drawn images lie where real ones do, and how many real ones where drawn ones do.

Paper      Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019 (arXiv 1904.06991), Eq. 1 and 2
Formula    a point lies in a set if, for any x of it, it is no farther from x than x's k-th nearest other point of the set
It is not StudioGAN's pair of F₈ and F₁/₈, which counts clusters.
"""

import torch
from torch import Tensor

from ._network import check_features

__all__ = ["NEIGHBORS", "precision_recall"]

NEIGHBORS = 3
"""k of the paper."""


def precision_recall(real: Tensor, drawn: Tensor, *, k: int = NEIGHBORS) -> tuple[float, float]:
    """Share of drawn images among the real ones, and of real images among the drawn ones.

    Args:
        real: ``(n, d)``.
        drawn: ``(n, d)``.
        k: which neighbor says how far a point reaches.

    Raises:
        ValueError: at most k images; sets of other sizes; values that are not finite.
    """
    check_features(k + 1, real=real, drawn=drawn)
    real, drawn = real.double(), drawn.double()
    between = _distances(real, drawn)
    precision = (between <= _reach(real, k)[:, None]).any(0)
    recall = (between <= _reach(drawn, k)[None]).any(1)
    return precision.double().mean().item(), recall.double().mean().item()


def _reach(points: Tensor, k: int) -> Tensor:
    distances = _distances(points, points)
    distances.fill_diagonal_(torch.inf)
    return distances.kthvalue(k).values


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # not by ‖a‖² + ‖b‖² − 2ab, which loses what is near
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
