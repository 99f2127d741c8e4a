"""Choosing points of a cloud: farthest-point sampling and nearest neighbors. Indices only; nothing here has a gradient.

Source     Qi et al., "PointNet++", 2017 (arXiv 1706.02413); the conventions of the CUDA kernels of pointnet2_ops and MenghaoGuo/PCT.
Differs    Ties go to the lowest index. The kernels never choose a point within |p|² ≤ 1e-3 of the origin, which they take for padding: ``skip_origin=True``.

Shapes     B batch, N points, n chosen points, k neighbors
"""

from typing import Literal

import torch
from torch import Tensor

from .._errors import InputError
from ._precision import whole_precision, wide

__all__ = ["farthest_points", "gather_points", "nearest_points"]

_NEAR_ORIGIN = 1e-3
_CHUNK_ENTRIES = 1 << 24
"""Distances in memory at a time: 64 MiB of float32."""


@torch.no_grad()
@torch.compiler.disable  # type: ignore[untyped-decorator]
def farthest_points(
    xyz: Tensor, n: int, *, start: Literal["first", "random"] = "first", skip_origin: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Indices of points, each the farthest from all chosen before it.

    Args:
        xyz: coordinates, ``(B, N, 3)``.
        n: how many, at most N.
        start: the first point of each cloud, or any.
        skip_origin: never choose a point within |p|² ≤ 1e-3, as the reference kernels; where all lie there, index 0 repeats.
        generator: for a random start.

    Returns:
        ``(B, n)``, int64.

    Raises:
        ValueError: a shape other than (B, N, 3), or more points asked for than there are.
    """
    _check(xyz, "xyz")
    batch, number = xyz.shape[:2]
    if not 1 <= n <= number:
        raise InputError(f"{n} points cannot be chosen from clouds of {number}; give clouds of at least {n} points, or sample fewer")
    # each coordinate by itself and contiguous: a few vectorized passes over (B, N) a step instead of strided ones over (B, N, 3)
    x, y, z = (
        (part.contiguous() for part in xyz.detach().float().unbind(-1)) if xyz.dtype != torch.float64 else (p.contiguous() for p in xyz.detach().unbind(-1))
    )
    nearest = torch.full_like(x, float("inf"))
    excluded = (x * x + y * y + z * z) <= _NEAR_ORIGIN if skip_origin else None
    chosen = torch.empty(batch, n, dtype=torch.int64, device=xyz.device)
    last = torch.zeros(batch, 1, dtype=torch.int64, device=xyz.device)
    if start == "random":
        last = torch.randint(number, (batch, 1), generator=generator, device=xyz.device)
    elif start != "first":
        raise InputError(f"start must be 'first' or 'random', got {start!r}")
    # memory that is taken anew at each step costs a tenth of it
    away, other = torch.empty_like(x), torch.empty_like(x)
    for step in range(n):
        chosen[:, step : step + 1] = last
        torch.sub(x, x.gather(1, last), out=away).square_()
        away += torch.sub(y, y.gather(1, last), out=other).square_()
        away += torch.sub(z, z.gather(1, last), out=other).square_()
        torch.minimum(nearest, away, out=nearest)
        last = (nearest if excluded is None else nearest.masked_fill(excluded, -1.0)).argmax(1, keepdim=True)
        if excluded is not None:
            last = last.masked_fill(excluded.all(1, keepdim=True), 0)
    return chosen


@torch.no_grad()
def nearest_points(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` points nearest to each query, nearest first.

    Args:
        queries: ``(B, n, 3)``.
        points: ``(B, N, 3)``; a query that is among them finds itself.
        k: how many, at most N.

    Returns:
        ``(B, n, k)``, int64.

    Raises:
        ValueError: shapes other than these, or more neighbors asked for than there are points.
    """
    _check(queries, "queries")
    _check(points, "points")
    if not 1 <= k <= points.shape[1]:
        raise InputError(f"{k} neighbors cannot be found among {points.shape[1]} points; give clouds of at least {k} points, or ask for fewer neighbors")
    rows = max(1, _CHUNK_ENTRIES // (points.shape[0] * points.shape[1]))
    # half precision loses neighbors
    with whole_precision(queries):
        parts, points = wide(queries).split(rows, dim=1), wide(points)
        found = [torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False).indices for part in parts]
    return torch.cat(found, 1)


def gather_points(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``values`` by index: ``(B, N, D)`` and ``(B, …)`` to ``(B, …, D)``."""
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


def _check(xyz: Tensor, what: str) -> None:
    if xyz.ndim != 3 or xyz.shape[-1] != 3 or not xyz.is_floating_point():
        raise InputError(f"expected {what} (B, N, 3) in floating point, got {tuple(xyz.shape)} of {xyz.dtype}")
