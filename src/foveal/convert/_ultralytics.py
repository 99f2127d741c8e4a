"""ultralytics: attention over maps in YOLO11 (C2PSA) and over areas of them in YOLO12. Each map is a convolution of single pixels and a batch norm, and a
convolution of the values is added before the last of them.

The host's layers are called as they are, so that batch norms go on to count. Queries and keys may be narrower than values: the rest is zero.

Shapes     B images, C channels, (height, width) of the map, N = height · width, H heads, D width of a head of values
"""

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import TokenAttention
from ._host import Place, register_host
from ._parts import Scaled
from ._placed import Placed

__all__: list[str] = []


class _NormedMap(nn.Module):
    """The host's convolution and batch norm as a map of tokens ``(B, N, C) -> (B, N, R)``: some of its rows, in another order, and zeros in between.

    Args:
        host: ``(B, C, height, width) -> (B, R', height, width)``, pixel by pixel.
        rows: which of its channels, R' for a zero; all in their order if None.
    """

    def __init__(self, host: Any, rows: Tensor | None = None) -> None:
        super().__init__()
        self.host = host
        self.rows: Tensor | None
        self.register_buffer("rows", rows, persistent=False)
        self.in_features = host.conv.in_channels
        self.out_features = host.conv.out_channels if rows is None else len(rows)
        self.given: list[Tensor] | None = None
        """Where what comes out is left for the one who asked for it, during one call."""

    @property
    def weight(self) -> Tensor:
        """With the norm in it, as in evaluation."""
        return self._chosen(self.host.conv.weight.flatten(1) * self._gain()[:, None])

    @property
    def bias(self) -> Tensor:
        norm, own = getattr(self.host, "bn", None), self.host.conv.bias
        own = self.host.conv.weight.new_zeros(self.host.conv.out_channels) if own is None else own
        return self._chosen(own if norm is None else norm.bias + (own - norm.running_mean) * self._gain())

    def _gain(self) -> Tensor:
        norm = getattr(self.host, "bn", None)
        if norm is None:
            return self.host.conv.weight.new_ones(self.host.conv.out_channels)
        return norm.weight / (norm.running_var + norm.eps).sqrt()

    def _chosen(self, x: Tensor) -> Tensor:
        return x if self.rows is None else torch.cat([x, torch.zeros_like(x[:1])])[self.rows]

    def forward(self, x: Tensor) -> Tensor:
        # a map of one row: of one column, PyTorch's gradient of a batch norm in evaluation is wrong on CPUs (2.14.1)
        out = self.host(x.mT.unsqueeze(-2)).squeeze(-2)
        out = out.mT if self.rows is None else self._chosen(out.transpose(0, 1)).permute(1, 2, 0)
        if self.given is not None:
            self.given.append(out)
        return out


class _WithPositions(nn.Module):
    """What the heads gathered, plus a convolution of the values as they lie in the map; both ``(B · areas, N / areas, H · D)``."""

    def __init__(self, pe: nn.Module, inner: int) -> None:
        super().__init__()
        self.pe, self.inner = pe, inner
        self.values: list[Tensor] | None = None
        self.size: tuple[int, int] = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        assert self.values, "the map to values was called before"
        height, width = self.size
        v = self.values[-1][..., -self.inner :].reshape(-1, height * width, self.inner)
        more = self.pe(v.mT.unflatten(2, (height, width))).flatten(2).mT
        return x + more.reshape(x.shape)


class _MapPlaced(Placed):
    """Called with a map, ``(B, C, height, width)``, and the same back. What it cuts into areas are rows that follow one another."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(attn)
        self.area = getattr(module, "area", 1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Any = self.attn
        batch, size = len(x), (x.shape[2], x.shape[3])
        if (size[0] * size[1]) % self.area:
            name = self.__dict__.get("place_name", "an attention")
            raise InputError(f"{name} cuts a map into {self.area} areas, which the {size[0]} × {size[1]} pixels of this one do not fill evenly")
        tokens = x.flatten(2).mT.reshape(batch * self.area, -1, x.shape[1])
        made: list[Tensor] = []
        inner.qkv.given, inner.norm.values, inner.norm.size = made, made, size
        try:
            out = self.attn(tokens, **self.options())
        finally:
            inner.qkv.given = inner.norm.values = None
        return out.reshape(batch, size[0] * size[1], -1).mT.unflatten(2, size)


def _checked(name: str, layer: Any) -> Any:
    """A convolution of single pixels, normalized, and no more."""
    conv, act = layer.conv, layer.act
    plain = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
    if not plain or not isinstance(act, nn.Identity):
        raise InputError(f"{name} is more than a convolution of single pixels and a batch norm; leave it out of `where`")
    return layer


def _rows(heads: int, key: int, value: int) -> Tensor:
    """Queries, keys and values of width D of a host that holds them head by head; zeros where it has no more."""
    each, zero = 2 * key + value, heads * (2 * key + value)
    starts = torch.arange(heads)[:, None] * each
    of_values = (starts + 2 * key + torch.arange(value)).flatten()
    of_keys = []
    for first in (0, key):
        rows = torch.full((heads, value), zero)
        rows[:, :key] = starts + first + torch.arange(key)
        of_keys.append(rows.flatten())
    return torch.cat([*of_keys, of_values])


def _read(module: Any, model: nn.Module, name: str) -> Place:
    heads, value = module.num_heads, module.head_dim
    key = getattr(module, "key_dim", value)
    if key > value:
        raise InputError(f"{name} has queries and keys of {key}, wider than its values of {value}, which no attention here has; leave it out of `where`")
    qkv, proj = _checked(f"{name}.qkv", module.qkv), _checked(f"{name}.proj", module.proj)
    if qkv.conv.out_channels != heads * (2 * key + value):
        raise InputError(f"{name}.qkv gives {qkv.conv.out_channels} channels, and {heads} heads of {key}, {key} and {value} are {heads * (2 * key + value)}")
    rows = _rows(heads, key, value).to(qkv.conv.weight.device)
    # padded with zeros, logits are divided by the root of the values' width
    factor = (value / key) ** 0.5
    return Place(
        dim=qkv.conv.in_channels,
        num_heads=heads,
        head_dim=value,
        key_dim=key,
        qkv=_NormedMap(qkv, rows),
        proj=_NormedMap(proj),
        q_norm=Scaled(nn.Identity(), factor) if key != value else nn.Identity(),
        norm=_WithPositions(module.pe, heads * value),
        num_prefix_tokens=0,
        windows=None,
        needs_pairs="a convolution of its values is added to what they give",
        one_stream="a convolution of its values is added to what they give",
        notes=(f"queries and keys are of width {key} and values of {value}; the rest of them is zero",) if key != value else (),
    )


def _wrap(module: Any, ours: nn.Module) -> nn.Module:
    assert isinstance(ours, TokenAttention), "conversion builds these"
    return _MapPlaced(module, ours)


for _name in ("Attention", "AAttn"):
    register_host(f"ultralytics.nn.modules.block.{_name}", _read, _wrap)
