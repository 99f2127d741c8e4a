"""What pixels do in SAGAN's place for attention: maps to be gathered, which the mixer projects back and adds.

Paper      SAGAN: Zhang et al. 2018 (arXiv 1805.08318), Sec. 3; external attention in its place: EAGAN, arXiv 2105.02358, Sec. 4.4, unreleased.
Formula    softmax over keys of qᵀk without 1/√d, keys and values max-pooled by 2

Shapes     B batch, C channels, H height, W width, D width of the gathered
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention import ExternalMemory
from ...functional import denoising_attention, denoising_attention_maps, external_attention, external_attention_map, external_token_map
from ...functional.external import ExternalNorm
from ...functional.softmax import softmax_attention, softmax_attention_map
from .spectral import SETTLED, PowerIteration, Spectral

__all__ = ["DenoisingCore", "ExternalCore", "PointwiseCore", "SelfAttentionCore"]

Map = Callable[[int, int], nn.Module]
"""Makes a 1×1 map without bias, from so many channels to so many."""


class SelfAttentionCore(nn.Module):
    """SAGAN's. Values have half the channels in the paper; with 13 / 16 of them the mixer has as many weights as denoising."""

    def __init__(self, channels: int, make: Map, *, value_share: float = 0.5) -> None:
        super().__init__()
        self.width = max(1, int(channels * value_share))
        self.q, self.k = make(channels, max(1, channels // 8)), make(channels, max(1, channels // 8))
        self.v = make(channels, self.width)

    def forward(self, x: Tensor) -> Tensor:
        return _image(softmax_attention(_tokens(self.q(x)), _tokens(_pool(self.k(x))), _tokens(_pool(self.v(x))), scale=1.0), x)

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        return {"combined": softmax_attention_map(_tokens(self.q(x)), _tokens(_pool(self.k(x))), scale=1.0)}


class DenoisingCore(nn.Module):
    """A second map of negative queries and values of its own is taken off: softmax(q kᵀ) v − λ softmax(−q⁻ kᵀ) v⁻."""

    def __init__(self, channels: int, make: Map, *, lambda_init: float = 0.5) -> None:
        super().__init__()
        self.width, narrow = max(1, channels // 2), max(1, channels // 8)
        self.q, self.q_neg, self.k = (make(channels, narrow) for _ in range(3))
        self.v, self.v_neg = make(channels, self.width), make(channels, self.width)
        self.lambdas = nn.Parameter(torch.full((1,), lambda_init))

    def forward(self, x: Tensor) -> Tensor:
        k, v, v_neg = (_tokens(_pool(part(x))) for part in (self.k, self.v, self.v_neg))
        out = denoising_attention(_tokens(self.q(x)), k, v, q_neg=_tokens(self.q_neg(x)), v_neg=v_neg, lambdas=self.lambdas, scale=1.0)
        return _image(out, x)

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        # the maps' own scale is 1/√d
        scale = self.q(x).shape[1] ** 0.5
        q, q_neg = (_tokens(part(x)) * scale for part in (self.q, self.q_neg))
        return denoising_attention_maps(q, _tokens(_pool(self.k(x))), q_neg=q_neg, lambdas=self.lambdas)


class ExternalCore(Spectral):
    """A few memories in the place of keys and values. With C / 2 wide memories of C / 4 slots the mixer has as many weights as SAGAN's."""

    def __init__(
        self,
        channels: int,
        make: Map,
        *,
        slots: int | None = None,
        inner: int | None = None,
        normalization: ExternalNorm = "double",
        spectral_memories: bool = True,
    ) -> None:
        super().__init__()
        self.width = inner or max(1, channels // 2)
        self.q = make(channels, self.width)
        self.memory = ExternalMemory(self.width, slots or max(1, channels // 4), normalization=normalization)
        self.spectral_k = PowerIteration(self.memory.memory_k) if spectral_memories else None
        self.spectral_v = PowerIteration(self._value_memory()) if spectral_memories else None
        self.iterate_(0 if self.memory.memory_k.is_meta else SETTLED)

    def forward(self, x: Tensor) -> Tensor:
        return _image(external_attention(_tokens(self.q(x)), *self._memories(), normalization=self.memory.normalization), x)

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        q, (memory_k, _), how = _tokens(self.q(x)), self._memories(), self.memory.normalization
        return {"slots": external_attention_map(q, memory_k, normalization=how), "combined": external_token_map(q, memory_k, normalization=how)}

    def norms(self) -> dict[str, Tensor]:
        if self.spectral_k is None or self.spectral_v is None:
            return {}
        return {"memory_k": self.spectral_k.norm(self.memory.memory_k), "memory_v": self.spectral_v.norm(self._value_memory())}

    def iterate_(self, count: int) -> None:
        if self.spectral_k is not None and self.spectral_v is not None:
            self.spectral_k.iterate_(self.memory.memory_k, count)
            self.spectral_v.iterate_(self._value_memory(), count)

    def _value_memory(self) -> Tensor:
        assert self.memory.memory_v is not None, "memories are two here"
        return self.memory.memory_v

    def _memories(self) -> tuple[Tensor, Tensor]:
        if self.spectral_k is None or self.spectral_v is None:
            return self.memory.memory_k, self._value_memory()
        return self.spectral_k(self.memory.memory_k), self.spectral_v(self._value_memory())


class PointwiseCore(nn.Module):
    """The weights without the meeting of pixels: ReLU of a map to 5C / 8 channels, which makes as many weights as SAGAN's."""

    def __init__(self, channels: int, make: Map, *, inner: int | None = None) -> None:
        super().__init__()
        self.width = inner or max(1, 5 * channels // 8)
        self.map = make(channels, self.width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.map(x))

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        return {}


def _tokens(x: Tensor) -> Tensor:
    """``(B, D, H, W) -> (B, 1, H·W, D)``."""
    return x.flatten(2).mT[:, None]


def _image(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens[:, 0].mT.unflatten(-1, like.shape[2:])


def _pool(x: Tensor) -> Tensor:
    """The largest of four neighbors; an odd last row or column is left out, and what is a single row or column wide is not pooled that way."""
    sides = [2 if side > 1 else 1 for side in x.shape[2:]]
    return F.max_pool2d(x, sides)
