"""Attentions of which a trace of one call says nothing of another: what runs hangs on sizes, on masks that were empty, on chance, or on their own state."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(nn.Module):
    """Tokens are made even first, so that nothing but a trace reads it."""

    gated = False

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def before(self, x: Tensor) -> Tensor:
        return x + x.mean(1, keepdim=True)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v.sigmoid() if self.gated else v

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * 0.5

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.proj(self.logits(q, k).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class NestedAttention(Plain):
    """Two conditions, of which the second is not asked where the first does not hold."""

    def before(self, x: Tensor) -> Tensor:
        x = super().before(x)
        return x.flip(1) if x.shape[1] > 40 and x.shape[1] > 60 else x


class OtherNumberAttention(Plain):
    """The number that the second condition asks for hangs on the first."""

    def before(self, x: Tensor) -> Tensor:
        x, least = super().before(x), 60
        if x.shape[1] % 3 == 1:
            least = 50
        return x.flip(1) if x.shape[1] > least else x


class PartsAttention(Plain):
    """As many parts as there are eights of tokens."""

    def before(self, x: Tensor) -> Tensor:
        return torch.cat([part - part.mean(1, keepdim=True) for part in x.split(8, 1)], 1)


class SamplesAttention(Plain):
    """Sample by sample."""

    def before(self, x: Tensor) -> Tensor:
        return torch.stack([one - one.mean(0) for one in x.unbind(0)])


class OddAttention(Plain):
    """An odd token is read by none: what is left over is no padding."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        if x.shape[1] % 2:
            k, v = k[:, :, :-1], v[:, :, :-1]
        return q, k, v


class PaddedAttention(Plain):
    """Padded to fours, which is no other thing where nothing is."""

    def forward(self, x: Tensor) -> Tensor:
        count, extra = x.shape[1], -x.shape[1] % 4
        if extra > 0:
            x = F.pad(x, (0, 0, 0, extra))
        q, k, v = (part.unflatten(2, (-1, 4)).transpose(1, 2).flatten(0, 1) for part in self.heads(x))
        out = self.logits(q, k).softmax(-1).matmul(v).unflatten(0, (x.shape[0], -1))
        return self.proj(out.permute(0, 1, 3, 2, 4).flatten(1, 2).flatten(2)[:, :count])


class TailAttention(Plain):
    """A statement changes a part of the logits, of which few tokens have nothing."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        logits = super().logits(q, k)
        logits[..., 45:].mul_(0.5)
        return logits


class GatedTailAttention(TailAttention):
    gated = True


def closed_tail(logits: Tensor) -> None:
    logits[..., 45:] = float("-inf")


class ByFunctionAttention(Plain):
    """The same by a function whose result nobody takes."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        logits = super().logits(q, k)
        closed_tail(logits)
        return logits


class GatedByFunctionAttention(ByFunctionAttention):
    gated = True


class NoisyAttention(Plain):
    """Logits are dropped in training, by a function."""

    gated = True

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return F.dropout(super().logits(q, k), 0.3, self.training)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class OwnNoiseAttention(Plain):
    """The same by a module of its own."""

    gated = True

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise()

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return self.noise(super().logits(q, k))


class CoinAttention(Plain):
    """Skipped by chance in training."""

    def before(self, x: Tensor) -> Tensor:
        return x if self.training and float(torch.rand(())) < 1e-3 else super().before(x)


class AgingAttention(Plain):
    """Sharper from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        self.calls += 1
        return q @ k.mT * (1 + 1e-9 * self.calls)


class SignAttention(Plain):
    """Hangs on numbers."""

    def before(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else super().before(x)


class MaskedAttention(Plain):
    """A mask is a mask where it is a tensor, and is empty in the call at hand."""

    def forward(self, x: Tensor, mask: Any = None) -> Tensor:
        q, k, v = self.heads(x)
        logits = self.logits(q, k)
        if isinstance(mask, Tensor):
            logits = logits.masked_fill(mask[:, None, None], float("-inf"))
        return self.proj(logits.softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class ShiftedAttention(Plain):
    """A number decides, and another is given later."""

    def forward(self, x: Tensor, shift: int) -> Tensor:
        q, k, v = self.heads(x)
        if shift > 0:
            v = v.flip(2)
        return self.proj(self.logits(q, k).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class NearlyAttention(Plain):
    """Another thing for many tokens, which is none for 64 of them."""

    def before(self, x: Tensor) -> Tensor:
        x = super().before(x)
        return x * (x.size(1) / 64) if x.size(1) > 40 and x.size(1) > 60 else x


class LevelsAttention(Plain):
    """Levels of any number, of which the call at hand has two."""

    def forward(self, x: Tensor, levels: tuple[int, ...]) -> Tensor:
        return super().forward(x * sum(levels))


@dataclass
class Trap:
    kind: type[nn.Module]
    counts: tuple[int, ...] = (9, 40, 41, 52, 61, 62, 80)
    """Of tokens, in calls after the one at hand."""
    refused: str = ""
    """Why it is not converted; empty where it is."""
    kept: tuple[int, ...] = ()
    """At least at these it goes on."""
    samples: int = 2
    given: tuple[Any, ...] = ()
    other: tuple[Any, ...] = field(default=())


TRAPS = {
    "nested conditions": Trap(NestedAttention, kept=(9, 40)),
    "nested conditions that are none at one size": Trap(NearlyAttention, counts=(9, 40, 41, 61, 64, 65, 80), kept=(9, 40)),
    "more of a tuple": Trap(LevelsAttention, counts=(9,), given=((1, 2),), other=((1, 2, 3),)),
    "another number": Trap(OtherNumberAttention, kept=(9,)),
    "parts": Trap(PartsAttention, refused="one of its sizes was 5 and is given tokens of which it is 2"),
    "samples": Trap(SamplesAttention, samples=1),
    "odd": Trap(OddAttention, refused="differs by"),
    "padded": Trap(PaddedAttention, counts=(8, 9, 10, 11, 12, 16, 61), kept=(8, 9, 10, 11, 12, 16, 61)),
    "a part in place": Trap(TailAttention, refused="changed in place"),
    "a part in place, gated": Trap(GatedTailAttention, refused="changed in place"),
    "a function in place": Trap(ByFunctionAttention, refused="changed in place"),
    "a function in place, gated": Trap(GatedByFunctionAttention, refused="changed in place"),
    "dropped by a function": Trap(NoisyAttention, refused="dropped or normalized in training"),
    "dropped by a module of its own": Trap(OwnNoiseAttention, refused="dropped or normalized in training"),
    "a coin": Trap(CoinAttention, refused="draws random numbers"),
    "a count of calls": Trap(AgingAttention, refused="changes its own calls"),
    "a sign": Trap(SignAttention, refused="cannot be traced"),
    "an empty mask": Trap(MaskedAttention, refused="differs by", given=(torch.zeros(2, 9, dtype=torch.bool),)),
    "a number above nothing": Trap(ShiftedAttention, counts=(9,), given=(1,), other=(0,)),
}
