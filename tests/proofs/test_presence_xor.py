import pytest
import torch

import foveal

from .presence_xor import ARMS, GRID, TOKENS, WIDTH
from .proof import SEEDS


@pytest.mark.parametrize(("halo_size", "layers", "tokens"), [(0, 1, 4), (0, 5, 4), (1, 1, 9), (1, 2, 16)])
def test_what_a_corner_learns_of_through_halo_layers(halo_size, layers, tokens) -> None:
    """Closed blocks stay closed at any depth; a halo of 1 opens the grid in two layers."""
    attentions = [foveal.create_attention("halo", WIDTH, 4, **GRID, halo_size=halo_size).double() for _ in range(layers)]
    x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    out = x
    for attention in attentions:
        out = out + attention(out)
    out[0, 0].sum().backward()
    assert (x.grad[0].abs().sum(-1) > 0).sum() == tokens


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_what_mixes_tokens_solves_it_and_what_does_not_stays_at_its_limit(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
