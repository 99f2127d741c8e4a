import pytest
import torch

from foveal.lab.data import ColorMatch
from foveal.lab.data.generation import PALETTE

from .color_paint import counted, paint, render


def test_what_is_rendered_are_the_strips_of_the_set() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(4, (3000, 2), generator=generator)
    images = render(PALETTE[pairs], generator)
    data = ColorMatch(train_scenes=3000)
    assert torch.equal(data.colors_of(images), pairs)
    split = data.load().train
    real = torch.stack([split[n][0] for n in range(3000)])
    assert images.shape == real.shape
    # where it is not dark, and how much noise there is
    for one, other in ((images, real), (images.flip(0), real)):
        shares = [((strips + 0.8).abs().amax(1) > 0.8).double().mean(0) for strips in (one, other)]
        assert (shares[0] - shares[1]).abs().max() < 0.04
    assert images[..., 4:8].std().item() == pytest.approx(real[..., 4:8].std().item(), rel=0.02)
    colors = PALETTE[pairs].requires_grad_()
    render(colors, generator).sum().backward()
    assert bool((colors.grad != 0).any(-1).all()), "the generator is taught"


def test_counts_by_hand() -> None:
    red, green, gray = PALETTE[0], PALETTE[1], torch.zeros(3)
    found = counted(torch.stack([torch.stack(pair) for pair in ((red, red), (green, green), (red, green), (green, 0.9 * red + 0.1 * gray))]))
    assert found == pytest.approx({"valid": 1.0, "match": 0.5, "chance": 0.5, "shown": 2.0, "kappa": 0.0})
    assert counted(red.expand(5, 2, 3)) == pytest.approx({"valid": 1.0, "match": 1.0, "chance": 1.0, "shown": 1.0, "kappa": 0.0})
    assert counted(torch.stack([red.expand(2, 3), green.expand(2, 3)]))["kappa"] == pytest.approx(1.0)
    assert counted(torch.stack([gray, red])[None])["valid"] == 0.5


def test_a_few_steps_of_painting() -> None:
    assert paint(0, "external", steps=3) == paint.__wrapped__(0, "external", steps=3), "made again to the last bit"
