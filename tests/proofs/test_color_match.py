import pytest
import torch

from .color_match import ARMS, DRAWN, agreement, draw, share, strips
from .proof import SEEDS


def test_agreement_is_one_of_the_strips_and_none_of_shuffled_halves() -> None:
    data, bundle, images = strips(0)
    colors = data.colors_of(images)
    assert agreement(colors) == 1
    shuffled = torch.stack([colors[:, 0], colors[torch.randperm(len(colors), generator=torch.Generator().manual_seed(0)), 1]], 1)
    assert abs(agreement(shuffled)) < 0.06
    assert len(bundle.train) == 4000
    assert share(colors) == 1
    assert share(shuffled) < 0.35


@pytest.mark.slow
def test_without_attention_the_colors_of_two_squares_are_independent() -> None:
    """A theorem, so it holds after few steps too. κ of 1,000 strips has an error of some 0.02."""
    colors = draw(0, "none", steps=300)
    assert colors.shape == (DRAWN, 2)
    assert len(colors.unique()) > 1
    assert abs(agreement(colors)) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_where_patches_meet_the_colors_match_and_elsewhere_not(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
