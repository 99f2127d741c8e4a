"""Answers of a network for several stretched copies of a cloud, averaged: voting, as results on clouds are often given. Off unless asked for.

The copies are the same for every cloud, so that numbers depend neither on batches nor on processes. The first vote is of the cloud as it is.

Shapes     B batch, N points, C channels, K classes
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._errors import InputError
from ..._ranges import Range
from ..data import PointBundle, seed_of
from ..data.points.augment import Axis, Turning, random_factors, random_turn, scaled, turned

__all__ = ["Voting"]


@dataclass(frozen=True, kw_only=True)
class Voting:
    """Settings of a task on clouds."""

    usual_scale: ClassVar[tuple[float, float]] = (2 / 3, 3 / 2)
    ranges: ClassVar[Mapping[str, Range]] = {"votes": Range(at_least=1), "vote_scale": Range(above=0)}

    votes: int = 1
    """In evaluation, average the probabilities of the cloud as it is and of so many copies less one, each stretched along its axes. 1 is no voting."""
    vote_scale: tuple[float, float] | None = None
    """Least and largest factor of a copy; what training draws in the published settings if None."""
    vote_rotation: Turning = "none"
    """Turn the copies too: z about the up axis, so3 by any rotation. For networks that were trained on turned clouds."""
    vote_up_axis: Axis = "y"
    """About which z turns; it must be the data's."""

    def check_votes(self) -> None:
        """Refuse factors that are none."""
        if self.vote_scale is not None and (len(self.vote_scale) != 2 or self.vote_scale[0] > self.vote_scale[1]):
            raise InputError(f"vote_scale is the least and the largest factor, got {self.vote_scale}")

    def check_up(self, bundle: PointBundle) -> None:
        """Refuse to turn about an axis that does not point up.

        Raises:
            ValueError: it does not.
        """
        if self.votes > 1 and self.vote_rotation == "z" and self.vote_up_axis != bundle.up_axis:
            raise InputError(f"votes turn about {self.vote_up_axis}, and in the data {bundle.up_axis} points up; give vote_up_axis {bundle.up_axis}")

    def voted(self, label: str) -> str:
        """The name of a number, which says that it was voted."""
        return label if self.votes == 1 else f"{label}, {self.votes} votes"

    def vote(self, answer: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
        """Logits ``(B, …, K)`` of :meth:`Voting` for points ``(B, N, C)``: logarithms of mean probabilities, or with one vote the answer itself."""
        if self.votes == 1:
            return answer(points)
        found = [answer(self._copy(points, number)).float().log_softmax(-1) for number in range(self.votes)]
        return torch.stack(found).logsumexp(0) - math.log(self.votes)

    def _copy(self, points: Tensor, number: int) -> Tensor:
        if number == 0:
            return points
        generator = torch.Generator().manual_seed(seed_of("vote", number))
        copy = scaled(points, random_factors(self.vote_scale or self.usual_scale, generator=generator).to(points))
        if self.vote_rotation == "none":
            return copy
        return turned(copy, random_turn(self.vote_rotation, self.vote_up_axis, generator=generator).to(points))
