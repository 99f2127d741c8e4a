"""One place in a generator or a discriminator where pixels meet, by any mechanism.

Paper      SAGAN: Zhang et al. 2018 (arXiv 1805.08318), eq. 1 and 2.
Formula    x + σ · proj(core(x)), σ a free scalar that begins at 0; for a block of the registry x + σ · (block(x) − x)

Shapes     B batch, C channels, H height, W width
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..._errors import InputError, unknown
from ..._renamed import renamed_keys
from ...attention import ExternalAttention
from ..mixing import list_feature_mixers, make_feature_mixer
from .cores import DenoisingCore, ExternalCore, PointwiseCore, SelfAttentionCore
from .spectral import SpectralConv2d

__all__ = ["NONE", "GanMixer", "has_batch_norm", "list_gan_mixers"]

NONE = "none"
_CORES: dict[str, Callable[..., Any]] = {"sagan": SelfAttentionCore, "external": ExternalCore, "denoising": DenoisingCore, "pointwise": PointwiseCore}


def list_gan_mixers(*, batch_norm: bool = True) -> list[str]:
    """Names that :class:`GanMixer` takes.

    Args:
        batch_norm: with those that have batch norm inside, which a discriminator refuses: it would see in each image the others of its batch.
    """
    others = [name for name in list_feature_mixers() if name not in _CORES and (batch_norm or not _brings_batch_norm(name))]
    return [*_CORES, *others, NONE]


class GanMixer(nn.Module):
    """SAGAN's layer with any mechanism inside; it begins as the identity.

    Args:
        channels: C.
        attention: ``sagan`` (softmax with pooled keys and values), ``external``, ``denoising`` or ``pointwise`` (a control without mixing) in SAGAN's form;
            ``none``; or any other attention of :func:`foveal.models.list_feature_mixers`, in its own block.
        options: of the mechanism: ``value_share`` of ``sagan``; ``slots``, ``inner``, ``normalization``, ``spectral_memories`` of ``external``;
            ``lambda_init`` of ``denoising``; ``inner`` of ``pointwise``; those of its ``Config`` of any other.
        num_heads: of attentions of the registry.
        spectral: whether the 1×1 maps are spectrally normalized; blocks of the registry stay as they are.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, any H and W.

    Raises:
        ValueError: an unknown name or option.
    """

    def __init__(self, channels: int, attention: str = "sagan", options: dict[str, Any] | None = None, *, num_heads: int = 1, spectral: bool = True) -> None:
        super().__init__()
        if attention not in list_gan_mixers():
            raise unknown("attention of a GAN", attention, list_gan_mixers())
        if attention == NONE and options:
            raise InputError(f"without attention there are no options, got {options}; leave them out")
        self.attention = attention
        self.core: Any = None
        self.proj: nn.Module | None = None
        if attention in _CORES:
            make = partial(SpectralConv2d, kernel_size=1, bias=False) if spectral else _plain
            given = renamed_keys(attention, options or {}, ExternalAttention.old_names if attention == "external" else {})
            try:
                self.core = _CORES[attention](channels, make, **given)
            except TypeError as error:
                raise InputError(f"options {options} do not fit {attention} in a GAN: {error}") from None
            self.proj = make(self.core.width, channels)
        elif attention != NONE:
            self.core = make_feature_mixer(attention, channels, num_heads=num_heads, options=options)
        # as officially of one dimension. Behind a block that begins as the identity by a gate of its own, a second gate at 0 would keep both shut for ever
        gated = self.proj is None and self.core is not None and _begins_as_identity(self.core, channels)
        self.sigma = None if attention == NONE else nn.Parameter(torch.ones(1) if gated else torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.sigma is None:
            return x
        added = self.core(x) - x if self.proj is None else self.proj(self.core(x))
        return x + self.sigma * added

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        """How much each pixel takes from each key, by name, ``(B, 1, H·W, keys)``; nothing where pixels do not meet, nor of blocks of the registry."""
        return {} if self.proj is None else self.core.attention_map(x)


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def _begins_as_identity(block: nn.Module, channels: int) -> bool:
    if any(value.is_meta for value in block.parameters()):
        return False
    x, training = torch.linspace(-1, 1, channels * 16).sin().view(1, channels, 4, 4), block.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        out = block.eval()(x)
    block.train(training)
    return torch.equal(out, x)


@cache
def _brings_batch_norm(name: str) -> bool:
    with torch.random.fork_rng(devices=[]):
        return has_batch_norm(make_feature_mixer(name, 16))


def _plain(channels: int, out: int) -> nn.Module:
    made = nn.Conv2d(channels, out, 1, bias=False)
    nn.init.orthogonal_(made.weight)
    return made
