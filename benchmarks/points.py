"""Point clouds: sampling, a training step of PCT, and external attention in the place of its offset attention.

Sampling is held against the loop as it is usually written, over coordinates ``(B, N, 3)``; the training step against the same network with that loop and with
offset attention in the two steps of the official text (equal loss and gradient, shown first). External and offset attention are not the same function, so each
is first shown to equal its own reference. Each ratio is measured three times over; the line has the one in the middle, the range of all, and counts as met
where the lowest is.
"""

import copy
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor, nn

from foveal.functional import external_attention, external_attention_reference
from foveal.functional.offset import offset_attention, offset_attention_reference
from foveal.functional.points import farthest_points
from foveal.models.points import PCT, PCTParts
from foveal.models.points.mixer import OffsetMix

from ._harness import Row, check_equal, paired_ratio

TIMES = 3


def rows() -> Iterator[Row]:
    clouds = torch.randn(32, 1024, 3)
    check_equal(lambda: farthest_points(clouds, 512).double(), lambda: usual_sampling(clouds, 512).double(), 1e-12)
    yield _faster("sampling / the usual loop", "32 × 1,024 → 512", lambda: farthest_points(clouds, 512), lambda: usual_sampling(clouds, 512), 3.0)

    points = torch.randn(4, 1024, 3)
    ours, theirs = _step(PCT(drop_rate=0.0), points), _plain(_step(PCT(drop_rate=0.0), points))
    yield _step_row(ours, theirs, points)

    k, v = torch.randn(2, 256, 32) / 3, torch.randn(2, 256, 128)
    check_equal(lambda: offset_attention(k, v), lambda: offset_attention_reference(k, v))
    q, memory_k, memory_v = torch.randn(2, 1, 256, 128), torch.randn(64, 128) / 8, torch.randn(64, 128)
    check_equal(lambda: external_attention(q, memory_k, memory_v), lambda: external_attention_reference(q, memory_k, memory_v))
    many, shapes = torch.randn(2, 2048, 3), torch.tensor([0, 1])
    external, offset = (_step(PCTParts(attention=name, drop_rate=0.0), many, shapes) for name in ("external", "offset"))
    yield _faster("external / offset in all four layers of pct-part, training step", "2 × 2,048 points", external, offset, 1.3)


def usual_sampling(xyz: Tensor, n: int) -> Tensor:
    """As ports of PointNet++ have it, with the first point first."""
    batch, number, _ = xyz.shape
    chosen = torch.zeros(batch, n, dtype=torch.long)
    distance = torch.full((batch, number), 1e10)
    farthest = torch.zeros(batch, dtype=torch.long)
    rows = torch.arange(batch)
    for step in range(n):
        chosen[:, step] = farthest
        away = ((xyz - xyz[rows, farthest].view(batch, 1, 3)) ** 2).sum(-1)
        distance = torch.where(away < distance, away, distance)
        farthest = distance.max(-1)[1]
    return chosen


Step = Callable[[], Tensor]


def _step(model: nn.Module, *inputs: Tensor) -> Step:
    """Forward and backward; the gradient of the first map, so that two steps can be compared."""
    model.train()
    first = next(model.parameters())

    def call() -> Tensor:
        model.zero_grad(set_to_none=True)
        model(*inputs).float().logsumexp(-1).mean().backward()
        assert first.grad is not None, "it was just computed"
        return first.grad

    call.model = model  # type: ignore[attr-defined]
    return call


def _plain(step: Step) -> Step:
    """The same step with the usual loop and the two steps of the official offset attention."""

    def call() -> Tensor:
        with (
            patch("foveal.models.points.grouping.farthest_points", lambda xyz, n, **_: usual_sampling(xyz, n)),
            patch("foveal.models.points.mixer.offset_attention", lambda k, v, eps=0.0: offset_attention_reference(k, v, eps=eps)),
        ):
            return step()

    call.model = step.model  # type: ignore[attr-defined]
    return call


def _step_row(ours: Step, theirs: Step, points: Tensor) -> Row:
    for mix in ours.model.modules():  # type: ignore[attr-defined]
        if isinstance(mix, OffsetMix):
            # logits of hundreds, as at the start, make the official division 0/0; times do not depend on values
            mix.qk.weight.data *= 0.1
    theirs.model.load_state_dict(copy.deepcopy(ours.model.state_dict()))  # type: ignore[attr-defined]
    check_equal(ours, theirs, 1e-3)
    return _faster("pct, training step / our plain formulation", f"{points.shape[0]} × {points.shape[1]:,} points", ours, theirs, 1.0)


def _faster(what: str, setting: str, ours: Callable[[], object], theirs: Callable[[], object], limit: float) -> Row:
    """Their time over ours, three times."""
    found = sorted((paired_ratio(ours, theirs) for _ in range(TIMES)), key=lambda one: -one[2])
    ratios = [1 / ratio for _, _, ratio in found]
    a, b, _ = found[TIMES // 2]
    setting += f"; {TIMES} runs: {ratios[0]:.2f} to {ratios[-1]:.2f}"
    return Row(what, setting, f"{1e3 * a:.1f} ms", f"{1e3 * b:.1f} ms", ratios[TIMES // 2], f"≥ {limit} × faster", ratios[0] >= limit)
