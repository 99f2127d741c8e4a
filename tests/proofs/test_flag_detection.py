import pytest

from .flag_detection import ARMS
from .proof import SEEDS


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_labels_of_boxes_need_the_whole_image(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
