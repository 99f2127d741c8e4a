"""The published networks at their full width: a step of both on the smallest batch, and that the attention begins as none."""

import pytest
import torch

from foveal.lab.data import ImageBundle
from foveal.lab.tasks import AdversarialGeneration, parameters_of
from foveal.models import SAGAN


@pytest.mark.parametrize("attention", ["sagan", "external"])
def test_a_step_of_the_published_networks_at_32_pixels(attention) -> None:
    torch.manual_seed(0)
    task = AdversarialGeneration(bn="batch")
    model = SAGAN(attention=attention).build(img_size=32, in_chans=3, num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 4_386_308 + 1_075_586
    bundle = ImageBundle([], [], [], [str(n) for n in range(10)], 32, 3, lambda image: image, size=(32, 32))
    images, labels = torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([3, 7])
    owned, forward = parameters_of(model, task.phases()), task.trained(model)
    for phase in ("D", "G"):
        model.zero_grad()
        loss, _ = task.step(model, forward, (images, labels), labels, bundle, phase=phase)
        loss.backward()
        assert loss.isfinite()
        for parameter in owned[phase]:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
    # the gate of the attention is what moves first: its gradient is not 0, where that of what lies behind it is
    mixers = [*model.G.mixers.values(), *model.D.mixers.values()]
    assert len(mixers) == 2
    assert all(mixer.sigma.item() == 0 and mixer.sigma.grad.item() != 0 and not mixer.proj.weight.grad.any() for mixer in mixers)
    model.eval()
    z, y = torch.randn(2, 128), torch.tensor([0, 9])
    plain = SAGAN(attention="none").build(img_size=32, in_chans=3, num_classes=10).eval()
    kept = {name: value for name, value in model.state_dict().items() if ".mixers." not in name}
    plain.load_state_dict(kept)
    with torch.no_grad():
        assert torch.equal(model.G(z, y), plain.G(z, y))
        assert torch.equal(model.D(images, labels), plain.D(images, labels))
        drawn = task.sample(model, bundle, [0, 9])
    assert drawn.shape == (2, 3, 32, 32)
    assert drawn.abs().max() <= 1
