"""Presence-XOR: every token must flip its bit if a flag sits anywhere. It can be solved only if tokens learn of each other.

Specification 2.1: softmax, double norm and token softmax solve it; the common re-implementation error, a softmax over slots, stays at chance.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal

TOKENS, WIDTH = 16, 32
# the token that carries the flag knows it without attention
CHANCE = 0.5 + 0.5 / TOKENS


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
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x, y = scenes(128, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    x, y = scenes(2000, generator)
    with torch.no_grad():
        return (model(x).argmax(-1) == y).float().mean().item()


def test_double_norm_solves_presence_xor_and_slot_softmax_does_not() -> None:
    assert accuracy(0, 400, "external", slots=16) > 0.98
    assert abs(accuracy(0, 400, "external", slots=16, norm="slot") - CHANCE) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("name", "options"), [("softmax", {}), ("denoising", {}), ("external", {}), ("external", {"norm": "token"})])
def test_what_mixes_tokens_solves_it(seed, name, options) -> None:
    assert accuracy(seed, 600, name, **options) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_does_not_stays_at_chance(seed) -> None:
    assert abs(accuracy(seed, 600, "external", norm="slot") - CHANCE) < 0.03


def test_slots_bound_the_facts_that_pass() -> None:
    """Tokens meet only in Z_s, one number a head and slot: with these fixed, a token's output depends on itself alone."""
    module = foveal.ExternalAttention(WIDTH, 4, slots=3).double().eval()
    x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64)
    q = module.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
    logits = q @ module.memory.memory_k.T
    numbers = logits.logsumexp(-2)
    assert numbers.shape == (1, 4, 3)
    first = (logits[:, :, :1] - numbers.unsqueeze(-2)).softmax(-1) @ module.memory.memory_v
    want = module.proj(first.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x)[:, :1], want)
