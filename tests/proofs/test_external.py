"""External attention passes facts between tokens through its slots alone; see :mod:`tests.proofs.presence_xor`.

Specification 2.1: softmax, double norm and token softmax solve presence-XOR; the common re-implementation error, a softmax over slots, stays at chance.
"""

import torch

import foveal

from .presence_xor import CHANCE, TOKENS, WIDTH, accuracy


def test_double_norm_solves_presence_xor_and_slot_softmax_does_not() -> None:
    assert accuracy(0, 400, "external", slots=16) > 0.98
    assert abs(accuracy(0, 400, "external", slots=16, normalization="slot") - CHANCE) < 0.03


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
