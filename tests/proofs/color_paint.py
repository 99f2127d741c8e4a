"""A generator of two colors against a discriminator of SAGAN's kind: whether it learns that both must be one is up to what the discriminator can see."""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from foveal.lab.data import ColorMatch, seed_of
from foveal.lab.data.generation import PALETTE

from .color_judge import FRESH, Judge, hinge
from .proof import Proof, Row

STEPS, BATCH, LR_G, LR_D, COLORS = 2000, 32, 2.5e-4, 2e-3, 4
DARK, NOISE = -0.8, 0.05
NEAR = 0.8
"""Half of the least distance of two colors of the palette: what lies nearer to one is valid."""


class Painter(nn.Sequential):
    """Latents ``(B, 8)`` -> two colors, ``(B, 6)``. The orthogonal start of gain 1.6 makes its first colors diverse."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 6), nn.Tanh())
        for module in self:
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=1.6)
                nn.init.zeros_(module.bias)


def render(colors: Tensor, generator: torch.Generator) -> Tensor:
    """Strips ``(B, 3, 8, 12)`` with squares of these colors ``(B, 2, 3)`` where :class:`ColorMatch` has them; places and noise are drawn."""
    count = len(colors)
    top = torch.randint(7, (count, 2), generator=generator)
    left = torch.stack([torch.randint(2, (count,), generator=generator), 10 - torch.randint(2, (count,), generator=generator)], 1)
    rows, columns = ((torch.arange(side) - first[..., None]) // 2 == 0 for side, first in ((8, top), (12, left)))
    square = (rows[..., None] & columns[..., None, :]).to(colors)
    images = DARK + torch.einsum("bsc,bshw->bchw", colors - DARK, square)
    return (images + NOISE * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def counted(colors: Tensor) -> dict[str, float]:
    """Of colors ``(n, 2, 3)``: shares that are ``valid``, ``match`` and would by ``chance``, how many colors are ``shown``, and Cohen's ``kappa``."""
    away, nearest = torch.cdist(colors.flatten(0, 1), PALETTE[:COLORS]).min(1)
    left, right = (torch.bincount(side, minlength=COLORS).double() / len(colors) for side in nearest.view(-1, 2).T)
    match = (nearest.view(-1, 2)[:, 0] == nearest.view(-1, 2)[:, 1]).double().mean().item()
    chance, both = (left @ right).item(), (left + right) / 2
    return {
        "valid": (away < NEAR).double().mean().item(),
        "match": match,
        "chance": chance,
        "shown": torch.special.entr(both).sum().exp().item(),
        # one color alone matches always and says nothing
        "kappa": (match - chance) / (1 - chance) if chance < 1 - 1e-9 else 0.0,
    }


@cache
def paint(seed: int, attention: str, steps: int = STEPS) -> dict[str, float]:
    """What is painted in the last third of a training."""
    split = ColorMatch(train_scenes=4000, val_scenes=1, test_scenes=1, seed=seed_of(FRESH, seed, "paint") % 2**31).load().train
    real = torch.stack([split[n][0] for n in range(len(split))])
    torch.manual_seed(FRESH + seed)
    generator = torch.Generator().manual_seed(FRESH + seed)
    judge, painter = Judge(attention), Painter()
    optimizers = [torch.optim.Adam(model.parameters(), lr=lr, betas=(0.5, 0.999)) for model, lr in ((judge, LR_D), (painter, LR_G))]
    painted = []

    def fakes() -> tuple[Tensor, Tensor]:
        colors = painter(torch.randn(BATCH, 8, generator=generator)).view(-1, 2, 3)
        return colors, render(colors, generator)

    for step in range(steps):
        with torch.no_grad():
            _, fake = fakes()
        loss = hinge(judge(real[torch.randint(len(real), (BATCH,), generator=generator)]), judge(fake))
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        colors, fake = fakes()
        optimizers[1].zero_grad()
        (-judge(fake).mean()).backward()
        optimizers[1].step()
        if 3 * step >= 2 * steps:
            painted.append(colors.detach())
    return counted(torch.cat(painted))


ARMS = {"none": "none", "external": "external, 16 slots of width C", "sagan": "sagan"}


def rows(seeds: Sequence[int]) -> Iterator[Row]:
    for attention, mechanism in ARMS.items():
        found = [paint(seed, attention) for seed in seeds]
        said = "; ".join(f"{name} {' / '.join(f'{one[name]:.2f}' for one in found)}" for name in ("match", "chance", "shown", "valid"))
        yield Row(mechanism, [one["kappa"] for one in found], (-1.0, 1.0), said)


PROOF = Proof(
    title="Painting colors that match",
    about=f"""\
A generator of two colors, an MLP from eight latents, against the discriminator of "Judging colors that match". Places and noise are drawn by the renderer, so
that all there is to learn is four colors and that both squares have one. Adam (0.5, 0.999), {LR_G} for the generator and {LR_D} for the discriminator,
{STEPS:,} steps of {BATCH}; counted over what the last third of the training painted. A pilot of one seed with other settings (σ from 1, 500 steps, 0.001)
collapsed onto one color with external attention and without.""",
    figure="Cohen's κ of the two colors, each the nearest of four: 1 where they always match, 0 where they match by chance or one color alone is painted",
    rows=rows,
    notes="""\
*Match* and *chance* are shares of pairs, *shown* is the exponential of the entropy of the colors, 4 at most, *valid* the share of colors that lie nearer to
one of the palette than any two of the palette do to their middle; seed by seed. Nothing is gated: a generator may match colors unasked, and one that paints
one color alone matches always.""",
)
