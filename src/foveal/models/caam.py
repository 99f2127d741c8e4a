"""CaaM: networks that keep what causes a label apart from its complement, as a ResNet-18 with complementary gates and as a transformer block.

Paper      Wang et al., "Causal Attention for Unbiased Visual Recognition", ICCV 2021 (arXiv 2108.08782).
Official   Wangt-CN/CaaM ``models/resnet_ours_cbam_multi.py``, ``models/transformer_block.py``
Formula    gated   ReLU(a ⊙ h + r)                                                         an ordinary CBAM block, below the split
           split   c = ReLU(a ⊙ h + r)    s = ReLU((1 − a) ⊙ h)         u = ReLU(h + r)     the complement has no residual
           two     h = h_c + h_s, convolutions shared, batch norms apart
                   c = ReLU(a ⊙ h + r_c)  s = ReLU((1 − a) ⊙ h + r_s)   u = ReLU(h + r_c + r_s)
           token   c = x + Proj(A V)      s = Proj(Ā V)                 each + MLP(LN ·);  u = c + s, which alone goes on
Differs    The mixture u of a convolutional block is made only where it is read: at the end.
Note       The causal stream is what is classified; mixture and complement serve training. The released code ties the heads of all environments almost at once
           (``foveal.lab.tasks.environments``), so how much of a gain the environments bring has to be measured against a random partition and one head.
Status     blocks: outputs and gradients equal to the official ones'

Shapes     B batch, C channels, (H, W) of a map, N tokens, K classes, E environments
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._errors import InputError
from ..attention import CausalAttention, ComplementaryCBAM
from ._mlp import Mlp

__all__ = ["CausalBlock", "CausalResNet", "EnvironmentHeads", "GatedBlock", "SplitBlock", "Streams", "TwoStreamBlock"]


class Streams(NamedTuple):
    """Three maps, token sequences or feature vectors of one shape."""

    causal: Tensor
    complement: Tensor
    mixture: Tensor


class GatedBlock(nn.Module):
    """A ResNet basic block with a CBAM gate on its branch.

    Args:
        channels: that come in.
        out_channels: that go out.
        stride: of the first convolution and of the shortcut.
        reduction: see :class:`~foveal.ComplementaryCBAM`.
        kernel_size: of both convolutions, odd.

    Shape:
        ``(B, channels, H, W) -> (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉)``.
    """

    def __init__(
        self, channels: int, out_channels: int, stride: int = 1, *, reduction: int = 16, kernel_size: int = 3, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        if kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd, got {kernel_size}")
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False, **factory)
        self.bn1 = nn.BatchNorm2d(out_channels, **factory)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size, padding=padding, bias=False, **factory)
        self.bn2 = nn.BatchNorm2d(out_channels, **factory)
        self.gate = ComplementaryCBAM(out_channels, reduction, **factory)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            shortcut = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False, **factory)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' Kaiming start of the convolutions; the shortcut keeps PyTorch's, as theirs does."""
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        cause, _ = self.gate(self._branch(x))
        return F.relu(cause + self.downsample(x))

    def _branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class SplitBlock(GatedBlock):
    """The block in which one map becomes two. The complement starts without a residual: with nothing but what the gate held back.

    Arguments and sizes are those of :class:`GatedBlock`; gives :class:`Streams`.
    """

    def forward(self, x: Tensor) -> Streams:  # type: ignore[override]
        h, residual = self._branch(x), self.downsample(x)
        cause, complement = self.gate(h)
        return Streams(F.relu(cause + residual), F.relu(complement), F.relu(h + residual))


class TwoStreamBlock(GatedBlock):
    """A block for two maps, with one set of convolutions and a set of batch norms for each map; the shortcut is shared whole.

    Arguments and sizes are those of :class:`GatedBlock`; takes cause and complement and gives :class:`Streams`.
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1, **options: Any) -> None:
        super().__init__(channels, out_channels, stride, **options)
        factory: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.bn3 = nn.BatchNorm2d(out_channels, **factory)
        self.bn4 = nn.BatchNorm2d(out_channels, **factory)

    def forward(self, causal: Tensor, complement: Tensor) -> Streams:  # type: ignore[override]
        h = self._branch(causal) + self.bn4(self.conv2(F.relu(self.bn3(self.conv1(complement)))))
        for_causal, for_complement = self.gate(h)
        for_causal, for_complement = for_causal + self.downsample(causal), for_complement + self.downsample(complement)
        return Streams(F.relu(for_causal), F.relu(for_complement), F.relu(for_causal + for_complement))


class CausalResNet(nn.Module):
    """A ResNet of basic blocks that is split in two streams; with the defaults a ResNet-18.

    Args:
        split_stage: the stage, from 1, whose last block splits; all blocks above have two streams. The authors have 2 for NICO and 3 for ImageNet-9.
        in_chans: channels of the images.
        widths: channels of the stages.
        depths: blocks of the stages.
        stem: the usual 7×7 convolution of stride 2 and max-pool; else a 3×3 convolution, for small images.
        reduction: see :class:`~foveal.ComplementaryCBAM`.

    Shape:
        ``(B, in_chans, H, W)`` to :class:`Streams` of features, each ``(B, widths[-1])``, averaged over places.

    Raises:
        ValueError: a stage that is not there; a network that would end with the split, so that no block has two streams; channels that do not fit.

    Example:
        >>> CausalResNet(widths=(16, 32), depths=(1, 1), split_stage=1, stem=False)(torch.randn(2, 3, 12, 12)).causal.shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        *,
        split_stage: int = 2,
        in_chans: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        stem: bool = True,
        reduction: int = 16,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        if len(widths) != len(depths) or min(depths) < 1:
            raise InputError(f"expected a width and a depth of at least 1 for each stage, got widths={tuple(widths)} and depths={tuple(depths)}")
        if not 1 <= split_stage < len(depths):
            raise InputError(f"split_stage must leave a stage above it: expected 1 to {len(depths) - 1}, got {split_stage}")
        self.num_features = widths[-1]
        self.grad_checkpointing = False
        first = nn.Conv2d(in_chans, widths[0], 7 if stem else 3, stride=2 if stem else 1, padding=3 if stem else 1, bias=False, **factory)
        pool = nn.MaxPool2d(3, stride=2, padding=1) if stem else nn.Identity()
        self.stem = nn.Sequential(first, nn.BatchNorm2d(widths[0], **factory), nn.ReLU(), pool)
        one, two = nn.ModuleList(), nn.ModuleList()
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            for n in range(depth):
                stride = 2 if stage > 1 and n == 0 else 1
                if stage > split_stage:
                    two.append(TwoStreamBlock(channels, width, stride, reduction=reduction, **factory))
                else:
                    splits = stage == split_stage and n == depth - 1
                    one.append((SplitBlock if splits else GatedBlock)(channels, width, stride, reduction=reduction, **factory))
                channels = width
        self.one_stream, self.two_streams = one, two
        # blocks below the end of each stage, counted through both lists
        self.stage_ends = tuple(sum(depths[: stage + 1]) for stage in range(len(depths)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' Kaiming start of the first convolution; blocks have their own."""
        first: Any = self.stem[0]
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, images: Tensor, last: int | None = None) -> list[Tensor | Streams]:
        """Maps after each stage, up to the ``last``-th from 0 if given: one map below the split, :class:`Streams` from it on."""
        ends = self.stage_ends if last is None else self.stage_ends[: last + 1]
        x, found = self.stem(images), []
        for index, block in enumerate((*self.one_stream, *self.two_streams)):
            if index >= ends[-1]:
                break
            inputs = x[:2] if isinstance(x, Streams) else (x,)
            x = checkpoint(block, *inputs, use_reentrant=False) if self.grad_checkpointing else block(*inputs)
            if index + 1 in ends:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> Streams:
        streams = self.stages(images)[-1]
        return Streams(*(stream.mean((-2, -1)) for stream in streams))


class CausalBlock(nn.Module):
    """A transformer block with causal attention: both streams through one projection and one MLP, their sum handed on.

    Args:
        dim: width C of the tokens.
        num_heads: heads; must divide ``dim``.
        mlp_ratio: hidden width of the MLP relative to ``dim``; 2 in the authors' T2T-ViT-7.
        qkv_bias: bias in ``qkv``.
        complement_norm: the complement has a norm of its own before the MLP, as in the authors' copy for ImageNet-9. In that for NICO it has not.

    Shape:
        ``(B, N, dim)`` to :class:`Streams`, each ``(B, N, dim)``. The next block takes ``mixture``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 2.0,
        *,
        qkv_bias: bool = False,
        complement_norm: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(dim, **factory)
        self.attn = CausalAttention(dim, num_heads, qkv_bias=qkv_bias, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.norm3 = nn.LayerNorm(dim, **factory) if complement_norm else None
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **factory)

    def forward(self, x: Tensor) -> Streams:
        causal, complement = self.attn.pair(self.norm1(x))
        causal = x + causal
        causal = causal + self.mlp(self.norm2(causal))
        complement = complement + self.mlp((self.norm3 or self.norm2)(complement))
        return Streams(causal, complement, causal + complement)


class EnvironmentHeads(nn.Module):
    """Classifiers on the streams: one without bias for each environment, on the causal stream, and one on the mixture.

    Args:
        dim: width of the features.
        num_classes: K.
        num_environments: E.

    Shape:
        ``forward``: causal features ``(B, dim)`` to logits ``(B, K)`` of the mean of all environments' weights; this is inference, and nothing else is used.

    Raises:
        ValueError: a width or number below 1.

    Example:
        >>> EnvironmentHeads(16, num_classes=10, num_environments=4)(torch.randn(2, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, dim: int, num_classes: int, num_environments: int = 4, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        if min(dim, num_classes, num_environments) < 1:
            raise InputError(f"expected widths and numbers of at least 1, got dim={dim}, num_classes={num_classes}, num_environments={num_environments}")
        self.num_environments = num_environments
        self.weight = nn.Parameter(torch.empty(num_environments, num_classes, dim, **factory))
        self.mixture = nn.Linear(dim, num_classes, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' Kaiming start."""
        for weight in (*self.weight, self.mixture.weight):
            nn.init.kaiming_normal_(weight)
        nn.init.zeros_(self.mixture.bias)

    def forward(self, causal: Tensor) -> Tensor:
        return F.linear(causal, self.weight.mean(0))

    def of_environment(self, causal: Tensor, environments: Tensor) -> Tensor:
        """Logits ``(B, K)`` of the head of each sample's own environment, ``(B,)``."""
        return torch.einsum("ekd,bd->bek", self.weight, causal)[torch.arange(len(causal), device=causal.device), environments]
