"""What docs/when.md says of weights that exist: those of its proofs, written down, solve both tasks; and what its figure shows is what was measured."""

import importlib.util
import json
import math
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from foveal import DenoisingAttention, SoftmaxAttention
from foveal.lab.study.single_layer import common_mode, contrast

DOCS = Path(__file__).parents[2] / "docs"
RANK, WIDTH, TOKENS = 28, 32, 12
T, U, LOGIT = RANK, RANK + 1, 3.0


def blank(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weights in layer.parameters():
            weights.zero_()
    return layer


def ask(layer: nn.Module, head: int, asks: int, keys: dict[int, float], query: float = 1.0) -> None:
    """A head whose logits are ``query`` times that number at the tokens of these roles, and 0 at all others; its content is passed over."""
    place = head * layer.head_dim
    layer.qkv.weight[place, asks] = query * layer.head_dim**0.5
    for role, value in keys.items():
        layer.qkv.weight[layer.inner_dim + place, role] = value


def carry(layer: nn.Module, rows: range, first: int = 0, factor: float = 1.0) -> None:
    """Content number n goes through the inner dimension ``first + n``, and out of it times the factor."""
    for n in rows:
        layer.qkv.weight[2 * layer.inner_dim + first + n, n] = 1
        layer.proj.weight[n, first + n] = factor


@torch.no_grad()
def softmax_of_twice_the_rank(task: str) -> nn.Module:
    layer = blank(SoftmaxAttention(WIDTH, 8, attn_head_dim=7))
    assert layer.inner_dim == 2 * RANK
    on, off = (math.exp(LOGIT) / (math.exp(LOGIT) + TOKENS - 1), 1 / (math.exp(LOGIT) + TOKENS - 1))
    asks, second = (RANK + 2, {U: LOGIT}) if task == "contrast" else (RANK + 1, {})
    for head in range(8):
        ask(layer, head, asks, {T: LOGIT} if head < 4 else second)
    against = -1 / (on - off) if task == "contrast" else -TOKENS / (TOKENS + 1) - TOKENS * off / (on - off)
    carry(layer, range(RANK), factor=1 / (on - off))
    carry(layer, range(RANK), first=RANK, factor=against)
    return layer


@torch.no_grad()
def shared_values_of_the_rank(task: str) -> nn.Module:
    layer = blank(DenoisingAttention(WIDTH, 4, attn_head_dim=7, shared_values=True))
    assert layer.inner_dim == RANK
    if task == "contrast":
        for head in range(4):
            ask(layer, head, RANK + 2, {T: 1.0, U: -1.0}, query=LOGIT)
        layer.q_neg.weight.copy_(layer.qkv.weight[:RANK])
        layer.lambdas.fill_(1)
        total = math.exp(LOGIT) + math.exp(-LOGIT) + TOKENS - 2
        carry(layer, range(RANK), factor=total / (math.exp(LOGIT) - math.exp(-LOGIT)))
    else:
        _less_the_mean(layer)
    return layer


@torch.no_grad()
def centered_of_the_rank(task: str) -> nn.Module:
    layer = blank(SoftmaxAttention(WIDTH, 4, attn_head_dim=7, center=True))
    assert layer.inner_dim == RANK
    if task == "contrast":
        for head in range(4):
            ask(layer, head, RANK + 2, {T: math.log(1.5), U: math.log(0.5)})
        layer.lambdas.fill_(1)
        carry(layer, range(RANK), factor=TOKENS / 0.5)
    else:
        _less_the_mean(layer)
    return layer


def _less_the_mean(layer: nn.Module) -> None:
    """t, less so much of the mean that the best estimate of what is common goes; a negative query of zero looks at all alike."""
    on, off = (math.exp(LOGIT) / (math.exp(LOGIT) + TOKENS - 1), 1 / (math.exp(LOGIT) + TOKENS - 1))
    for head in range(layer.num_heads):
        ask(layer, head, RANK + 1, {T: LOGIT})
    layer.lambdas.fill_((on - off) * TOKENS / (TOKENS + 1) + TOKENS * off)
    carry(layer, range(RANK), factor=1 / (on - off))


BY_HAND = [softmax_of_twice_the_rank, shared_values_of_the_rank, centered_of_the_rank]


@pytest.mark.parametrize("make", BY_HAND, ids=lambda make: make.__name__)
@pytest.mark.parametrize("asked", [False, True])
def test_a_contrast_is_exact_at_the_width_of_the_theorem(make, asked) -> None:
    x, asks, wanted = contrast(200, RANK, torch.Generator().manual_seed(0), asked=asked)
    got = make("contrast")(x)[torch.arange(200), asks, :RANK]
    assert (got - wanted).square().mean() < 1e-8


@pytest.mark.parametrize("make", BY_HAND, ids=lambda make: make.__name__)
def test_a_common_mode_goes_as_far_as_can_be_known(make) -> None:
    x, asks, _ = common_mode(200, RANK, torch.Generator().manual_seed(0))
    content = x[..., :RANK]
    # the least squares of s_t, given all tokens, for independent normal numbers
    best = content[x[..., T] == 1] - TOKENS / (TOKENS + 1) * content.mean(1)
    got = make("common mode")(x)[torch.arange(200), asks, :RANK]
    assert (got - best).square().mean() < 1e-8


def readout() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readout", DOCS / "figures" / "_readout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sharp_heads_leave_what_they_do_not_read() -> None:
    for width, rank in product((8, 32, 48, 64), (4, 16, 24, 28, 32)):
        choices = [(of_t, of_u) for of_t, of_u in product(range(rank + 1), repeat=2) if of_t + of_u <= width]
        assert readout().left_by_sharp_heads(width, rank) == pytest.approx(min(2 * rank - sum(both) for both in choices) / (2 * rank))


def test_the_figure_has_the_points_of_the_proof() -> None:
    page = (DOCS / "proofs.md").read_text("utf8")
    plain, asked = (readout().proof_points(page, what) for what in ("contrast", "contrast, asked by content"))
    assert set(plain) == {"softmax", "softmax-wide", "denoising-shared", "softmax-centered"}
    assert set(asked) == {"denoising-shared", "softmax-centered"}
    for arm, by_rank in (plain | asked).items():
        assert list(by_rank) == [RANK], arm
        mean, low, high = by_rank[RANK]
        assert low <= mean <= high
    assert readout().proof_points("# Proofs\n\n## Halo reach\n") == {}
    with pytest.raises(ValueError, match="no row"):
        readout().proof_points(page, "contrast, asked by nobody")


def test_the_figure_has_the_points_of_a_finished_study(tmp_path) -> None:
    rows = [("softmax", 12, [0.1, 0.3]), ("softmax", 20, [0.2, 0.2]), ("denoising", 12, [0.1, None])]
    written = [{"arm": arm, "setting": f"rank {rank}", "values": {"error": values}} for arm, rank, values in rows]
    path = tmp_path / "study-denoising.json"
    assert readout().study_points(path) == {}
    for smoke, parts, found in ((False, {"S1": {"rows": written}}, True), (True, {"S1": {"rows": written}}, False), (False, {"S2": {}}, False)):
        later = {"smoke": smoke, "parts": {"S3": {"rows": []}}}
        path.write_text(json.dumps({"registrations": [{"smoke": smoke, "parts": parts}, later]}), "utf8")
        points = readout().study_points(path)
        assert points == ({"softmax": {12: (pytest.approx(0.2), 0.1, 0.3), 20: (0.2, 0.2, 0.2)}} if found else {})
