"""Queries, keys and values from three linear maps that stay apart, where one map cannot stand for them."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Apart"]


class Apart(nn.Module):
    """Three linear maps of one input, in the place of one ``qkv``. Each is called, so whatever hangs on it goes on: adapters, hooks, masks, frozen parts.

    Where keys and values are always made of other tokens than queries, these may be of another width.

    Shape:
        ``(B, N, C) -> (B, N, I_q + I_k + I_v)``.
    """

    def __init__(self, q: Any, k: Any, v: Any) -> None:
        super().__init__()
        self.q, self.k, self.v = q, k, v
        self.widths = tuple(layer.weight.shape[0] for layer in (q, k, v))
        self.in_features, self.out_features = q.weight.shape[1], sum(self.widths)
        self.context_features = k.weight.shape[1]
        """Width of the tokens that keys and values are made from; another than that of those who ask where these are always others."""

    @property
    def layers(self) -> list[Any]:
        return [self.q, self.k, self.v]

    @property
    def weight(self) -> Tensor:
        """The layers' own weights in one, ``(I_q + I_k + I_v, C)``; adapters are no part of it."""
        return torch.cat([layer.weight for layer in self.layers])

    @property
    def bias(self) -> Tensor | None:
        """Zeros where one layer has none and others do."""
        biases = [layer.bias for layer in self.layers]
        if all(bias is None for bias in biases):
            return None
        return torch.cat([layer.weight.new_zeros(width) if bias is None else bias for layer, width, bias in zip(self.layers, self.widths, biases, strict=True)])

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """All rows, or some; a layer that has none of them is not called."""
        start, stop, _ = (rows or slice(None)).indices(self.out_features)
        out, at = [], 0
        for layer, width in zip(self.layers, self.widths, strict=True):
            first, last = max(start - at, 0), min(stop - at, width)
            if first < last:
                got = layer(x)
                out.append(got if last - first == width else got[..., first:last])
            at += width
        return out[0] if len(out) == 1 else torch.cat(out, dim=-1)
