"""open_clip, segmentation_models.pytorch, vit-pytorch, ultralytics, diffusers, and DINOv2's own classes as its hub gives them; where installed."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.sweep.rows import Built, Missing, Row, installed

__all__ = ["rows"]


def _open_clip(kind: str) -> Built:
    installed("open_clip")
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision: dict[str, Any] = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
    text: dict[str, Any] = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 4, "layers": 1}
    if kind == "RN50":
        vision = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 16, "patch_size": None, "image_size": 64}
    if kind == "timm":
        vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224}
    if kind == "pool":
        vision |= {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4}
    torch.manual_seed(0)
    if kind in ("coca",):
        from open_clip.coca_model import CoCa, MultimodalCfg

        vision |= {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4, "output_tokens": True}
        text |= {"embed_cls": True, "output_tokens": True}
        more = MultimodalCfg(context_length=8, vocab_size=50, width=16, heads=4, layers=1)
        model: nn.Module = CoCa(16, more, CLIPTextCfg(**text), CLIPVisionCfg(**vision))
        # the library leaves it as memory happened to be, at times not a number
        nn.init.normal_(model.text_decoder.text_projection, std=0.2)
    else:
        model = CLIP(16, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    side = vision["image_size"]
    return model.eval(), {"image": torch.randn(2, 3, side, side), "text": torch.randint(1, 50, (2, 8))}


def _smp(make: Callable[[Any], nn.Module], side: int = 64) -> Built:
    installed("segmentation_models_pytorch")
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    return make(smp).eval(), torch.randn(2, 3, side, side)


def _vit_pytorch(module: str, kind: str, **options: Any) -> Built:
    installed("vit_pytorch")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}
    sizes = {key: value for key, value in (sizes | options).items() if value is not None}
    model = getattr(__import__(f"vit_pytorch.{module}", fromlist=[kind]), kind)(**sizes)
    return model.eval(), torch.randn(2, 3, 32, 32)


def _ultralytics(config: str, side: int = 64) -> Built:
    installed("ultralytics")
    # it writes its settings somewhere when it is imported
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    torch.manual_seed(0)
    kind = RTDETRDetectionModel if "rtdetr" in config else DetectionModel
    return kind(config, nc=3, verbose=False).eval(), torch.randn(1, 3, side, side)


def _diffusers_dit() -> Built:
    installed("diffusers")
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=10)
    given = {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 7]), "class_labels": torch.tensor([1, 2])}
    return model.eval(), given


def _diffusers_unet() -> Built:
    installed("diffusers")
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return model.eval(), {"sample": torch.randn(2, 3, 16, 16), "timestep": torch.tensor([3, 7])}


def _diffusers_conditional() -> Built:
    installed("diffusers")
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        cross_attention_dim=24,
    )
    given = {"sample": torch.randn(2, 4, 16, 16), "timestep": torch.tensor([3, 7]), "encoder_hidden_states": torch.randn(2, 5, 24)}
    return model.eval(), given


def _diffusers_pixart() -> Built:
    installed("diffusers")
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=32,
        caption_channels=24,
        use_additional_conditions=False,
    )
    given = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 5, 24),
        "timestep": torch.tensor([3, 7]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return model.eval(), given


def _diffusers_vae() -> Built:
    installed("diffusers")
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(16,), norm_num_groups=8, sample_size=16).eval(), torch.randn(2, 3, 16, 16)


def _dinov2() -> Built:
    """The classes of facebookresearch/dinov2: its repository, where ``torch.hub`` fetched it, or the package of that name."""
    folder = next((path for path in (os.path.join(torch.hub.get_dir(), "facebookresearch_dinov2_main"),) if os.path.isdir(path)), None)
    torch.manual_seed(0)
    if folder is not None:
        model = torch.hub.load(folder, "dinov2_vits14", source="local", pretrained=False)
    elif importlib.util.find_spec("dinov2") is not None:
        from dinov2.models.vision_transformer import DinoVisionTransformer

        model = DinoVisionTransformer(img_size=56, patch_size=14, embed_dim=32, depth=2, num_heads=4, init_values=1.0, block_chunks=0)
    else:
        raise Missing("facebookresearch/dinov2 was not fetched by torch.hub")
    assert isinstance(model, nn.Module)
    return model.eval(), torch.randn(1, 3, 56, 56)


ROWS: dict[str, Callable[[], Built]] = {
    "open_clip ViT": partial(_open_clip, "ViT"),
    "open_clip ViT (attentional pool)": partial(_open_clip, "pool"),
    "open_clip CoCa": partial(_open_clip, "coca"),
    "open_clip RN50": partial(_open_clip, "RN50"),
    "open_clip timm tower": partial(_open_clip, "timm"),
    "smp SegFormer mit_b0": partial(_smp, lambda smp: smp.Segformer("mit_b0", encoder_weights=None)),
    "smp Unet mit_b0": partial(_smp, lambda smp: smp.Unet("mit_b0", encoder_weights=None)),
    "smp DPT": partial(_smp, lambda smp: smp.DPT("tu-vit_tiny_patch16_224", encoder_weights=None), side=224),
    "vit-pytorch ViT": partial(_vit_pytorch, "vit", "ViT"),
    "vit-pytorch SimpleViT": partial(_vit_pytorch, "simple_vit", "SimpleViT"),
    "vit-pytorch SimpleViT (q/k norm)": partial(_vit_pytorch, "simple_vit_with_qk_norm", "SimpleViT"),
    "vit-pytorch DeepViT": partial(_vit_pytorch, "deepvit", "DeepViT"),
    "ultralytics YOLO11 (C2PSA)": partial(_ultralytics, "yolo11n.yaml"),
    "ultralytics YOLO12 (area attention)": partial(_ultralytics, "yolo12n.yaml"),
    "ultralytics RT-DETR": partial(_ultralytics, "rtdetr-l.yaml"),
    "diffusers DiTTransformer2DModel": _diffusers_dit,
    "diffusers UNet2DModel": _diffusers_unet,
    "diffusers UNet2DConditionModel": _diffusers_conditional,
    "diffusers PixArtTransformer2DModel": _diffusers_pixart,
    "diffusers AutoencoderKL": _diffusers_vae,
    "DINOv2 hub": _dinov2,
}
SHOWN = ("open_clip CoCa", "open_clip RN50", "smp SegFormer mit_b0", "smp Unet mit_b0", "vit-pytorch ViT", "ultralytics YOLO11 (C2PSA)")


def rows() -> list[Row]:
    return [Row("others", family, build, family in SHOWN) for family, build in ROWS.items()]
