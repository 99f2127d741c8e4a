"""Attentions that do more than attend, one of every kind: of timm, and siblings that nobody wrote before."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.convert.test_hosts import stirred


class One(nn.Module):
    """A stem of 16 channels and one attention, called as its library does."""

    def __init__(self, attn: nn.Module, how: str) -> None:
        super().__init__()
        self.stem, self.attn, self.how = nn.Conv2d(3, 16, 4, 4), attn, how

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        if self.how == "map":
            return self.attn(x)
        if self.how == "rows":
            return self.attn(x.permute(0, 2, 3, 1))
        if self.how == "sized":
            made = self.attn(x.flatten(2).mT, (x.shape[2], x.shape[3]))
            # some give the size that is left as well
            return made[0] if isinstance(made, tuple) else made
        if self.how == "windows":
            return self.attn(x.unflatten(3, (-1, 4)).permute(0, 3, 2, 4, 1).flatten(2, 3))
        return self.attn(x.flatten(2).mT)


@dataclass
class Case:
    make: Callable[[], nn.Module]
    how: str = "map"
    sizes: tuple[tuple[int, int], ...] = ((32, 32), (48, 64))
    """Of images; the first is what it is read at."""
    reads_others: bool = False
    """Whether keys are other tokens than queries."""
    alone: bool = False
    """Whether nothing but attentions of pairs can stand there for another reason."""
    named: bool = False
    """Whether it is converted only by name."""
    kept: tuple[str, ...] = ()
    """Parameters of the host that go on beside the attention."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return stirred(One(self.make(), self.how))

    def images(self, index: int = 0, seed: int = 5) -> Tensor:
        return torch.randn(2, 3, *self.sizes[index], generator=torch.Generator().manual_seed(seed))

    @property
    def where(self) -> str:
        return "attn" if self.named else "*"


def of_timm(path: str, *args: Any, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pytest.importorskip("timm")
        module, _, name = path.rpartition(".")
        return getattr(__import__(f"timm.{module}", fromlist=[name]), name)(*args, **options)

    return make


class PooledKeysAttention(nn.Module):
    """Keys and values by different reductions, values before keys in one map, heads behind their width, a scale of its own; logits in the open."""

    def __init__(self, dim: int = 16, heads: int = 2, pool: int = 2, drop: float = 0.1) -> None:
        super().__init__()
        self.heads, self.pool = heads, pool
        self.ask, self.answer = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim)
        self.smaller, self.even, self.drop, self.out = nn.Conv2d(dim, dim, pool, pool, groups=dim), nn.LayerNorm(dim), nn.Dropout(drop), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        q = self.ask(x).flatten(1, 2).unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)
        small = self.even(self.smaller(x.permute(0, 3, 1, 2)).flatten(2).mT)
        v, k = self.answer(small).chunk(2, dim=-1)
        k, v = (part.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2) for part in (k, v))
        weights = self.drop((q @ k.transpose(-2, -1) * 0.4).softmax(dim=-1))
        return self.out((weights @ v).permute(0, 2, 3, 1).reshape(batch, height, width, dim))


class GridAttention(nn.Module):
    """Windows cut by the module, one convolution for all, a norm behind it, a bias of pairs made by a network, a convolution behind the windows."""

    def __init__(self, dim: int = 16, heads: int = 4, window: int = 4) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.bn, self.proj, self.last = nn.Conv2d(dim, 3 * dim, 1), nn.BatchNorm2d(3 * dim), nn.Conv2d(dim, 2 * dim, 1), nn.Conv2d(2 * dim, 8, 3)
        self.table = nn.Parameter(torch.randn(heads, window**2, window**2))

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, height, width = x.shape
        x = x.view(batch, dim, height // self.window, self.window, width // self.window, self.window).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(-1, dim, self.window, self.window)
        q, k, v = self.bn(self.qkv(x)).flatten(2).mT.chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.table.tanh())
        out = self.proj(out.transpose(2, 3).reshape(-1, dim, self.window, self.window))
        out = out.view(batch, height // self.window, width // self.window, -1, self.window, self.window).permute(0, 3, 1, 4, 2, 5)
        return self.last(out.reshape(batch, -1, height, width))


class LatentAttention(nn.Module):
    """Queries that are learned, no output map, and a network behind."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.seeds = heads, nn.Parameter(torch.randn(3, dim))
        self.q, self.k, self.v, self.after = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 5))

    def forward(self, x: Tensor) -> Tensor:
        asked = self.seeds[None].expand(x.shape[0], -1, -1)
        q, k, v = (layer(part).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, part in ((self.q, asked), (self.k, x), (self.v, x)))
        return self.after(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)


CASES = {
    "PVT v2": Case(of_timm("models.pvt_v2.Attention", 16, 2, sr_ratio=2), "sized", reads_others=True, kept=("sr.weight", "norm.bias")),
    "PVT v2, linear": Case(of_timm("models.pvt_v2.Attention", 16, 2, sr_ratio=1, linear_attn=True), "sized", ((32, 32), (64, 36)), True, kept=("sr.weight",)),
    "Twins, reduced": Case(of_timm("models.twins.GlobalSubSampleAttn", 16, 2, sr_ratio=2), "sized", reads_others=True, kept=("sr.weight",)),
    # one window at the size that it is read at, and none that fits
    "Twins, windows": Case(of_timm("models.twins.LocallyGroupedAttn", 16, 2, ws=3), "sized", ((8, 8), (48, 28))),
    "NextViT": Case(of_timm("models.nextvit.EfficientAttention", 16, head_dim=8, sr_ratio=2), "tokens", reads_others=True, kept=("norm.weight",)),
    "MobileNetV4": Case(
        of_timm("layers.attention2d.MultiQueryAttention2d", 16, num_heads=2, key_dim=8, value_dim=8, kv_stride=2, query_strides=2),
        reads_others=True,
        kept=("key.down_conv.weight", "value.norm.weight", "query.norm.bias"),
    ),
    "FastViT": Case(of_timm("models.fastvit.Attention", 16, head_dim=8)),
    "SHViT": Case(of_timm("models.shvit.SHSA", 16, qk_dim=4, pdim=8), kept=("pre_norm.weight", "proj.1.c.weight")),
    "NesT, one window": Case(of_timm("models.nest.Attention", 16, num_heads=2), "windows", ((32, 16), (48, 64))),
    "CrossViT": Case(of_timm("models.crossvit.CrossAttention", 16, num_heads=2), "tokens", reads_others=True),
    "pooling by attention": Case(
        of_timm("layers.attention_pool2d.AttentionPool2d", 16, out_features=24, embed_dim=16, num_heads=2, feat_size=8), kept=("pos_embed",)
    ),
    "pooling by a latent": Case(
        of_timm("layers.attention_pool.AttentionPoolLatent", 16, 16, num_heads=2, norm_layer=nn.LayerNorm),
        "tokens",
        reads_others=True,
        named=True,
        kept=("latent", "mlp.fc1.weight", "norm.weight"),
    ),
    "MaxViT, wider": Case(of_timm("models.maxxvit.Attention2d", 16, 24, dim_head=8)),
    "BoTNet": Case(of_timm("layers.bottleneck_attn.BottleneckAttn", 16, 24, feat_size=(8, 8), num_heads=2, dim_head=8), sizes=((32, 32),), alone=True),
    "HaloNet": Case(of_timm("layers.halo_attn.HaloAttn", 16, 24, num_heads=2, dim_head=8, block_size=4, halo_size=1), reads_others=True, alone=True),
    "HaloNet, half": Case(
        of_timm("layers.halo_attn.HaloAttn", 16, stride=2, num_heads=2, block_size=4, halo_size=2, scale_pos_embed=True), reads_others=True, alone=True
    ),
    "keys pooled, explicit": Case(PooledKeysAttention, "rows", reads_others=True, kept=("smaller.weight", "even.weight")),
    "windows of maps": Case(GridAttention, alone=True, kept=("table", "last.weight")),
    "learned queries": Case(partial(LatentAttention), "tokens", reads_others=True, named=True, kept=("seeds", "after.1.weight")),
}
