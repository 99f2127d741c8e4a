import pytest
import torch

from foveal import HaloAttention2d

from .halo_reach import ARMS, AWAY, BLOCK, SIDE, floor, train
from .proof import SEEDS


@pytest.mark.parametrize("halo_size", range(4))
def test_the_floor_is_what_the_layer_shows(halo_size) -> None:
    """Counted from the layer's own map, without training."""
    module = HaloAttention2d(4, num_heads=1, block_size=BLOCK, halo_size=halo_size)
    sees = (module.attention_map(torch.randn(1, 4, SIDE, SIDE))["combined"][0, 0] > 0).view(SIDE, SIDE, SIDE, SIDE)
    reached = [sees[y, x, y, x + AWAY].item() for y in range(SIDE) for x in range(SIDE - AWAY)]
    assert 1 - sum(reached) / len(reached) == pytest.approx(floor(halo_size))


def test_a_wide_halo_reaches_and_none_does_not() -> None:
    """Half of the steps are enough to tell."""
    assert train(0, 3, steps=150) < 0.01
    assert floor(0) < train(0, 0, steps=150) < 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_error_falls_with_the_halo(arm, seed) -> None:
    figure = arm.figure(seed)
    assert arm.gate[0] <= figure <= arm.gate[1]
    assert figure > arm.limit - 0.02, "nothing beats what its windows show"
