"""Causal attention (CaaM) as layers, for tokens and as a gate for maps; see :mod:`foveal.functional.causal` for the mathematics, the paper and what differs.

The convolutional form is no attention between positions but a gate, a CBAM block whose complement is kept: a ⊙ h and (1 − a) ⊙ h.

Shapes     B batch, N tokens, C channels, H heads in ``(B, H, N, N)`` and height in ``(B, C, H, W)``
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from .._fx import Leaf, leaf_method
from ..functional import causal_attention, causal_attention_maps
from ._base import Context, Cost, NormLayer, QKVAttention, Rope, check_maps, timm_half
from ._linear import project
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new

__all__ = ["CausalAttention", "ComplementaryCBAM"]


@register("causal", family="signed pairs")
class CausalAttention(QKVAttention):
    """Multi-head causal attention: softmax attention and its complement, which weighs most what the other weighs least. Its weights are timm's, name for name.

    ``forward`` is the mixture of both, which is what the official blocks hand on; :meth:`pair` is the two apart, for heads that are to tell them apart
    (``foveal.models.CausalBlock``). "Causal" speaks of cause and effect, ``is_causal`` of order.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per head.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on both maps, drawn apart, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given.

    Example:
        >>> cause, complement = CausalAttention(dim=64, num_heads=4).pair(torch.randn(2, 49, 64))
        >>> cause.shape
        torch.Size([2, 49, 64])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: NormLayer | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        attn_head_dim: int | None = None,
    ) -> None:
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core="softmax",
        )

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        return rest_is_new(self, adopt_layers(self, place))

    def attend(self, x: Tensor, context: Context | None, rope: Rope | None, options: dict[str, Any]) -> Tensor:
        cause, complement = causal_attention(*self._qkv(x, context, rope), core=self.core, **options)
        return cause + complement

    @leaf_method
    def pair(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cause and complement, each ``(B, N, C)``, each through ``proj``; the arguments are those of ``forward``.

        Without ``scale_norm`` and ``proj_bias`` their sum is what ``forward`` gives; there a bias of ``proj`` is added once.
        """
        options = self._check(x, attn_mask, is_causal, context)
        streams = causal_attention(*self._qkv(x, context, rope), core=self.core, dropout_p=self.attn_drop.p if self.training else 0.0, **options)
        cause, complement = (self.proj_drop(project(self.proj, self.norm(rearrange(out, "b h n d -> b n (h d)")))) for out in streams)
        return cause, complement

    def attention_map(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, context: Context | None = None, rope: Rope | None = None
    ) -> dict[str, Tensor]:
        """``positive``, ``negative`` and ``combined``, their sum. ``combined`` applied to the values gives the output before ``proj``."""
        options = self._check(x, attn_mask, is_causal, context)
        q, k, _ = self._qkv(x, context, rope)
        return causal_attention_maps(q, k, core_map=self.core.map, **options)

    def macs(self, num_tokens: int) -> int:
        """Of ``forward``; :meth:`pair` projects twice."""
        return self._projection_macs(num_tokens, 4) + 2 * self.core.macs(num_tokens, self.num_heads)


class ComplementaryCBAM(Leaf):
    """A CBAM gate that keeps both parts of a map: what channels and places let through, and what they hold back.

    Channel gate σ(MLP(mean) + MLP(max)), then spatial gate σ(BN(conv 7×7)) of the channel-gated map's maximum and mean over channels; a is their product.

    Args:
        channels: C.
        reduction: of the width inside the channel gate.

    Shape:
        ``(B, C, H, W)`` to cause ``a ⊙ h`` and complement ``(1 − a) ⊙ h``, each of the same shape; their sum is ``h``.

    Raises:
        ValueError: channels below 1, or fewer than ``reduction``; wrong number of channels in the input.

    Source: Woo et al., "CBAM", ECCV 2018 (arXiv 1807.06521); its complement Wang et al., ICCV 2021 (arXiv 2108.08782), Wangt-CN/CaaM.

    Example:
        >>> h = torch.randn(2, 32, 7, 9)
        >>> cause, complement = ComplementaryCBAM(32)(h)
        >>> torch.allclose(cause + complement, h, atol=1e-6)
        True
    """

    def __init__(self, channels: int, reduction: int = 16, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if channels < 1 or not 1 <= reduction <= channels:
            raise InputError(f"expected at least as many channels as reduction, and reduction of at least 1; got channels={channels}, reduction={reduction}")
        factory = {"device": device, "dtype": dtype}
        self.channels = channels
        self.fc1 = nn.Linear(channels, channels // reduction, **factory)
        self.fc2 = nn.Linear(channels // reduction, channels, **factory)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False, **factory)
        self.bn = nn.BatchNorm2d(1, momentum=0.01, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' start: the convolution is Kaiming's, the spatial gate one half everywhere, for its batch norm has weight 0. Linear maps keep theirs."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.bn.weight)
        nn.init.zeros_(self.bn.bias)

    def gate(self, h: Tensor) -> Tensor:
        """``a``, ``(B, C, H, W)``, between 0 and 1."""
        check_maps(type(self).__name__, h, self.channels, self.fc1)
        pooled = torch.stack([h.mean((-2, -1)), h.amax((-2, -1))])
        channel = self.fc2(self.fc1(pooled).relu()).sum(0).sigmoid()[..., None, None]
        gated = channel * h
        place = self.bn(self.conv(torch.cat([gated.amax(1, keepdim=True), gated.mean(1, keepdim=True)], dim=1))).sigmoid()
        return channel * place

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Cause and complement, each ``(B, C, H, W)``."""
        gate = self.gate(h)
        return gate * h, (1 - gate) * h

    def cost(self, height: int, width: int) -> Cost:
        """Parameters, and multiply-adds for one sample of that size."""
        macs = 2 * 2 * self.channels * self.fc1.out_features + height * width * self.conv.weight.numel()
        return Cost(parameters=sum(p.numel() for p in self.parameters()), macs=macs)

    def extra_repr(self) -> str:
        return f"channels={self.channels}"
