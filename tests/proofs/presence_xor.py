"""Presence-XOR: every token must flip its bit if a flag sits anywhere. It can be solved only if tokens learn of each other."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal

from .proof import Arm, Proof, fit, rows_of

TOKENS, WIDTH = 16, 32
# the token that carries the flag knows it without attention
CHANCE = 0.5 + 0.5 / TOKENS
SOLVED, AT_CHANCE = (0.98, 1.0), (CHANCE - 0.03, CHANCE + 0.03)
GRID = {"num_prefix_tokens": 0, "block_size": 2}
# where only the four tokens of one 2×2 block know the flag
BLOCK_ONLY = 0.5 + 0.5 * 4 / TOKENS
STEPS = 600


def scenes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each token shows its bit; one unknown token also shows the flag. Labels are bit XOR flag, for every token."""
    bits = torch.randint(2, (count, TOKENS), generator=generator)
    flags = torch.randint(2, (count, 1), generator=generator)
    carrier = F.one_hot(torch.randint(TOKENS, (count,), generator=generator), TOKENS)
    shown = torch.stack([2 * bits - 1, carrier * (2 * flags - 1)], dim=-1).float()
    return shown, bits ^ flags


class Tokens(nn.Module):
    def __init__(self, name: str, **options: object) -> None:
        super().__init__()
        self.embed = nn.Linear(2, WIDTH)
        self.attentions = nn.ModuleList(foveal.create_attention(name, WIDTH, 4, **options) for _ in range(2))
        self.mlps = nn.ModuleList(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for attention, mlp, norm in zip(self.attentions, self.mlps, self.norms, strict=True):
            x = x + attention(norm(x))
            x = x + mlp(x)
        return self.head(x)


def accuracy(seed: int, steps: int, name: str, **options: object) -> float:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Tokens(name, **options)
    fit(model, lambda: scenes(128, generator), lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()), steps, lr=3e-3, enough=0.01)
    x, y = scenes(2000, generator)
    with torch.no_grad():
        return (model(x).argmax(-1) == y).float().mean().item()


def _arm(mechanism: str, gate: tuple[float, float], reading: str, name: str, pilot: float | None = None, limit: float | None = None, **options: object) -> Arm:
    return Arm(mechanism, partial(accuracy, steps=STEPS, name=name, **options), gate, reading, limit, pilot)


ARMS = (
    _arm("softmax", SOLVED, "every token sees the flag", "softmax", 1.0),
    _arm("denoising", SOLVED, "so it does behind a second branch", "denoising"),
    _arm("external, double norm", SOLVED, "tokens meet in one number for each head and slot, and one would do", "external", 1.0),
    _arm("external, token softmax", SOLVED, "the softmax over tokens is what mixes them", "external", 1.0, normalization="token"),
    _arm(
        "external, slot softmax",
        AT_CHANCE,
        "**negative**: without the softmax over tokens none learns of another",
        "external",
        0.52,
        CHANCE,
        normalization="slot",
    ),
    _arm("efficient, softmax", SOLVED, "one map of a key channel finds the flag, and all queries may read it", "efficient"),
    _arm("efficient, scaling", SOLVED, "with 16 tokens, a sixteenth of the flag is enough", "efficient", normalization="scaling"),
    _arm("linear", SOLVED, "it takes the mean over tokens, and the flag is in it", "linear"),
    _arm("halo, one window over all", SOLVED, "the default block covers the grid of 4×4", "halo", num_prefix_tokens=0),
    _arm(
        "halo, blocks of 2, halo 1",
        SOLVED,
        "windows miss the far side of the grid; the second layer takes on what the first gathered",
        "halo",
        **GRID,
        halo_size=1,
    ),
    _arm(
        "halo, blocks of 2, no halo",
        (BLOCK_ONLY - 0.03, BLOCK_ONLY + 0.03),
        "**negative**: blocks are closed, in any number of layers; a quarter of the tokens share a block with the flag",
        "halo",
        limit=BLOCK_ONLY,
        **GRID,
        halo_size=0,
    ),
)

PROOF = Proof(
    title="Presence-XOR",
    about=f"""\
{TOKENS} tokens, each with a bit; one of them, unknown which, also carries a flag. The label of every token is bit XOR flag. Two layers of width {WIDTH},
4 heads, each with an MLP. Adam, learning rate 0.003, batch 128; {STEPS} steps, fewer once the loss was below 0.01 on 20 batches in a row. The MLP does the
XOR, so what is asked of attention is only that the flag gets about. Chance is {CHANCE:.3f}: the carrier knows.""",
    figure="accuracy",
    rows=rows_of(ARMS),
    notes=f"""\
One bit for all tokens is the least that mixing can do, and every global mechanism does it, with whatever weights. Attention by windows does what its
geometry says: everything with the grid in one window, or in a second layer where halos overlap; nothing beyond its block where there is no halo. There the
four tokens of the carrier's block know, and the limit is {BLOCK_ONLY:.3f}. The pilot had only softmax and external attention.""",
)
