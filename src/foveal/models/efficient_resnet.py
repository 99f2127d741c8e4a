"""ResNet with efficient attention behind some of its stages.

Paper      Shen et al., "Efficient Attention: Attention with Linear Complexities", WACV 2021 (arXiv 1812.01243).
Official   cmsflash/efficient-attention has the module, not the network
Formula    after the last block of a stage  X ← X + W · E(X), E efficient attention with C / 2 key and C value channels
Differs    How many modules the classifier has is published, where they stand is not. Here the first stands behind stage 2 (res3), as the authors' detector
           has it, the second behind stage 3 (res4).
           Nothing starts at zero, as in the official module. Into a trained ResNet put it with ``options={"gamma_init": 0.0}``: the function is kept then.
Status     module equal to the official one's; the network is built from the description
"""

from collections.abc import Sequence
from typing import Any

from .._errors import InputError, missing_extra
from ..attention import EfficientAttention2d, config_from_dict
from ._init import reset

try:
    from timm.models.resnet import Bottleneck, ResNet
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["EfficientResNet"]


class EfficientResNet(ResNet):
    """timm's ``ResNet`` with an :class:`~foveal.EfficientAttention2d` at the end of some stages. Names and methods are timm's, so its weights keep theirs.

    Args:
        after: stages, from 1 to 4, that end with attention.
        options: of the attention, as in its ``Config``.
        block: of timm's ResNet.
        layers: blocks of each stage.
        resnet: more options of timm's ``ResNet``.

    Shape:
        ``(B, in_chans, H, W) -> (B, num_classes)``.

    Raises:
        ValueError: a stage that is not there, or twice; an option that efficient attention does not have.

    Example:
        >>> model = EfficientResNet(after=(2,), layers=(1, 1, 1, 1), num_classes=7)
        >>> type(model.layer2[1]).__name__
        'EfficientAttention2d'
    """

    def __init__(
        self,
        *,
        after: Sequence[int] = (2,),
        options: dict[str, Any] | None = None,
        block: Any = Bottleneck,
        layers: Sequence[int] = (3, 4, 6, 3),
        device: Any = None,
        dtype: Any = None,
        **resnet: Any,
    ) -> None:
        if len(set(after)) != len(after) or not set(after) <= {1, 2, 3, 4}:
            raise InputError(f"after must name stages 1 to 4, each once, got {tuple(after)}")
        config = config_from_dict({"attention": "efficient_2d", **(options or {})})
        super().__init__(block=block, layers=tuple(layers), device=device, dtype=dtype, **resnet)
        for stage in after:
            channels = self.feature_info[stage]["num_chs"]
            self.get_submodule(f"layer{stage}").append(config.build(channels, device=device, dtype=dtype))  # type: ignore[operator]
        self.after = tuple(after)

    def init_weights(self, zero_init_last: bool = True) -> None:
        """timm's, with attention as its authors start it: PyTorch's convolutions. Every weight is set anew."""
        # timm calls this while it constructs, when all is fresh and attention is not there yet
        if hasattr(self, "after"):
            reset(self)
        super().init_weights(zero_init_last=zero_init_last)
        for module in self.modules():
            if isinstance(module, EfficientAttention2d):
                reset(module)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(".gamma")}
