"""Spectral norm against the singular values, and against PyTorch's own of the official code."""

import copy

import pytest
import torch

from foveal.models import SAGAN, GanMixer
from foveal.models.sagan import power_iterate_, strengths
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


@pytest.mark.parametrize("attention", ["sagan", "denoising", "external", "softmax", "none"])
def test_strengths_are_the_networks_own_numbers(attention) -> None:
    """Against singular values in float64, and σ and λ by hand; nothing moves by the asking."""
    torch.manual_seed(3)
    model = SAGAN(attention=attention, width=4, z_dim=8, attention_g=(1, 2), attention_d=(1,)).build(img_size=16, in_chans=1, num_classes=3)
    sigmas = {name: value for name, value in model.named_parameters() if name.endswith("sigma")}
    lambdas = {name: value for name, value in model.named_parameters() if name.endswith("lambdas")}
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
        for number, value in enumerate([*sigmas.values(), *lambdas.values()]):
            value.fill_(0.25 * number - 1)
    power_iterate_(model, 300)
    before = copy.deepcopy(model.state_dict())
    found = strengths(model.train())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    want = {f"sigma_{name.removesuffix('.sigma')}": value.item() for name, value in sigmas.items()}
    want |= {f"lambda_{name.removesuffix('.core.lambdas')}": value.item() for name, value in lambdas.items()}
    for name, module in model.named_modules():
        if isinstance(module, SpectralConv2d | SpectralLinear | SpectralEmbedding):
            want[f"norm_{name}"] = largest(module.weight)
        if type(module).__name__ == "ExternalCore":
            want |= {f"norm_{name}.{which}": largest(getattr(module.memory, which)) for which in ("memory_k", "memory_v")}
    # two values that lie near one another are told apart slowly
    assert found == pytest.approx(want, rel=1e-2)
    assert len(sigmas) == (0 if attention == "none" else 3)
    assert len(lambdas) == (3 if attention == "denoising" else 0)
