"""What one attention layer can read out: two tasks whose answers need weights of both signs at high rank, without residual or depth.

The theorem behind them: a layer of softmax attention whose weights depend on roles alone needs an inner width of 2r to give a contrast of rank r, or to reject
what r directions have in common, in however many heads; attention with a sign needs r. What is trained only approximates, so the steps are not sharp.

Shapes     B scenes, N tokens, C width, r rank
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis import value_overlap
from ...attention import create_attention
from .angles import AnglesSeen, Watch
from .kinds import KINDS, Kind
from .registration import Layer, Part
from .unit import Unit

__all__ = ["common_mode", "contrast", "judge_layer", "limit", "make_layer", "one_cycle", "one_of_many", "train_layer"]

Scenes = tuple[Tensor, Tensor, Tensor]
"""Tokens ``(B, N, C)``, which of them asks ``(B,)``, and the answer ``(B, r)``."""
_TEST = 1_000_000
"""Between the seed of training scenes and that of test scenes."""


def contrast(count: int, rank: int, generator: torch.Generator, *, width: int = 32, tokens: int = 12, asked: bool = False) -> Scenes:
    """Content of rank r in every token, that of the one that asks only if ``asked``; the answer is that of the token t less that of the token u."""
    x = torch.zeros(count, tokens, width)
    x[..., :rank] = torch.randn(count, tokens, rank, generator=generator)
    t, u, asks = _roles(x, 3, rank, generator)
    scene = torch.arange(count)
    if not asked:
        x[scene, asks, :rank] = 0
    return x, asks, x[scene, t, :rank] - x[scene, u, :rank]


def common_mode(count: int, rank: int, generator: torch.Generator, *, width: int = 32, tokens: int = 12) -> Scenes:
    """Content s_j + n with n the same in all tokens of a scene; the answer is s_t."""
    x = torch.zeros(count, tokens, width)
    own = torch.randn(count, tokens, rank, generator=generator)
    x[..., :rank] = own + torch.randn(count, 1, rank, generator=generator)
    t, asks = _roles(x, 2, rank, generator)
    return x, asks, own[torch.arange(count), t]


def one_of_many(count: int, rank: int, generator: torch.Generator, *, width: int = 32, tokens: int = 16) -> Scenes:
    """Content in every token but the one that asks; the answer is that of the token t, however many others there are."""
    x = torch.zeros(count, tokens, width)
    x[..., :rank] = torch.randn(count, tokens, rank, generator=generator)
    t, asks = _roles(x, 2, rank, generator)
    scene = torch.arange(count)
    x[scene, asks, :rank] = 0
    return x, asks, x[scene, t, :rank]


TASKS: dict[str, Callable[..., Scenes]] = {
    "contrast": contrast,
    "contrast-asked": partial(contrast, asked=True),
    "common-mode": common_mode,
    "floor": one_of_many,
}
BOUNDED = ("floor",)
"""Tasks whose queries and keys pass a layer norm without gain: no logit is beyond the root of the width of a head."""


def limit(kind: str, tokens: int) -> float:
    """The least error that scenes allow, relative to predicting 0: of a common mode seen in N tokens N/(N + 1) is known."""
    return 1 / (tokens + 1) if kind == "common-mode" else 0.0


def make_layer(layer: Layer, width: int, kind: str = "contrast") -> nn.Module:
    """The arm, with biases of queries, keys and values."""
    bounded: dict[str, Any] = {"qk_norm": True, "norm_layer": partial(nn.LayerNorm, elementwise_affine=False)} if kind in BOUNDED else {}
    return create_attention(layer.attention, width, layer.heads, qkv_bias=True, **bounded, **layer.options)


def train_layer(part: Part, layer: Layer, rank: int, rate: float, seed: int, *, tokens: int | None = None, seen: AnglesSeen | None = None) -> nn.Module:
    """Adam under one cycle on fresh scenes; the seed decides initial weights and scenes, which are the same for every arm."""
    torch.manual_seed(seed)
    attention = make_layer(layer, part.width, part.kind)
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        x, asks, wanted = TASKS[part.kind](part.batch, rank, generator, width=part.width, tokens=tokens or part.tokens)
        error = (_read(part, attention, x, asks)[:, :rank] - wanted).square().mean()
        return error + layer.overlap_weight * value_overlap(attention) if layer.overlap_weight else error

    one_cycle(attention, loss, part.steps, rate, None if seen is None else seen.of(attention))
    return attention.eval()


def one_cycle(net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float, watch: Watch | None = None) -> None:
    """Adam under one cycle; ``loss`` draws a batch of its own each time, and ``watch`` sees the step, and the last one's end."""
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    # of fewer steps than 4 one cycle has none to rise in
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 4))
    for step in range(steps):
        if watch is not None:
            watch(step)
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    if watch is not None:
        watch(steps)


@torch.no_grad()
def judge_layer(part: Part, attention: nn.Module, rank: int, seed: int, *, count: int | None = None) -> dict[str, float]:
    """The error on fresh scenes, relative to predicting 0; by number of tokens where the part tests several."""
    found = {}
    for tokens in part.test_tokens or (count or part.tokens,):
        generator = torch.Generator().manual_seed(_TEST + seed)
        x, asks, wanted = TASKS[part.kind](part.test_scenes, rank, generator, width=part.width, tokens=tokens)
        error = (_read(part, attention, x, asks)[:, :rank] - wanted).square().mean() / wanted.square().mean()
        found[f"error at {tokens}" if part.test_tokens else "error"] = error.item()
    return found


def run_layer(unit: Unit, folder: Path) -> dict[str, float]:
    """A run of the study."""
    part, rank, tokens = unit.part, unit.part.rank(unit.setting), unit.part.count(unit.setting)
    seen = AnglesSeen(part.steps) if part.angles else None
    attention = train_layer(part, unit.layer, rank, unit.rate, unit.seed, tokens=tokens, seen=seen)
    return judge_layer(part, attention, rank, unit.seed, count=tokens) | (seen.values() if seen else {})


def _read(part: Part, attention: nn.Module, x: Tensor, asks: Tensor) -> Tensor:
    """What the layer writes where it is asked, ``(B, C)``."""
    scene = torch.arange(len(x))
    if part.kind in BOUNDED:
        # of many tokens only one asks: the same numbers for an N-th of the maps
        out: Tensor = attention(x[scene, asks].unsqueeze(1), context=x)[:, 0]
        return out
    whole: Tensor = attention(x)[scene, asks]
    return whole


def _roles(x: Tensor, count: int, rank: int, generator: torch.Generator) -> Tensor:
    """Different tokens of every scene that hold a role each, ``(roles, B)``, which is written behind the content."""
    holders = torch.rand(x.shape[:2], generator=generator).argsort(1)[:, :count].T
    for role, holder in enumerate(holders):
        x[torch.arange(len(x)), holder, rank + role] = 1
    return holders


for _kind in TASKS:
    KINDS.add(_kind, Kind(run_layer, lambda part, arm, layer, setting: make_layer(layer, part.width, part.kind)))
