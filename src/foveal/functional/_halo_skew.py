"""Relative logits of halo attention in one product a block: every query with every row of a table, of which each query then reads its own stretch.

A query one step further on reads one step earlier. With the rows in reverse order it reads later instead, and the stretches are a strided view.

Shapes     N blocks, (I, J) queries of a block, W places of a window along the axis, U = W + step · (queries along the axis − 1) rows that are read, D width
"""

from typing import Any, Literal

import torch
from torch import Tensor

from ._halo_blocks import Axis
from ._transforms import transformed

__all__ = ["skewed"]


def skewed(q: Tensor, table: Tensor, axis: Axis, along: Literal["rows", "columns"]) -> Tensor:
    """Logits of queries ``(N, I, J, D)`` and offsets along an axis, ``(N, W, I·J)``."""
    first = axis.rel_start - axis.rel_stride * (axis.queries - 1)
    read = table[first : axis.rel_start + axis.window].flip(0)
    return (_plain if transformed() else _Skewed.apply)(q, read, axis, along).flatten(2)


class _Skewed(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, read: Tensor, axis: Axis, along: str) -> Tensor:
        every = torch.bmm(read.expand(len(q), -1, -1), q.flatten(1, 2).mT).unflatten(2, q.shape[1:3])
        return _stretches(every, axis, along).flip(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.settings = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # once: gradient checkpointing unpacks what was saved a single time
        inputs = list(ctx.saved_tensors)
        q, read = inputs
        if torch.is_grad_enabled():
            # somebody wants second derivatives: differentiate the plain form, of aliases, since one input may be made from another
            inputs = [value.view_as(value) for value in inputs]
            wanted = [value for value, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(_plain(*inputs, *ctx.settings), wanted, grads[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None, None
        every = q.new_zeros(len(q), len(read), *q.shape[1:3])
        _stretches(every, *ctx.settings).copy_(grads[0].flip(1))
        every = every.flatten(2)
        grad_q = torch.bmm(read.mT.expand(len(q), -1, -1), every).mT.unflatten(1, q.shape[1:3]) if ctx.needs_input_grad[0] else None
        grad_read = torch.bmm(every, q.flatten(1, 2)).sum(0) if ctx.needs_input_grad[1] else None
        return grad_q, grad_read, None, None


def _stretches(every: Tensor, axis: Axis, along: str) -> Tensor:
    """The view (N, W, I, J) of (N, U, I, J) that each query reads, backwards."""
    blocks, rows, i, j = every.stride()
    step = axis.rel_stride * rows
    return every.as_strided((len(every), axis.window, *every.shape[2:]), (blocks, rows, i + step, j) if along == "rows" else (blocks, rows, i, j + step))


def _plain(q: Tensor, read: Tensor, axis: Axis, along: str) -> Tensor:
    places = len(read) - 1 - (axis.offsets(q.device) - axis.rel_start + axis.rel_stride * (axis.queries - 1))
    return torch.einsum("nijd,iyd->nyij" if along == "rows" else "nijd,jyd->nyij", q, read[places])
