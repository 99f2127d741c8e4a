"""Halo reach: every pixel of white noise must show the one three columns to its right. A block of 4 reaches it for all its pixels only with a halo of 3."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal

from .proof import Arm, Proof, fit, rows_of

SIDE, BLOCK, AWAY = 16, 4, 3
WIDTH, STEPS, BATCH = 16, 300, 16


def floor(halo_size: int) -> float:
    """Part of the pixels whose target lies outside their window: these can do no better than the mean of the noise, an error of 1."""
    pixels = range(SIDE - AWAY)
    return sum(x + AWAY >= x // BLOCK * BLOCK + BLOCK + halo_size for x in pixels) / len(pixels)


def error(out: Tensor, noise: Tensor) -> Tensor:
    """Mean squared, over the columns that have a target."""
    return F.mse_loss(out[..., :-AWAY], noise[..., AWAY:])


def train(seed: int, halo_size: int, steps: int = STEPS) -> float:
    """Error on fresh noise of variance 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    attention = foveal.HaloAttention2d(WIDTH, num_heads=2, block_size=BLOCK, halo_size=halo_size)
    model = nn.Sequential(nn.Conv2d(1, WIDTH, 1), attention, nn.Conv2d(WIDTH, 1, 1))

    def batch(count: int = BATCH) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, 1, SIDE, SIDE, generator=generator)
        return noise, noise

    fit(model, batch, error, steps, lr=1e-2)
    noise, _ = batch(500)
    with torch.no_grad():
        return error(model(noise), noise).item()


def _arm(halo_size: int, pilot: float, reading: str) -> Arm:
    return Arm(f"halo {halo_size}", partial(train, halo_size=halo_size), (pilot - 0.06, pilot + 0.06), reading, floor(halo_size), pilot)


ARMS = (
    _arm(0, 0.768, "four of thirteen columns find their target inside the block"),
    _arm(1, 0.506, "seven of thirteen"),
    _arm(2, 0.255, "ten of thirteen"),
    _arm(3, 0.000, "all of them: the halo does what it is for"),
)

PROOF = Proof(
    title="Halo reach",
    about=f"""\
One layer of halo attention (Vaswani et al. 2021) with blocks of {BLOCK}×{BLOCK}, 2 heads and width {WIDTH}, between two 1×1 convolutions, on
{SIDE}×{SIDE} maps of white noise. The target is the pixel {AWAY} columns to the right. Adam, {STEPS} steps, learning rate 0.01, batch {BATCH}.""",
    figure="mean squared error, 1 = nothing learnt",
    rows=rows_of(ARMS),
    notes=(
        "The limit is the part of the pixels whose target no window shows. Below a halo of 3 the error stays a tenth above it: a pixel that cannot see its\n"
        "target has to average something, because weights sum to one, and that average is noise. The pilot took 600 steps; half of them give the same."
    ),
)
