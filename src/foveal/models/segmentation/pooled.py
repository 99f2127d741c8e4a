"""The decoders of segmentation_models.pytorch, with an attention behind the encoder's last stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from .._config import register_model
from ..mixing import FeatureMapConfig
from ._size import pad_to

__all__ = ["SmpConfig"]


class _Mixed(nn.Module):
    """An encoder whose deepest maps pass a mixer. What decoders ask of an encoder it answers for it."""

    def __init__(self, encoder: Any, mixer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.mixer = encoder, mixer
        self.out_channels, self.output_stride = encoder.out_channels, encoder.output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        *shallow, deep = self.encoder(x)
        return [*shallow, self.mixer(deep)]


class _Padded(nn.Module):
    """Images of any size for a network that wants multiples of its stride."""

    def __init__(self, net: Any, stride: int) -> None:
        super().__init__()
        self.net, self.stride = net, stride

    def forward(self, x: Tensor) -> Tensor:
        return self.net(pad_to(x, self.stride))[..., : x.shape[-2], : x.shape[-1]]


@register_model
@dataclass(frozen=True, kw_only=True)
class SmpConfig(FeatureMapConfig):
    """A network of segmentation_models.pytorch. Attention inside the encoder is put there by ``foveal.convert_``."""

    targets: ClassVar[str] = "masks"
    about: ClassVar[str] = "a decoder of segmentation_models.pytorch"

    arch: str = "unet"
    """``unet``, ``fpn``, ``deeplabv3plus``, ``upernet`` …: what ``segmentation_models_pytorch.create_model`` knows."""
    encoder: str = "resnet18"
    """Name of the encoder, as the library knows it."""
    weights: str | None = None
    """``imagenet`` or another name of the library; random if None."""

    def smoke_model(self) -> "SmpConfig":
        return replace(self, encoder="resnet18", weights=None)

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> nn.Module:
        """The network.

        Raises:
            ValueError: the library is not installed, or knows no such decoder or encoder.
        """
        try:
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise missing_extra("segmentation-models-pytorch", "smp", "a decoder of segmentation_models.pytorch") from error
        try:
            net = smp.create_model(self.arch, encoder_name=self.encoder, encoder_weights=self.weights, in_channels=in_chans, classes=num_classes)
        except (KeyError, RuntimeError) as error:
            raise InputError(f"segmentation_models_pytorch makes no {self.arch!r} with the encoder {self.encoder!r}: {error}") from error
        channels: Sequence[int] = net.encoder.out_channels
        if self.attention is not None:
            net.encoder = _Mixed(net.encoder, self.mixer(channels[-1]))
        return _Padded(net, 32)
