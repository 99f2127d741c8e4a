"""Associative recall: one source pixel of each type carries a vector, and every pixel must output the vector of its own type.

Each query needs one pixel and no other, so this is where attention by a summary has to show what it can single out.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal

from .proof import Arm, OnMaps, Proof, Residual, fit, rows_of

SIDE, TYPES, VALUES, WIDTH = 16, 8, 4, 32
CHANNELS = TYPES + 1 + VALUES
STEPS, BATCH, LR = 1500, 8, 3e-3
# source pixels hold their own answer
OTHERS = 1 - TYPES / SIDE**2
# what is left when a source gets a quarter of the weight and seven others three quarters: 1 − (1/4)² / ((1/4)² + 7 (3/28)²)
LINEAR_FLOOR = 9 / 16


def scenes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Maps of types, one channel each, of source pixels, and of the vectors these carry, N(0, 1), zero elsewhere."""
    pixels = SIDE**2
    types = torch.randint(TYPES, (count, pixels), generator=generator)
    sources = torch.rand(count, pixels, generator=generator).argsort(1)[:, :TYPES]
    types.scatter_(1, sources, torch.arange(TYPES).expand(count, -1))
    values = torch.randn(count, TYPES, VALUES, generator=generator)
    places = sources.unsqueeze(-1)
    marks = torch.zeros(count, pixels, 1).scatter_(1, places, 1.0)
    shown = torch.zeros(count, pixels, VALUES).scatter_(1, places.expand(-1, -1, VALUES), values)
    wanted = values.gather(1, types.unsqueeze(-1).expand(-1, -1, VALUES))
    as_map = lambda tokens: tokens.mT.unflatten(-1, (SIDE, SIDE))  # noqa: E731
    return as_map(torch.cat([F.one_hot(types, TYPES), marks, shown], -1)), as_map(wanted)


def model(block: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(CHANNELS, WIDTH, 1), block, nn.Conv2d(WIDTH, VALUES, 1))


def error(seed: int, block: Callable[[], nn.Module], steps: int = STEPS, lr: float = LR) -> float:
    """Mean squared, over the pixels of fresh scenes."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trained = model(block())
    fit(trained, lambda: scenes(BATCH, generator), F.mse_loss, steps, lr, enough=1e-3)
    x, y = scenes(500, generator)
    with torch.no_grad():
        return F.mse_loss(trained.eval()(x), y).item()


def pairs(name: str) -> nn.Module:
    return Residual(OnMaps(foveal.create_attention(name, WIDTH, 1, qkv_bias=True)))


def efficient(key_channels: int, **options: object) -> nn.Module:
    return foveal.EfficientAttention2d(WIDTH, key_channels=key_channels, **options)


def linear(head_count: int, key_channels: int) -> nn.Module:
    return foveal.LinearAttention2d(WIDTH, key_channels=key_channels, num_heads=head_count)


def _arm(
    mechanism: str,
    block: Callable[[], nn.Module],
    gate: tuple[float, float],
    reading: str,
    limit: float | None = None,
    pilot: float | None = None,
    lr: float = LR,
) -> Arm:
    return Arm(mechanism, partial(error, block=block, lr=lr), gate, reading, limit, pilot)


scaling = partial(efficient, normalization="scaling")

ARMS = (
    _arm("softmax", partial(pairs, "softmax"), (0, 0.02), "retrieves", 0, 0.004),
    _arm("denoising", partial(pairs, "denoising"), (0, 0.02), "retrieves", 0),
    _arm("efficient, softmax, 4 key channels", partial(efficient, 4), (0.45, 0.75), "**negative**: 4 maps cannot serve 8 types", OTHERS * (1 - 4 / TYPES)),
    _arm(
        "efficient, softmax, 8 key channels",
        partial(efficient, 8),
        (0, 0.5),
        "**negative** where types are lost, an eighth each; weights that lose none exist",
        0,
        0.61,
    ),
    _arm("efficient, softmax, 8 key channels, learning rate 0.001", partial(efficient, 8), (0.3, 0.875), "the same, on its way", 0, 0.61, lr=1e-3),
    _arm("efficient, softmax, 16 key channels", partial(efficient, 16), (0, 0.3), "spare channels lose fewer types", 0, 0.40),
    _arm("efficient, scaling, 8 key channels", partial(scaling, 8), (0, 0.5), "**negative** where types are lost; as with softmax", 0, 0.875),
    _arm("efficient, scaling, 16 key channels", partial(scaling, 16), (0, 0.3), "as with softmax", 0, 0.785),
    _arm(
        "linear, 1 head",
        partial(linear, 1, 16),
        (0.53, 0.75),
        "**negative**: one head gives the right source a quarter of what all get",
        OTHERS * LINEAR_FLOOR,
        0.874,
    ),
    _arm("linear, 4 heads", partial(linear, 4, 32), (0.15, 0.52), "heads cancel each other's mean; better, and still **negative**"),
    _arm(
        "external, 16 slots",
        partial(foveal.ExternalAttention2d, WIDTH, slots=16),
        (0.45, 0.85),
        "**negative**: 16 numbers for 32 facts",
        OTHERS * (1 - 16 / (TYPES * VALUES)),
    ),
    _arm("external, 64 slots", partial(foveal.ExternalAttention2d, WIDTH, slots=64), (0, 0.35), "room for the 32 facts; slow to learn", 0),
)

PROOF = Proof(
    title="Associative recall",
    about=f"""\
Maps of {SIDE}×{SIDE} pixels of {TYPES} types. One source pixel of each type carries a vector of {VALUES} normal numbers, and every pixel must output that
of its own type. A 1×1 convolution to width {WIDTH}, the block, a 1×1 convolution. Adam, learning rate {LR}, batch {BATCH}; {STEPS} steps, fewer once the
error was below 0.001 on 20 batches in a row. The claim under test: attention by a summary is "equivalent to dot-product attention" (Shen et al. 2021) or
approximates it (Li et al. 2020). This is the negative control.""",
    figure="mean squared error, 1 = nothing learnt, 0.875 = the mean of the eight vectors everywhere",
    rows=rows_of(ARMS),
    notes="""\
What differs from the pilot, and which is right:

- **Efficient attention, 0.61 and 0.40 (softmax), 0.875 and 0.785 (scaling)**, was read as a limit of 8 or 16 key channels. It is none: weights that
  solve the task with 8 channels exist for both normalizations, and `tests/proofs/test_recall.py` writes them down (error below 1e-6). The pilot's figures
  look like an earlier point of training. At learning rate 0.001 ours passes them too: seed 1 with 8 channels is at 0.89, 0.74 and 0.25 after 500, 1000 and
  4000 steps with softmax, at 0.87, 0.76 and 0.001 with scaling. Ours are nearer to the end, and scaling is the better of the two, not the worse.
  What remains is an obstacle of training: types without a channel of their own, an eighth of the error for each. Softmax attention loses none.
- **The limit is real below 8 channels.** With 4, an output is a mixture of 4 vectors, so half of the error of all pixels that are no source stays.
- **Linear attention, 0.874**, was the mean of all and unfinished too. But its limit is real: 1 + cos is half a squared distance, between q̂ and −k̂, and
  of all squared distances between two sets of 8 points those of the 8 right pairs make up at most a quarter. So a head gives the right source at most a quarter
  of what all sources get, in the mean over types; an equal spread leaves an error of 9/16 outside the source pixels. Several heads can cancel what
  the others get, and do so in part.
- **External attention** has no claim here. Tokens exchange one number for each slot and head; 8 vectors of 4 are 32 numbers, and 16 slots are too few.

So neither is equivalent to dot-product attention in what it learns to retrieve, and linear attention with one head not in what it can.""",
)
