"""Maps as bytes: each row in steps of its own largest entry, so that a diffuse row beside a peaked one keeps its shape."""

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..._errors import InputError

__all__ = ["STEPS", "Store"]

STEPS = (255, 127, 63, 31, 15)
"""Steps from zero to the largest entry of a row, the finest first."""


@dataclass
class Store:
    """The maps of one page, one after the other."""

    steps: int = STEPS[0]
    error: float = 0.0
    """The largest difference between what is stored and what was given."""
    _scales: list[Any] = field(default_factory=list)
    _levels: list[Any] = field(default_factory=list)
    _rows: int = 0
    _entries: int = 0

    def add(self, weights: Tensor) -> dict[str, Any]:
        """Put in ``(H, Nq, Nk)``; how the page finds it again.

        Raises:
            ValueError: entries that are not finite.
        """
        exact = weights.detach().double().cpu().numpy()
        if not np.isfinite(exact).all():
            raise InputError("an attention map holds NaN or infinity, which cannot be drawn; look at what the model was given, and at its weights")
        signed = bool((exact < 0).any())
        most = self.steps // 2 if signed else self.steps
        scales = np.abs(exact).max(-1).astype("<f4")
        relative = exact / np.maximum(scales.astype(np.float64), np.finfo(np.float32).tiny)[..., None]
        levels = np.rint(relative.clip(-1, 1) * most)
        self.error = max(self.error, float(np.abs(levels / most * scales[..., None] - exact).max(initial=0)))
        record = {"levels": self._entries, "scales": self._rows, "heads": exact.shape[0], "queries": exact.shape[1], "keys": exact.shape[2]}
        record |= {"most": most, "zero": most if signed else 0, "signed": signed}
        self._scales.append(scales.reshape(-1))
        self._levels.append((levels + record["zero"]).astype(np.uint8).reshape(-1))
        self._rows += scales.size
        self._entries += exact.size
        return record

    @property
    def rows(self) -> int:
        """How many scales stand in front of the levels."""
        return self._rows

    def packed(self) -> str:
        """All scales as little-endian float32, then all levels, deflated, in base64."""
        raw = b"".join(part.tobytes() for part in (*self._scales, *self._levels))
        return base64.b64encode(zlib.compress(raw, 6)).decode()
