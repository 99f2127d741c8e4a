"""What every registered network costs, counted on the meta device, beside what its paper says."""

from collections.abc import Iterator, Sequence
from typing import Any

import timm

from ..analysis import cost
from ._register import PUBLISHED, Published

__all__ = ["HEADER", "rows"]

HEADER = ("name", "parameters", "published", "MACs", "published result (not reproduced)", "source")


def rows(names: Sequence[str] | None = None) -> Iterator[tuple[str, ...]]:
    """Lines under :data:`HEADER`, of all networks if None. Multiply-adds are of one sample at the size of the default configuration."""
    for name in sorted(PUBLISHED) if names is None else names:
        yield _row(name, PUBLISHED[name])


def _row(name: str, published: Published) -> tuple[str, ...]:
    model: Any = timm.create_model(name, device="meta")
    channels, height, width = model.pretrained_cfg["input_size"]
    frames = (model.num_frames,) if hasattr(model, "num_frames") else ()
    counted = cost(model, (channels, *frames, height, width))
    return (f"`{name}`", f"{counted.parameters:,}", published.parameters, f"{counted.macs / 1e9:.2f} G", published.result, published.source)
