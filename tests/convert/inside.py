"""Attentions that do something between their maps and the softmax, or unpack sizes on the way: two of every kind, in other styles than libraries'."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tests.convert.test_hosts import stirred


class One(nn.Module):
    """A stem of 16 channels and one attention, given tokens, or rows and columns beside them."""

    def __init__(self, attn: nn.Module, how: str) -> None:
        super().__init__()
        self.stem, self.attn, self.how = nn.Conv2d(3, 16, 4, 4), attn, how

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        tokens, (height, width) = x.flatten(2).mT, x.shape[2:]
        if self.how == "counted":
            return self.attn(tokens, height, width)
        if self.how == "rows":
            return self.attn(x.permute(0, 2, 3, 1))
        where = (torch.linspace(-1, 1, 16).roll(3) * torch.arange(tokens.shape[1])[:, None].cos())[None]
        out = self.attn(tokens, where) if self.how == "positions" else self.attn(tokens)
        return out[0] if isinstance(out, tuple) else out


def heads_of(layer: nn.Module, x: Tensor, heads: int) -> Tensor:
    return layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)


class StarredAttention(nn.Module):
    """Sizes unpacked by stars, rows and columns as two numbers, keys and values of every other pixel."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.width = dim // heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.less = nn.Conv2d(dim, dim, 2, 2, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        *lead, dim = x.shape
        shape = (*x.shape[:-1], -1, self.width)
        q = self.q(x).view(shape).transpose(1, 2)
        less = self.less(x.mT.reshape(x.shape[0], dim, height, width)).flatten(2).mT
        k, v = (layer(less).view(*less.shape[:2], -1, self.width).transpose(1, 2) for layer in (self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] == 1 and len(lead) > 2)
        return self.o(out.transpose(1, 2).reshape(*lead, -1))


class LetterAttention(nn.Module):
    """By letters, all three reduced in a way of their own, and the size of the map is asked for on the way."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.ModuleList(nn.Sequential(nn.Conv2d(dim, dim, 3, step, 1, groups=dim, bias=False), nn.BatchNorm2d(dim)) for step in (1, 2, 2))
        self.maps, self.o = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3)), nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        image = rearrange(x, "b (h w) c -> b c h w", h=height, w=width)
        parts = [rearrange(less(image), "b c h w -> b (h w) c") for less in self.before]
        q, k, v = (rearrange(layer(part), "b n (h d) -> b n h d", h=self.heads) for layer, part in zip(self.maps, parts, strict=True))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).mul(0.3).softmax(-1)
        assert weights.shape[-2] == height * width
        return self.o(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


class CappedAttention(nn.Module):
    """Logits within 3, as of Gemma 2; heads in the open."""

    def __init__(self, dim: int = 16, heads: int = 4, cap: float = 3.0) -> None:
        super().__init__()
        self.heads, self.cap = heads, cap
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))

    def bent(self, logits: Tensor) -> Tensor:
        return torch.tanh(logits / self.cap) * self.cap

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        q, k, v = (heads_of(layer, x, self.heads) for layer in (self.q, self.k, self.v))
        logits = self.bent(q @ k.mT * 0.7)
        weights = (logits if attn_mask is None else logits + attn_mask).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2)), weights


class CappedLessAttention(StarredAttention):
    """The same over fewer keys, with a slope over them for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.of_heads = nn.Parameter(torch.randn(2, 1, 1))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        less = self.less(x.mT.unflatten(2, (height, width))).flatten(2).mT
        q, k, v = heads_of(self.q, x, 2), heads_of(self.k, less, 2), heads_of(self.v, less, 2)
        slope = self.of_heads * torch.arange(k.shape[2], device=x.device, dtype=x.dtype)[None]
        weights = (5 * ((q @ k.transpose(-1, -2)) / 10).tanh() + slope).softmax(dim=-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class TurningAttention(nn.Module):
    """Turned by its own count of tokens, keys as queries, tokens in front of heads; a norm before."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.o, self.even = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.LayerNorm(dim // heads)
        self.register_buffer("speeds", torch.tensor([1.0, 0.3, 0.1, 0.02]))

    def turned(self, x: Tensor, by: float) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1], device=x.device), self.speeds).mul(by)[:, None]
        one, other = x[..., ::2], x[..., 1::2]
        return torch.stack([one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()], dim=-1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = self.turned(self.even(q), 1.0).transpose(1, 2), self.turned(self.even(k), 1.5).transpose(1, 2)
        return self.o(F.scaled_dot_product_attention(q, k, v.transpose(1, 2)).transpose(1, 2).flatten(2))


class DecayedAttention(nn.Module):
    """Queries alone are weighed by how far down they lie; values are normalized head by head."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.o = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.rate, self.norm = nn.Parameter(torch.randn(dim // heads)), nn.LayerNorm(dim // heads, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        q, (k, v) = self.q(x), self.kv(x).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        far = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None] / x.shape[1]
        return self.o(F.scaled_dot_product_attention(q * (1 + far * self.rate.sigmoid()), k, self.norm(v)).transpose(1, 2).flatten(2))


class PooledQueriesAttention(nn.Module):
    """The largest of every four queries asks."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q = F.max_pool2d(q.reshape(batch, height, width, -1).permute(0, 3, 1, 2), 2)
        height, width = q.shape[-2:]
        q = q.flatten(2).mT.reshape(batch, height * width, self.heads, -1)
        out = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.o(out.transpose(1, 2).reshape(batch, height, width, -1))


class UnitAttention(nn.Module):
    """Windows of every fourth token, cut behind the map, in which the mean of every two queries asks; the output is put together by letters."""

    def __init__(self, dim: int = 16, heads: int = 2, pooled: bool = True) -> None:
        super().__init__()
        self.heads, self.pooled = heads, pooled
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b (t w) (p h d) -> p b h w t d", p=3, w=4, h=self.heads)
        if self.pooled:
            q = rearrange(q, "b h w (s t) d -> b h w s t d", s=2).mean(3)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.o(rearrange(weights @ v, "b h w t d -> b (t w) (h d)"))


class PlacedAttention(nn.Module):
    """Contents and positions through maps of their own, added."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qc, self.qp, self.kc, self.kp, self.v, self.o = (nn.Linear(dim, dim, bias=index != 1) for index in range(6))

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        q, k, v = self.qc(x) + self.qp(where), self.kp(where) + self.kc(x), self.v(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class InnerAttention(nn.Module):
    """Makes no queries of its own, and hands on its map."""

    def __init__(self, dim: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.o = heads, nn.Linear(dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.mT * 0.4).softmax(-1)
        return self.o((F.dropout(weights, 0.2, self.training) @ v).transpose(1, 2).flatten(2)), weights


class OwningAttention(nn.Module):
    """Owns the maps of one that has none, adds what came and normalizes; two positions are added to queries."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.maps, self.inner, self.even = nn.ModuleList(nn.Linear(dim, dim) for _ in range(5)), InnerAttention(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c, d, e = self.maps
        out, weights = self.inner(a(x) + b(where) + c(x * 0.5), d(x), e(x))
        return self.even(x + F.dropout(out, 0.1, self.training)), weights


@dataclass
class Case:
    make: Callable[[], nn.Module]
    how: str = "tokens"
    place: str = "attn"
    kept: str = ""
    """A parameter of the host that goes on beside the attention."""
    alone: str = ""
    """Why an attention without pairs cannot stand there."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return stirred(One(self.make(), self.how))


CASES = {
    "stars": Case(StarredAttention, "counted", kept="less.weight", alone="reads no other tokens"),
    "letters": Case(LetterAttention, "counted", kept="before.0.0.weight", alone="reads no other tokens"),
    "capped": Case(CappedAttention, alone="kept within 3 by a hyperbolic tangent"),
    "capped, fewer keys": Case(CappedLessAttention, "counted", kept="of_heads", alone="a bias is added"),
    "turned": Case(TurningAttention),
    "queries weighed": Case(DecayedAttention, kept="rate"),
    "queries pooled": Case(PooledQueriesAttention, "rows", alone="its queries are pooled"),
    "windows behind the map": Case(UnitAttention, alone="its queries are pooled"),
    "contents and positions": Case(PlacedAttention, "positions", alone="changes the width"),
    "maps of the owner": Case(OwningAttention, "positions", kept="even.weight", alone="changes the width"),
}
