import pytest
import torch

from foveal.lab.data import ColorMatch

from .color_judge import ARMS, Judge, hinge, strips
from .proof import SEEDS


def test_matching_and_other_strips_have_the_same_halves_and_colors_that_match_or_never_do() -> None:
    matched, others = strips(3, 300)
    data = ColorMatch()
    for images, equal in ((matched, True), (others, False)):
        colors = data.colors_of(images)
        assert bool(((colors[:, 0] == colors[:, 1]) == equal).all())
    original = ColorMatch(train_scenes=600, val_scenes=1, test_scenes=1, seed=3).load().train
    rights = {tuple(original[n][0][..., 6:].flatten().tolist()) for n in range(300, 600)}
    assert {tuple(image[..., 6:].flatten().tolist()) for image in others} == rights, "each right half is there once more"


def test_no_unit_of_the_judge_sees_both_squares_but_by_the_mixer() -> None:
    """The score of a strip is the sum of what its halves say, exactly: four strips made of two left and two right halves."""
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    # between the squares every strip is dark
    x[..., 3:9] = -0.8
    for attention in ("none", "pointwise", "external-slot", "external", "external-wide", "sagan", "denoising"):
        torch.manual_seed(0)
        model = Judge(attention).double().eval()
        if model.mixer.sigma is not None:
            torch.nn.init.ones_(model.mixer.sigma)
        crossed = torch.stack([torch.cat([x[a, ..., :6], x[b, ..., 6:]], -1) for a in (0, 1) for b in (0, 1)])
        with torch.no_grad():
            s = model(crossed)
        additive = (s[0] + s[3] - s[1] - s[2]).abs().item() < 1e-9
        assert additive == (attention in ("none", "pointwise", "external-slot")), attention


def test_the_hinge_loss_by_hand() -> None:
    assert hinge(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])).item() == pytest.approx(0.25 + 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_only_where_pixels_meet_can_matching_be_judged(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]


@pytest.mark.slow
@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.some is not None], ids=str)
def test_some_seed_of_what_mixes_judges_better_than_any_that_does_not_can(arm) -> None:
    assert arm.some is not None
    assert min(arm.figure(seed) for seed in SEEDS) <= arm.some[1]
