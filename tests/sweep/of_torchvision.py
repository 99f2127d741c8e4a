"""torchvision, and PyTorch's own layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.sweep.rows import Built, Row, installed

__all__ = ["rows"]


def _images(make: Callable[[Any], nn.Module], side: int = 32) -> Built:
    installed("torchvision")
    import torchvision.models

    torch.manual_seed(0)
    return make(torchvision.models).eval(), torch.randn(2, 3, side, side)


def _video(make: Callable[[Any], nn.Module]) -> Built:
    model, _ = _images(make)
    return model, torch.randn(1, 3, 4, 32, 32)


def _swin(models: Any, second: bool) -> nn.Module:
    swin = models.swin_transformer
    kind = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if second else {}
    return swin.SwinTransformer([2, 2], 16, [2, 1], [2, 4], [5, 4], stochastic_depth_prob=0.0, num_classes=5, **kind)


def _swin3d(models: Any, second: bool) -> nn.Module:
    video = models.video.swin_transformer
    # the second kind of video has the first kind of layers and the second kind of blocks
    from torchvision.models.swin_transformer import PatchMerging

    return video.SwinTransformer3d([2, 4, 4], 16, [2, 1], [2, 4], [2, 4, 4], stochastic_depth_prob=0.0, num_classes=5, downsample_layer=PatchMerging)


def _mvit(models: Any) -> nn.Module:
    mvit = models.video.mvit
    settings = [
        mvit.MSBlockConfig(1, 16, 16, [3, 3, 3], [1, 2, 2], [1, 1, 1], [1, 2, 2]),
        mvit.MSBlockConfig(2, 16, 32, [3, 3, 3], [1, 1, 1], [1, 2, 2], [1, 1, 1]),
    ]
    options = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True, "stochastic_depth_prob": 0.0}
    return mvit.MViT((32, 32), 4, settings, num_classes=5, **options)


def _maxvit(models: Any) -> nn.Module:
    return models.MaxVit(
        input_size=(64, 64), stem_channels=8, partition_size=2, block_channels=[16, 32], block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0
    )


class _Detr(nn.Module):
    """PyTorch's encoder and decoder, read by learned queries."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.transformer = nn.Transformer(16, 4, 2, 2, 32, 0.0, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 5, 16))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.stem(images).flatten(2).mT
        return self.transformer(tokens, self.queries.expand(len(images), -1, -1))


class _Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True, **options), 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(self.stem(images).flatten(2).mT)


ROWS: dict[str, Callable[[], Built]] = {
    "vit": partial(_images, lambda m: m.VisionTransformer(32, 8, 2, 4, 24, 48, num_classes=5)),
    "swin": partial(_images, partial(_swin, second=False)),
    "swin v2": partial(_images, partial(_swin, second=True)),
    "swin 3d (video)": partial(_video, partial(_swin3d, second=False)),
    "maxvit": partial(_images, _maxvit, side=64),
    "mvit (video)": partial(_video, _mvit),
    "nn.Transformer (DETR-like)": partial(_images, lambda m: _Detr()),
    "nn.TransformerEncoder": partial(_images, lambda m: _Encoder()),
    "nn.TransformerEncoder (norm first)": partial(_images, lambda m: _Encoder(norm_first=True)),
}
SHOWN = ("maxvit", "mvit (video)", "nn.Transformer (DETR-like)")


def rows() -> list[Row]:
    return [Row("torchvision", family, build, family in SHOWN) for family, build in ROWS.items()]
