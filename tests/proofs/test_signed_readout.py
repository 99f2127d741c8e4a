import pytest

from .proof import SEEDS
from .signed_readout import ARMS


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_what_a_sign_buys(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
