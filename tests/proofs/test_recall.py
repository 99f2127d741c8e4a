import pytest
import torch
import torch.nn.functional as F

import foveal
from foveal.functional import linear_attention_map

from .proof import SEEDS
from .recall import ARMS, CHANNELS, LINEAR_FLOOR, TYPES, VALUES, WIDTH, model, scenes


@pytest.mark.parametrize("normalization", ["softmax", "scaling"])
def test_eight_key_channels_are_enough_by_hand(normalization) -> None:
    """Channel t of the keys singles out the source of type t, and a query of type t reads that channel alone: where training stays behind, weights exist."""
    network = model(foveal.EfficientAttention2d(WIDTH, key_channels=TYPES, normalization=normalization))
    embed, block, head = network
    kinds, values = torch.arange(TYPES), torch.arange(VALUES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        embed.weight[:CHANNELS, :, 0, 0] = torch.eye(CHANNELS)
        strong = 40 if normalization == "softmax" else 1
        block.qkv.weight[kinds, kinds] = strong
        block.qkv.weight[TYPES + kinds, kinds] = strong
        if normalization == "softmax":
            block.qkv.weight[TYPES + kinds, TYPES] = strong
        block.qkv.weight[2 * TYPES + values, TYPES + 1 + values] = 1
        free = CHANNELS + values
        block.proj.weight[free, values] = 1 if normalization == "softmax" else 256
        head.weight[values, free] = 1
        x, y = scenes(20, torch.Generator().manual_seed(0))
        assert F.mse_loss(network(x), y) < 1e-6


def share(q: torch.Tensor, k: torch.Tensor) -> float:
    """Of the weight that queries give to the sources, the part that goes to their own; all sources weigh the same on average."""
    weights = 1 + F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    return (weights.trace() / weights.sum()).item()


def test_one_head_of_linear_attention_gives_the_right_source_a_quarter() -> None:
    """1 + cos is half a squared distance, between q̂ and −k̂; between two sets of T points, those of T pairs are at most 2/T of the sum over all T² pairs."""
    simplex = torch.eye(TYPES, dtype=torch.float64) - 1 / TYPES
    weights = linear_attention_map(simplex[None, None], simplex[None, None])[0, 0]
    assert weights.diagonal().sum() / weights.sum() == pytest.approx(2 / TYPES)
    assert share(simplex, simplex) == pytest.approx(2 / TYPES)
    torch.testing.assert_close(1 - weights[0, 0] ** 2 / weights[0].square().sum(), torch.tensor(LINEAR_FLOOR, dtype=torch.float64))
    for _ in range(100):
        q, k = torch.randn(2, TYPES, 16, dtype=torch.float64)
        assert share(q, k) < 2 / TYPES
    # climbing does not get past it either
    q, k = torch.randn(2, TYPES, 16, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([pair := torch.stack([q, k]).detach().requires_grad_()], lr=0.05)
    for _ in range(300):
        weights = 1 + F.normalize(pair[0], dim=-1) @ F.normalize(pair[1], dim=-1).mT
        optimizer.zero_grad()
        (-weights.trace() / weights.sum()).backward()
        optimizer.step()
    assert 0.99 * 2 / TYPES < share(*pair.detach()) < 2 / TYPES + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_who_can_single_out_a_pixel(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
