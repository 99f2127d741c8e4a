"""Attentions whose queries, keys or values are more than linear maps of tokens, one of every kind: of the libraries, and siblings that nobody wrote before."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.convert.kept import Case, PooledKeysAttention, of_timm


class GatedAttention(PooledKeysAttention):
    """A gate of the queries' map: the map makes more than queries."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.ask(x).sigmoid()


class CountedAttention(nn.Module):
    """Queries by the mean of their neighbors, keys of unit length times a factor that is learned a head, and a bias that a network makes, in one axis."""

    def __init__(self, dim: int = 16, heads: int = 2, drop: float = 0.1) -> None:
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(drop)
        self.qkv, self.out, self.tau = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Parameter(torch.randn(heads, 1, 1))
        self.far = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        batch, count, dim = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).reshape(3, batch * self.heads, count, -1).unbind(0)
        q = F.avg_pool1d(q.mT, 3, 1, 1, count_include_pad=False).mT
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(1, 2)
        logits = logits.unflatten(0, (-1, self.heads)) * self.tau.exp() + self.far(v.norm(dim=-1)[..., None]).unflatten(0, (-1, self.heads)).mT
        maps = self.drop(logits.flatten(0, 1).softmax(-1))
        return self.out((maps @ v).view(batch, self.heads, count, -1).transpose(1, 2).reshape(batch, count, dim))


class StripeAttention(nn.Module):
    """Rows of a map as windows behind the maps, values through a function, queries half as wide, one head, and something added behind in place."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Conv2d(dim, dim // 2, 1), nn.Conv2d(dim, dim // 2, 1), nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).permute(0, 2, 3, 1) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v.sigmoid(), scale=0.3)
        out.add_(v)
        return self.out(out.permute(0, 3, 1, 2))


class TalkingAttention(PooledKeysAttention):
    """Refused: heads mix their logits."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.answer(x).chunk(2, dim=-1)
        q, k, v = (part.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.ask(x), k, v))
        logits = self.talk((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class BentAttention(PooledKeysAttention):
    """Refused: logits through a function."""

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.answer(x).chunk(2, dim=-1)
        q, k, v = (part.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.ask(x), k, v))
        return self.out((F.softsign(q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class DroppedLogitsAttention(PooledKeysAttention):
    """Refused: logits are dropped in training, where evaluation shows nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.answer(x).chunk(2, dim=-1)
        q, k, v = (part.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.ask(x), k, v))
        return self.out((self.drop(q @ k.transpose(-2, -1)).softmax(-1) @ v.sigmoid()).transpose(1, 2).reshape(x.shape))


class ClosedInPlaceAttention(PooledKeysAttention):
    """Refused: a statement closes pairs of the logits, which a batch without padding does not show."""

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.answer(x).chunk(2, dim=-1)
        q, k, v = (part.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.ask(x), k, v))
        logits = q @ k.transpose(-2, -1)
        logits.masked_fill_((x.flatten(1, 2) > 1e9).all(-1)[:, None, None], float("-inf"))
        return self.out((logits.softmax(-1) @ v.sigmoid()).transpose(1, 2).reshape(x.shape))


class ChannelsAttention(PooledKeysAttention):
    """Refused: channels meet channels, and values went through a function."""

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.answer(x).chunk(2, dim=-1)
        q, k, v = (part.flatten(1, 2).unflatten(-1, (2, -1)).permute(0, 2, 3, 1) for part in (self.ask(x), k, v))
        maps = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
        return self.out((maps @ v.sigmoid()).permute(0, 3, 1, 2).reshape(x.shape))


class MixedAttention(nn.Module):
    """Refused: a part of a softmax of positions is mixed in, as in ConViT."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.qk, self.v, self.far = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim), nn.Parameter(torch.randn(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, dim=-1)
        return (0.5 * (q @ k.mT).softmax(-1) + 0.5 * self.far.softmax(-1)) @ self.v(x)


CASES = {
    "Hiera, pooled": Case(of_timm("models.hiera.MaskUnitAttention", 16, 32, 2, 4, 4, True), "tokens", reads_others=True),
    "Hiera, pooled, whole": Case(of_timm("models.hiera.MaskUnitAttention", 16, 32, 2, 4, 0, False), "tokens", reads_others=True),
    "SAM 2, pooled": Case(lambda: of_timm("models.hieradet_sam2.MultiScaleAttention", 16, 32, 2, nn.MaxPool2d(2))(), "rows", reads_others=True),
    "MViT v2": Case(
        of_timm(
            "models.mvitv2.MultiScaleAttention",
            *(16, 32, (8, 8), 2),
            kernel_q=(3, 3),
            kernel_kv=(3, 3),
            stride_q=(2, 2),
            stride_kv=(4, 4),
            has_cls_token=False,
        ),
        "sized",
        ((32, 32),),
        alone=True,
        reads_others=True,
        kept=("qkv.weight", "pool_q.weight", "norm_v.weight", "rel_pos_h"),
    ),
    "iFormer": Case(of_timm("models.iformer.SHMA", 16, 1, 2, 4), kept=("v_gate.c.weight",), reads_others=True),
    "Swin V2, CR": Case(
        of_timm("models.swin_transformer_v2_cr.WindowMultiHeadAttention", 16, 2, (4, 4), meta_hidden_dim=8),
        "tokens",
        ((16, 16),),
        alone=True,
        reads_others=True,
        kept=("logit_scale", "meta_mlp.fc1.weight"),
    ),
    "gated": Case(GatedAttention, "rows", reads_others=True, kept=("ask.weight", "smaller.weight")),
    "a factor and a bias that are learned": Case(CountedAttention, "tokens", alone=True, reads_others=True, kept=("tau", "far.0.weight", "qkv.weight")),
    "rows of a map": Case(StripeAttention, reads_others=True, kept=("v.weight", "q.weight")),
}
REFUSED = {
    TalkingAttention: "its heads mix their logits before the softmax",
    BentAttention: "its logits are more than a factor times products and a bias",
    DroppedLogitsAttention: "its logits are dropped or normalized in training",
    ClosedInPlaceAttention: "its logits are changed in place",
    ChannelsAttention: "its softmax is over channels, and not over tokens",
    MixedAttention: "it computes 2 softmax attentions in a call, mixed or one after the other",
}
