"""What the page says of a finished run: answers on the images that judge it, how far its certainty can be trusted, and where it looked."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..._errors import InputError
from ...analysis import rollout
from ..data import DataBundle, Split

__all__ = ["Judged", "Reliability", "judged", "looked_at", "reliability"]

_BINS = 10


@dataclass(frozen=True)
class Judged:
    """Answers on a split."""

    probabilities: Tensor
    """``(N, K)``."""
    labels: Tensor
    confusion: Tensor
    """``(K, K)``, rows the truth."""

    @property
    def hits(self) -> int:
        return int(self.confusion.diagonal().sum())


@dataclass(frozen=True)
class Reliability:
    """Accuracy against certainty, by bins of equal width that hold something."""

    certainty: list[float]
    accuracy: list[float]
    counts: list[int]
    error: float
    """Expected calibration error: mean distance of the two, by count (Naeini et al. 2015; Guo et al. 2017)."""


@torch.no_grad()
def judged(model: nn.Module, split: Split, bundle: DataBundle, batch_size: int = 64) -> Judged:
    device, count = next(model.parameters()).device, len(bundle.classes)
    answers, labels = [], []
    for images, truth in DataLoader(split, batch_size=batch_size):  # type: ignore[arg-type]
        answers.append(model(images.to(device)).float().softmax(-1).cpu())
        labels.append(truth)
    probabilities, known = torch.cat(answers), torch.cat(labels)
    confusion = torch.bincount(known * count + probabilities.argmax(-1), minlength=count**2).view(count, count)
    return Judged(probabilities, known, confusion)


def reliability(found: Judged) -> Reliability:
    certainty, answer = found.probabilities.max(-1)
    right = answer == found.labels
    # a certainty on a bound belongs to the bin below it, and 0 to the first
    place = (certainty.double() * _BINS).ceil().long().clamp(1, _BINS) - 1
    rows = [
        (certainty[place == n].double().mean().item(), right[place == n].double().mean().item(), int((place == n).sum()))
        for n in range(_BINS)
        if bool((place == n).any())
    ]
    error = sum(count * abs(sure - true) for sure, true, count in rows) / len(right)
    return Reliability([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], error)


def looked_at(model: Any, images: Tensor) -> tuple[Tensor | None, str]:
    """Attention rollout over the grid, ``(B, h, w)``, or why there is none."""
    try:
        flow = rollout(model, images)
    except InputError as error:
        return None, f"no maps: {error}"
    side = math.isqrt(flow.shape[-1])
    prefix = getattr(model, "num_prefix_tokens", flow.shape[-1] - side**2)
    side = math.isqrt(flow.shape[-1] - prefix)
    if side < 2 or side**2 + prefix != flow.shape[-1]:
        return None, f"no maps: {flow.shape[-1]} tokens are no square grid"
    by_token = prefix and getattr(model, "global_pool", "token") == "token"
    rows = flow[:, 0] if by_token else flow[:, prefix:].mean(1)
    of = "class token" if by_token else "mean of tokens"
    return rows[:, prefix:].unflatten(
        -1, (side, side)
    ), f"Attention rollout of the {of}: what it gathers from each patch, through all layers. It shows where, not why."
