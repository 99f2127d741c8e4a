import numpy as np
import pytest
import torch

from foveal.lab.data import SolidPairs

from .proof import SEEDS
from .solid_pairs import ARMS, partner


def test_the_partner_of_a_point_is_the_other_solid_and_independent_of_its_own() -> None:
    """Read off the clouds: labels of one half say of the other what the other's own kinds say, and knowing one's kind does not help."""
    split = SolidPairs(train_clouds=400, val_clouds=1, test_clouds=1, num_points=8).load().train
    rows = []
    for _, labels in (split[n] for n in range(400)):
        left, right = int(labels[0]), int(labels[-1])
        for own, other in ((left, right), (right, left)):
            # kinds are sphere, cone, cube, cylinder: the first two are round
            assert int(partner(torch.tensor(own))) == (other // 2 < 2)
            rows.append((own // 2, own % 2))
    table = np.array([[sum(row == (kind, word) for row in rows) for word in (0, 1)] for kind in range(4)])
    assert np.abs(table[:, 1] / table.sum(1) - 0.5).max() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_a_point_knows_its_partner_by_the_attention_or_not_at_all(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
