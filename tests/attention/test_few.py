"""Few queries over many tokens: outputs and gradients are those with keys and values made first; what cannot be read so is read as ever."""

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.attention import _few
from tests.attention.contract import assert_close

DIM, HEADS, QUERIES, TOKENS = 24, 4, 2, 9
OPTIONS = [("softmax", {}), ("softmax", {"attn_head_dim": 9}), ("denoising", {}), ("denoising", {"shared_values": True}), ("denoising", {"attn_head_dim": 5})]


def made(name: str, few: bool, options: dict, **timm: object) -> nn.Module:
    torch.manual_seed(0)
    attention = foveal.create_attention(name, DIM, HEADS, **{"qkv_bias": True} | timm, **options).double()
    attention.few_queries = few
    return attention


def masks() -> dict[str, Tensor | None]:
    torch.manual_seed(2)
    pairs = torch.rand(2, HEADS, QUERIES, TOKENS) > 0.4
    return {
        "none": None,
        "keys": (torch.arange(TOKENS) < torch.tensor([[4], [9]]))[:, None, None],
        "pairs": pairs[0, 0],
        "heads and pairs": pairs,
        "of queries alike": pairs[:, :, :1],
        "added": torch.randn(2, 1, QUERIES, TOKENS, dtype=torch.float64),
        "nothing seen": torch.arange(QUERIES)[:, None].expand(-1, TOKENS) > 0,
    }


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How often tokens were read without keys."""
    seen: list[int] = []
    inner = _few.gather_folded
    for module in ("softmax", "denoising"):
        monkeypatch.setattr(f"foveal.attention.{module}.gather_folded", lambda *args, **options: (seen.append(1), inner(*args, **options))[1])
    return seen


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("timm", [{}, {"qkv_bias": False}], ids=["bias", "no bias"])
def test_outputs_and_gradients_are_the_same(timm, mask, name, options, calls) -> None:
    torch.manual_seed(1)
    x, tokens, cotangent = torch.randn(2, QUERIES, DIM).double(), torch.randn(2, TOKENS, DIM).double(), torch.randn(2, QUERIES, DIM).double()
    found = []
    for few in (False, True):
        attention, own, read = made(name, few, options, **timm), x.clone().requires_grad_(), tokens.clone().requires_grad_()
        out = attention(own, masks()[mask], context=read)
        (out * cotangent).sum().backward()
        found.append([out, own.grad, read.grad, *(value.grad for value in attention.parameters())])
        assert bool(calls) == few
    for want, got in zip(*found, strict=True):
        assert_close(got, want, 1e-12, "output or gradient")


@pytest.mark.parametrize(
    ("timm", "change", "call"),
    [
        ({}, lambda one: setattr(one, "qkv", nn.Sequential(one.qkv)), {}),
        ({}, lambda one: one.qkv.register_forward_hook(lambda *_: None), {}),
        ({"qk_norm": True}, None, {}),
        ({"attn_drop": 0.5}, lambda one: one.train(), {}),
        ({}, None, {"rope": lambda x: x}),
        ({}, None, {"context": "pair"}),
        ({}, None, {"x": "many"}),
    ],
    ids=["adapter", "hook", "norm of keys", "dropout", "rope", "values apart", "many queries"],
)
@pytest.mark.parametrize("name", ["softmax", "denoising"])
def test_what_cannot_be_read_so_is_read_as_ever(name, timm, change, call, calls) -> None:
    attention = made(name, True, {}, **timm).eval()
    if change is not None:
        change(attention)
    tokens = torch.randn(2, TOKENS, DIM).double()
    x = torch.randn(2, 8 if call.get("x") else QUERIES, DIM).double()
    assert attention(x, context=(tokens, tokens + 1) if call.get("context") else tokens, rope=call.get("rope")).isfinite().all()
    assert not calls


def test_nobody_reads_so_unasked(calls) -> None:
    assert made("softmax", False, {})(torch.randn(1, 1, DIM).double(), context=torch.randn(1, 99, DIM).double()).shape == (1, 1, DIM)
    assert not calls
