"""The losses and metrics of classification against sums written out."""

import math
from dataclasses import replace

import pytest
import torch

from foveal.lab.data import Digits
from foveal.lab.tasks import Classification
from foveal.lab.training import load_data

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]], dtype=torch.float64)


def binary(logits: torch.Tensor, present: list[list[int]]) -> float:
    """Written out."""
    terms = []
    for row, wanted in zip(logits.tolist(), present, strict=True):
        for logit, there in zip(row, wanted, strict=True):
            chance = 1 / (1 + math.exp(-logit))
            terms.append(-math.log(chance if there else 1 - chance))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("targets", "present"),
    [
        (torch.tensor([2, 0]), [[0, 0, 1], [1, 0, 0]]),
        # of a mixture, what is more than a fifth is there
        (torch.tensor([[0.7, 0.3, 0.0], [0.9, 0.0, 0.1]]), [[1, 1, 0], [1, 0, 0]]),
    ],
)
def test_binary_cross_entropy_is_the_sum_written_out(targets, present) -> None:
    loss = Classification(bce=True).loss(torch.nn.Identity(), LOGITS, targets)
    assert loss.item() == pytest.approx(binary(LOGITS, present), rel=1e-6)


def test_top_five_is_counted_where_there_are_many_classes() -> None:
    bundle = load_data(Digits(source="digits"))
    task = Classification()
    assert "top5_accuracy" not in task.metrics(bundle)
    many = replace(bundle, classes=[str(n) for n in range(30)])
    metrics = task.metrics(many)
    logits, labels = torch.randn(200, 30, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 30
    task.update(metrics, logits[:120], labels[:120])
    task.update(metrics, logits[120:], labels[120:])
    found = task.summarize(metrics, many)
    among = [label in row.topk(5).indices.tolist() for row, label in zip(logits, labels.tolist(), strict=True)]
    assert found["top5_accuracy"] == pytest.approx(sum(among) / 200)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
