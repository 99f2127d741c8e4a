import pytest
import torch

from .color_match import DRAWN, agreement, draw, strips


def test_agreement_is_one_of_the_strips_and_none_of_shuffled_halves() -> None:
    data, bundle, images = strips(0)
    colors = data.colors_of(images)
    assert agreement(colors) == 1
    shuffled = torch.stack([colors[:, 0], colors[torch.randperm(len(colors), generator=torch.Generator().manual_seed(0)), 1]], 1)
    assert abs(agreement(shuffled)) < 0.06
    assert len(bundle.train) == 4000


@pytest.mark.slow
def test_without_attention_the_colors_of_two_squares_are_independent() -> None:
    """A theorem: the halves of the noise are independent, and what is drawn on one follows from its own. κ of 1,000 strips has an error of some 0.02."""
    colors = draw(0, "none", steps=300)
    assert colors.shape == (DRAWN, 2)
    assert len(colors.unique()) > 1
    assert abs(agreement(colors)) < 0.08


@pytest.mark.slow
def test_where_patches_meet_the_colors_match() -> None:
    """As it fell: 0.52 after these 1,500 steps."""
    assert agreement(draw(0, "softmax")) > 0.3
