"""Global cue: one mark somewhere on a map flips the label of every pixel. Far pixels can be right only if a layer carries the mark to them."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal

from .proof import Arm, OnMaps, Proof, Residual, fit, rows_of

SIDE, WIDTH = 32, 16
BLOCK, HALO = 8, 3
BATCH, LR = 8, 3e-3


def scenes(count: int, cue: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Maps of signs beside the mark, a square of side ``cue`` that is all 1 or all −1; labels are sign XOR mark.

    Both marks are drawn equally often: with few scenes drawn freely, guessing the commoner one everywhere would look like knowledge of it.
    """
    bits = torch.randint(2, (count, SIDE, SIDE), generator=generator)
    flags = torch.arange(count) % 2
    corners = torch.randint(SIDE - cue + 1, (count, 2), generator=generator)
    marks = torch.zeros(count, SIDE, SIDE)
    for mark, flag, (y, x) in zip(marks, flags.tolist(), corners.tolist(), strict=True):
        mark[y : y + cue, x : x + cue] = 2 * flag - 1
    return torch.stack([2 * bits - 1.0, marks], 1), (bits ^ flags[:, None, None]).float()


def seen(cue: int, window: bool) -> float:
    """Part of the pairs of pixel and mark that two 3×3 convolutions show, alone or with a layer of windows behind them. The rest can only guess."""
    shown = 0
    for x in range(SIDE):
        first, last = (x // BLOCK * BLOCK - HALO, x // BLOCK * BLOCK + BLOCK - 1 + HALO) if window else (x, x)
        # a window shows pixels of the map alone, and each of those saw two further on all sides
        first, last = max(first, 0) - 2, min(last, SIDE - 1) + 2
        shown += sum(left <= last and left + cue - 1 >= first for left in range(SIDE - cue + 1))
    return (shown / (SIDE * (SIDE - cue + 1))) ** 2


def limit(cue: int, window: bool) -> float:
    return 0.5 + 0.5 * seen(cue, window)


def model(block: nn.Module) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(2, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())
    return nn.Sequential(stem, block, nn.Conv2d(WIDTH, 1, 1), nn.Flatten(1, 2))


def accuracy(seed: int, block: Callable[[], nn.Module], cue: int, steps: int, lr: float = LR) -> float:
    """Over the pixels of fresh scenes."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trained = model(block())
    fit(trained, lambda: scenes(BATCH, cue, generator), F.binary_cross_entropy_with_logits, steps, lr, enough=0.01)
    trained.eval()
    with torch.no_grad():
        right = [(trained(x) > 0) == (y > 0) for x, y in (scenes(20, cue, generator) for _ in range(20))]
    return torch.cat(right).float().mean().item()


def pairs(name: str) -> nn.Module:
    return Residual(OnMaps(foveal.create_attention(name, WIDTH, 1, qkv_bias=True)))


def halo() -> nn.Module:
    return Residual(foveal.HaloAttention2d(WIDTH, num_heads=2, block_size=BLOCK, halo_size=HALO, out_proj=True))


def linear(gamma: float) -> nn.Module:
    return foveal.LinearAttention2d(WIDTH, key_channels=8, gamma_init=gamma)


def external() -> nn.Module:
    return foveal.ExternalAttention2d(WIDTH, slots=16)


efficient = partial(foveal.EfficientAttention2d, WIDTH)
scaling = partial(efficient, normalization="scaling")

LEARNT, NOT_YET = (0.95, 1.0), (0.45, 0.62)
# beyond what any window shows; 0.75 is the second plateau, see the notes
GLOBAL = (0.72, 1.0)


def _arm(
    mechanism: str,
    block: Callable[[], nn.Module],
    cue: int,
    steps: int,
    reading: str,
    gate: tuple[float, float] = LEARNT,
    pilot: float | None = None,
    bound: float | None = None,
) -> Arm:
    return Arm(f"{mechanism}, {cue}×{cue}", partial(accuracy, block=block, cue=cue, steps=steps), gate, reading, bound, pilot)


def _bounded(mechanism: str, block: Callable[[], nn.Module], cue: int, steps: int, reading: str, pilot: float, window: bool) -> Arm:
    bound = limit(cue, window)
    return _arm(mechanism, block, cue, steps, reading, (bound - 0.03, bound + 0.02), pilot, bound)


ARMS = (
    _bounded("no attention", nn.Identity, 1, 500, "**negative**: only pixels within two of the mark can know", 0.486, False),
    _bounded("one halo layer", halo, 1, 600, "**negative**: right wherever the mark is in the window, a guess elsewhere", 0.655, True),
    _arm("softmax", partial(pairs, "softmax"), 1, 1000, "one pixel of 1024 is singled out", pilot=0.790),
    _arm("denoising", partial(pairs, "denoising"), 1, 1500, "as softmax"),
    _arm("efficient, softmax", efficient, 1, 1000, "a key channel singles it out as well", pilot=1.0),
    _arm("efficient, scaling", scaling, 1, 1000, "weights of 1/N dilute the mark, values grow to make up for it", pilot=0.537),
    _arm("efficient, scaling, 150 steps", scaling, 1, 150, "the plateau that the pilot seems to have taken for the end", NOT_YET, 0.537),
    _arm("linear, γ from 0", partial(linear, 0.0), 1, 1500, "the paper's start; so too with a mean that hardly leans", GLOBAL, 0.528),
    _arm("linear, γ from 1", partial(linear, 1.0), 1, 1500, "**negative** for one seed, which stays where only one of the two signs flips", GLOBAL, 0.528),
    _arm("linear, γ from 0, 150 steps", partial(linear, 0.0), 1, 150, "the plateau again", NOT_YET, 0.528),
    _arm("external", external, 1, 1000, "one of 16 slots stands for the mark"),
    _bounded("no attention", nn.Identity, 6, 500, "**negative**, as above with a larger mark", 0.553, False),
    _bounded("one halo layer", halo, 6, 500, "**negative**, as above with a larger mark", 0.702, True),
    _arm("softmax", partial(pairs, "softmax"), 6, 800, "learnt"),
    _arm("denoising", partial(pairs, "denoising"), 6, 800, "learnt"),
    _arm("efficient, softmax", efficient, 6, 800, "learnt", pilot=1.0),
    _arm("efficient, scaling", scaling, 6, 800, "learnt", pilot=1.0),
    _arm("linear, γ from 0", partial(linear, 0.0), 6, 1500, "learnt; one seed not within the 800 steps of the others", pilot=1.0),
    _arm("external", external, 6, 800, "learnt"),
)

PROOF = Proof(
    title="Global cue",
    about=f"""\
Maps of {SIDE}×{SIDE} random signs. Somewhere, in a channel of its own, lies a mark of 1×1 or 6×6 pixels that is 1 or −1, and the label of every pixel
is its sign XOR the mark. Two 3×3 convolutions of width {WIDTH}, the block, one 1×1 convolution. Adam, learning rate {LR}, batch {BATCH}; at most 500 to
1500 steps, fewer once the loss was below 0.01 on 20 batches in a row. The claims: a layer of windows knows the mark where a window shows it and nowhere
else; global attention knows it everywhere (Shen et al. 2021, Li et al. 2020).""",
    figure="accuracy, 0.5 = a guess",
    rows=rows_of(ARMS),
    notes="""\
What differs from the pilot, and which is right:

- **Halo 0.655 and no attention 0.486** of the pilot lie above what the windows show (0.617) and below a guess. The likely reason is few scenes to test on:
  one mark is then commoner than the other, and guessing it everywhere is worth a few per cent more or less. Here both marks are equally frequent, and both
  arms end at their limits. Ours are right.
- **Scaling 0.537 and linear 0.528** at a mark of one pixel were read as "averages dilute one pixel by 1/N and cannot pick it out". They look like
  training that had not begun to succeed: every mechanism stays at 0.5 for 150 to 500 steps, and how long depends on seed, learning rate and the way the
  mark is drawn (a mark that is there or not, at learning rate 0.001, holds efficient attention with softmax at 0.5 for 500 steps too). After it both
  learn the cue.
  Dilution by 1/N is real, and is made up for by larger values; it costs time, and most with linear attention.
- **Softmax 0.790, "not converged"**, is a second plateau, at 0.75: the last layer is linear, so the block itself must treat pixels of both signs
  differently, and at 0.75 it does so for one sign. Every mechanism passes it. One seed of linear attention stays, with γ from 1; with the paper's γ from 0
  none of these three does, and in a trial with other draws one did.

So this task separates local from global, and does not separate one global mechanism from another.""",
)
