"""Fitting one attention to another's outputs: least squares for the map behind it, Adam for what is in it.

Shapes     n tokens, I inner width, C width of the tokens
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import TokenAttention
from ..attention._feature_map import FeatureMapAttention
from ._capture import Call, Calls, first_tensor

__all__ = ["Student", "least_squares", "relative_error", "take_steps"]


class Student:
    """A copy of a converted module to be fitted, in float32 at least, sharing nothing with the model.

    Args:
        replacement: the module. Its parameters that do not require gradients are not fitted.
    """

    def __init__(self, replacement: nn.Module) -> None:
        self.module = copy.deepcopy(replacement).eval()
        self.stored_as = next(replacement.parameters()).dtype
        self.dtype = torch.float64 if self.stored_as == torch.float64 else torch.float32
        self.module.to(self.dtype)
        self.attention: Any = next(part for part in self.module.modules() if isinstance(part, (TokenAttention, FeatureMapAttention)))

    def __call__(self, call: Call) -> Tensor:
        args, kwargs = self._cast(call.args), self._cast(call.kwargs)
        return first_tensor(self.module.forward(*args, **kwargs))

    def target(self, call: Call) -> Tensor:
        return call.target.to(self.dtype)

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.attention.named_parameters() if value.requires_grad}

    def rounded(self) -> "Student":
        """A copy with the numbers that the model can hold."""
        other = copy.deepcopy(self)
        with torch.no_grad():
            for value in other.module.parameters():
                value.copy_(value.to(self.stored_as))
        return other

    def at_proj(self, call: Call) -> tuple[Tensor, Tensor]:
        """What goes into ``proj``, and what the module gives."""
        seen: list[Tensor] = []
        # with a hook the layer is called, and not its weight used
        handle = self.attention.proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            out = self(call)
        finally:
            handle.remove()
        return seen[0], out

    def proj_comes_last(self, call: Call) -> str | None:
        """``as it is`` or ``turned`` (tokens first) where the module gives what ``proj`` gives; None where its host does more."""
        with torch.no_grad():
            features, out = self.at_proj(call)
            given = self.attention.proj(features)
        for how, same in (("as it is", given), ("turned", given.transpose(0, 1))):
            if same.shape == out.shape and torch.allclose(same, out, rtol=1e-4, atol=1e-5 * float(out.abs().max())):
                return how
        return None

    def _cast(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self.dtype) if value.is_floating_point() else value
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(self._cast(part) for part in value)
        if isinstance(value, list):
            return [self._cast(part) for part in value]
        return {key: self._cast(part) for key, part in value.items()} if type(value) is dict else value


def all_calls(calls: Calls, batches: Sequence[int]) -> Iterator[Call]:
    for index in batches:
        yield from calls[index]


@torch.no_grad()
def relative_error(student: Student, calls: Calls, batches: Sequence[int]) -> float:
    """Norm of the difference over the norm of the original's outputs."""
    wrong, whole = 0.0, 0.0
    for call in all_calls(calls, batches):
        target = student.target(call)
        wrong += float((student(call) - target).double().square().sum()) if target.device.type != "mps" else float((student(call) - target).square().sum())
        whole += float(target.square().sum())
    error = math.sqrt(wrong / whole) if whole else (0.0 if wrong == 0 else math.inf)
    return error if math.isfinite(error) else math.inf


@torch.no_grad()
def least_squares(student: Student, calls: Calls, batches: Sequence[int], ridges: Sequence[float], how: str) -> list[Student]:
    """Copies, one a ridge, with the best ``proj`` there is on what goes into it; near the one it was where the tokens do not say.

    Minimizes Σ |W z + b − y|² / n + ridge · s · |W − W₀|², s the mean square of z. What is summed is (I + 1)² numbers, however many tokens there are.
    """
    proj = student.attention.proj
    assert type(proj) is nn.Linear, "checked by the caller"
    free_bias = proj.bias is not None and proj.bias.requires_grad
    gram: Tensor | None = None
    cross: Tensor | None = None
    for call in all_calls(calls, batches):
        features, _ = student.at_proj(call)
        target = student.target(call)
        target = target.transpose(0, 1) if how == "turned" else target
        # the difference to what it gives is what is solved for: with nothing to say, nothing changes
        z, y = (_exact(value.reshape(-1, value.shape[-1])) for value in (features, target - proj(features)))
        z = torch.cat([z, torch.ones_like(z[:, :1])], dim=1) if free_bias else z
        if gram is None or cross is None:
            gram, cross = z.transpose(-2, -1) @ z, y.transpose(-2, -1) @ z
        else:
            gram += z.transpose(-2, -1) @ z
            cross += y.transpose(-2, -1) @ z
    assert gram is not None, "there is a batch to fit"
    assert cross is not None, "there is a batch to fit"
    width, solved = proj.in_features, []
    penalty = torch.zeros(len(gram), dtype=gram.dtype, device=gram.device)
    penalty[:width] = gram.diagonal()[:width].mean()
    for ridge in ridges:
        held = gram + ridge * penalty.diag()
        # without a penalty features may be fewer than they seem: heads that give the same, or nothing at all
        sure = ridge > 0 and float(penalty[0]) > 0
        change = torch.linalg.solve(held, cross.transpose(-2, -1)).transpose(-2, -1) if sure else cross @ torch.linalg.pinv(held, hermitian=True)
        other = copy.deepcopy(student)
        other.attention.proj.weight.add_(change[:, :width].to(proj.weight))
        if free_bias:
            other.attention.proj.bias.add_(change[:, width].to(proj.bias))
        solved.append(other)
    return solved


def take_steps(
    student: Student, calls: Calls, batches: Sequence[int], *, steps: int, lr: float, new: Sequence[str], generator: torch.Generator, tick: Callable[[], None]
) -> None:
    """Adam on a batch a step, under a cosine, in place. What the conversion made new moves ten times as fast as what came from pretrained weights."""
    trainable = student.trainable()
    slow, fast = ([value for name, value in trainable.items() if (name in new) is want] for want in (False, True))
    groups = [{"params": part, "lr": rate} for part, rate in ((slow, lr), (fast, 10 * lr)) if part]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        for call in calls[order.pop()]:
            target = student.target(call)
            loss = (student(call) - target).square().sum() / target.square().sum().clamp_min(torch.finfo(target.dtype).tiny)
            gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
            for value, gradient in zip(trainable.values(), gradients, strict=True):
                value.grad = gradient
            optimizer.step()
        schedule.step()
        tick()


def _exact(x: Tensor) -> Tensor:
    """In float64, on a device that has it."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
