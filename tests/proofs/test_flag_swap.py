import numpy as np
import pytest
import torch

from foveal.lab.data import FlagSwap

from .flag_swap import ARMS
from .proof import SEEDS


def test_labels_follow_shape_and_flag() -> None:
    """Read off the clean image: a ring has a hole, a flag is what is bright and no shape."""
    split = FlagSwap(train_scenes=60, val_scenes=1, test_scenes=1, noise=0.0).load().train
    flags = 0
    for image, mask in (split[n] for n in range(60)):
        bright = image[0] > 0.5
        flag = bool((bright & (mask == 0)).any())
        flags += flag
        assert (bright & (mask == 0)).sum() == 5 * flag
        for half in (np.s_[:, :12], np.s_[:, 12:]):
            shape = mask[half] > 0
            rows, columns = torch.where(shape)
            assert (rows.max() - rows.min(), columns.max() - columns.min()) == (6, 6)
            ring = int(shape.sum()) == 49 - 9
            assert mask[half][shape].unique().tolist() == [1 + (ring ^ flag)]
    assert 15 < flags < 45


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_labels_need_the_whole_image(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
