"""Models of the libraries whose attentions have positions, windows, masks or shapes of their own; tiny, with weights all over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from tests.convert.test_hosts import stirred


@dataclass
class Case:
    make: Callable[[], nn.Module]
    places: int
    shape: tuple[int, ...] = (2, 3, 32, 32)
    refuses: tuple[str, ...] = ()
    """Attentions that cannot stand in all of its places."""
    alone: tuple[str, ...] = ()
    """Attentions that leave some of its places alone."""
    changes: bool = False
    """Whether some weights of the host have no place in any attention of ours."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return stirred(self.make())

    def images(self) -> torch.Tensor:
        return torch.randn(self.shape)


SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
WINDOWS: dict[str, Any] = {"img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4, "num_classes": 5}
NO_PAIRS = ("efficient", "external", "halo", "linear")


def of_timm(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pytest.importorskip("timm")
        models = __import__(f"timm.models.{module}", fromlist=[name])
        return getattr(models, name)(**options)

    return make


def maxxvit(block: str, positions: str, head_first: bool, channels_first: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pytest.importorskip("timm")
        from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg

        inner = MaxxVitTransformerCfg(
            dim_head=8, window_size=(4, 4), grid_size=(4, 4), rel_pos_type=positions, head_first=head_first, use_nchw_attn=channels_first
        )
        # the last block of CoAtNet's stages keeps its width, the first does not
        depths = (1,) if block == "M" else (2,)
        config = MaxxVitCfg(embed_dim=(16,), depths=depths, block_type=(block,), stem_width=8, head_hidden_size=None, transformer_cfg=inner)
        return MaxxVit(config, img_size=(32, 32) if block == "M" else (16, 16), num_classes=5)

    return make


def torchvision_swin(second: bool) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        swin = pytest.importorskip("torchvision.models.swin_transformer")
        kind = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if second else {}
        return swin.SwinTransformer([2, 2], 16, [2, 1], [2, 4], [5, 4], stochastic_depth_prob=0.0, num_classes=5, **kind)

    return make


def torchvision_maxvit() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    sizes = {"input_size": (32, 32), "stem_channels": 8, "partition_size": 4, "block_channels": [16], "block_layers": [1], "head_dim": 8}
    return models.MaxVit(**sizes, stochastic_depth_prob=0.0, num_classes=5)


def torchvision_video() -> nn.Module:
    """Windows that the map covers in time and not in space, padded, and shifted in the second block."""
    video = pytest.importorskip("torchvision.models.video.swin_transformer")
    from torchvision.models.swin_transformer import PatchMerging

    return video.SwinTransformer3d([2, 4, 4], 16, [2, 1], [2, 4], [4, 3, 2], stochastic_depth_prob=0.0, num_classes=5, downsample_layer=PatchMerging)


def tower(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes, **options))

    return make


ROTARY = ("differential",)
CASES = {
    "timm EVA02": Case(of_timm("eva", "Eva", **SIZES, use_rot_pos_emb=True, qkv_fused=False, swiglu_mlp=True, scale_mlp=True), 2, refuses=ROTARY),
    "timm EVA, biases apart": Case(of_timm("eva", "Eva", **SIZES, qkv_bias=True), 2),
    "timm DINOv3": Case(
        of_timm("eva", "Eva", **SIZES, use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3", rope_rotate_half=True, num_reg_tokens=2),
        2,
        refuses=ROTARY,
    ),
    "timm ROPE-ViT": Case(of_timm("eva", "Eva", **SIZES, use_rot_pos_emb=True, rope_type="mixed", attn_type="rope"), 2, refuses=ROTARY),
    "timm BEiT": Case(of_timm("beit", "Beit", **SIZES, use_abs_pos_emb=False, use_rel_pos_bias=True), 2),
    "timm BEiT, shared positions": Case(of_timm("beit", "Beit", **SIZES, use_abs_pos_emb=False, use_shared_rel_pos_bias=True, qkv_bias=False), 2),
    "timm Swin": Case(of_timm("swin_transformer", "SwinTransformer", **WINDOWS), 3, refuses=NO_PAIRS),
    "timm Swin V2": Case(of_timm("swin_transformer_v2", "SwinTransformerV2", **WINDOWS), 3, refuses=NO_PAIRS),
    "timm MaxViT": Case(maxxvit("M", "mlp", True), 2),
    "timm MaxViT, TensorFlow's": Case(maxxvit("M", "bias_tf", False), 2),
    "timm MaxViT, channels first": Case(maxxvit("M", "bias", True, channels_first=True), 2),
    "timm SAM": Case(of_timm("vision_transformer_sam", "VisionTransformerSAM", **SIZES, window_size=2, global_attn_indexes=(1,)), 2),
    "timm CaiT": Case(of_timm("cait", "Cait", **SIZES), 4, alone=NO_PAIRS, changes=True),
    "timm XCiT": Case(of_timm("xcit", "Xcit", **SIZES, cls_attn_layers=1), 3, alone=NO_PAIRS, changes=True),
    "torchvision Swin": Case(torchvision_swin(False), 3, (2, 3, 36, 44), NO_PAIRS),
    "torchvision Swin V2": Case(torchvision_swin(True), 3, (2, 3, 36, 44), NO_PAIRS),
    "torchvision MaxViT": Case(torchvision_maxvit, 2),
    "torchvision Swin 3-D": Case(torchvision_video, 3, (2, 3, 6, 28, 32), NO_PAIRS),
    "transformers DINOv3": Case(tower("DINOv3ViT", num_register_tokens=2), 2, refuses=ROTARY),
    "transformers BEiT": Case(tower("Beit", use_relative_position_bias=True), 2),
    "transformers BEiT, shared positions": Case(tower("Beit", use_shared_relative_position_bias=True), 2),
    "transformers VideoMAE": Case(tower("VideoMAE", num_frames=4, tubelet_size=2), 2, (2, 4, 3, 32, 32), ("halo",)),
    "transformers TimeSformer": Case(tower("Timesformer", num_frames=2), 4, (2, 2, 3, 32, 32), ("halo",)),
    "transformers TimeSformer, joint": Case(tower("Timesformer", num_frames=2, attention_type="joint_space_time"), 2, (2, 2, 3, 32, 32), ("halo",)),
}
