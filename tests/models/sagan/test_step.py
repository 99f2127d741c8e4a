"""One training step of both networks against the authors' own: losses, gradients, and the buffers that it leaves."""

import pytest
import torch
import torch.nn.functional as F

from foveal import official
from foveal.lab.tasks import AdversarialGeneration
from tests.official.test_golden import part, read, relative


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["float64", "float32"])
def test_a_training_step_is_the_authors(dtype, tolerance) -> None:
    kind, settings, tensors = read("sagan_step")
    model = official.load(kind, part(tensors, "state.", dtype), **settings).train()
    inputs = part(tensors, "input.", dtype)
    forward = AdversarialGeneration().trained(model)

    real, fake = forward("D", inputs["z_d"], inputs["label_d"], inputs["x"], inputs["label"])
    loss_d = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    loss_d.backward()
    assert all(value.grad is None for value in model.G.parameters()), "drawn without a gradient to the generator"
    gradients = {f"D.{name}": value.grad for name, value in model.D.named_parameters()}
    model.D.requires_grad_(False)
    loss_g = -forward("G", inputs["z_g"], inputs["label_g"]).mean()
    loss_g.backward()
    gradients |= {f"G.{name}": value.grad for name, value in model.G.named_parameters()}

    assert relative(torch.stack([loss_d, loss_g]), tensors["output"]) < tolerance
    wanted = official.translate(kind, part(tensors, "grad.state.", torch.float64), **settings)
    assert wanted.keys() == gradients.keys()
    for prefix in ("D.", "G."):
        largest = max(value.abs().max().item() for name, value in wanted.items() if name.startswith(prefix))
        for name in (name for name in wanted if name.startswith(prefix)):
            error = (gradients[name].double() - wanted[name]).abs().max().item()
            size = wanted[name].abs().max().item()
            # a bias before a batch norm has a gradient of zero but for rounding
            scale = max(size, 1e-2 * largest) if size > 1e-9 * largest else largest
            assert error < tolerance * scale, name
    after = official.translate(kind, part(tensors, "after.", torch.float64), **settings)
    state = model.state_dict()
    assert len(after) > 60
    for name, value in after.items():
        # they are stored in float32
        assert relative(state[name], value) < 1e-5, name
