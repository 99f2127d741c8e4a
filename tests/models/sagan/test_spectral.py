"""Spectral norm against the singular values, and against PyTorch's own of the official code."""

import copy

import pytest
import torch

from foveal.models import GanMixer
from foveal.models.sagan import power_iterate_
from foveal.models.sagan.spectral import Spectral, SpectralConv2d, SpectralEmbedding, SpectralLinear


def largest(weight: torch.Tensor) -> float:
    return torch.linalg.svdvals(weight.detach().flatten(1).double())[0].item()


def test_it_iterates_as_the_official_one_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 5, 3, padding=1), eps=1e-6).double()
    ours = SpectralConv2d(3, 5, 3).double()
    with torch.no_grad():
        ours.weight.copy_(theirs.weight_orig)
        ours.bias.copy_(theirs.bias)
        ours.spectral.u.copy_(theirs.weight_u)
        ours.spectral.v.copy_(theirs.weight_v)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for training in (True, True, False, True):
        theirs.train(training)
        ours.train(training)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.spectral.u, theirs.weight_u, rtol=1e-10, atol=1e-12)
    u = ours.spectral.u.clone()
    ours.eval()(x)
    assert torch.equal(ours.spectral.u, u)
    assert ours.weight.is_leaf
    copy.deepcopy(ours)


@pytest.mark.parametrize("make", [lambda: SpectralConv2d(4, 6, 3), lambda: SpectralLinear(7, 5), lambda: SpectralEmbedding(6, 4)])
def test_it_begins_orthogonal_and_settled(make) -> None:
    torch.manual_seed(1)
    layer = make().eval()
    matrix = layer.weight.detach().flatten(1)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
    assert largest(layer.normalized()) == pytest.approx(1, abs=1e-4)


def test_two_iterations_on_averaged_weights_are_within_a_percent() -> None:
    """u and v of one network on the average of two that lie near: as behind an average of weights."""
    torch.manual_seed(2)
    model = torch.nn.Sequential(SpectralConv2d(8, 8, 3), GanMixer(8, "external"), SpectralLinear(8, 8))
    for module in model.modules():
        if isinstance(module, Spectral):
            for value in module.parameters(recurse=False):
                torch.nn.init.normal_(value)
            module.iterate_(100)
    average = copy.deepcopy(model)
    with torch.no_grad():
        for value in average.parameters():
            value.add_(0.05 * torch.randn_like(value))
    power_iterate_(average, 2)
    checked = 0
    for module in average.eval().modules():
        if isinstance(module, Spectral) and hasattr(module, "spectral"):
            assert largest(module.normalized()) == pytest.approx(1, abs=0.01)
            checked += 1
    assert checked == 4
    core = average[1].core
    for memory in core._memories():
        assert largest(memory) == pytest.approx(1, abs=0.01)
