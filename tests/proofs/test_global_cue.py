import pytest
import torch

from .global_cue import ARMS, SIDE, halo, model, scenes, seen
from .proof import SEEDS


@pytest.mark.parametrize(("block", "window"), [(torch.nn.Identity, False), (halo, True)], ids=["no attention", "halo"])
def test_the_limit_is_what_the_model_sees(block, window) -> None:
    """Counted by gradients: which pixels' outputs depend on where the mark is."""
    network, shown = model(block()).double(), 0
    x = torch.rand(1, 2, SIDE, SIDE, dtype=torch.float64)
    columns = range(SIDE)
    for column in columns:
        inputs = x.clone().requires_grad_()
        # a sum over the rows of one column: reach is a product of reach along either side
        network(inputs)[0, :, column].sum().backward()
        shown += (inputs.grad[0].abs().sum((0, 1)) > 0).sum().item()
    assert (shown / SIDE**2) ** 2 == pytest.approx(seen(1, window))


def test_scenes_flip_with_the_mark() -> None:
    x, y = scenes(200, 6, torch.Generator().manual_seed(0))
    mark = x[:, 1].sum((1, 2)) / 36
    assert mark.abs().eq(1).all()
    assert mark.sum() == 0
    assert torch.equal(2 * y - 1, -x[:, 0] * mark.view(-1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_reach_decides(arm, seed) -> None:
    assert arm.gate[0] <= arm.figure(seed) <= arm.gate[1]
