"""transformers: the vision models of every configuration that it has, made small by the names of their settings.

A configuration is read, every size in it is replaced, and the model is called with what its ``forward`` asks for. Where that is not enough, ``SPECIAL`` says more.
"""

# ruff: noqa: E501

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from tests.sweep.rows import Built, Row, installed
from tests.sweep.transformers_inputs import GIVEN

__all__ = ["rows"]

SIZES: dict[str, Any] = {
    "hidden_size": 32, "embed_dim": 32, "d_model": 32, "dim": 32, "hidden_dim": 32, "num_hidden_layers": 2, "num_layers": 2, "depth": 2, "encoder_layers": 2,
    "decoder_layers": 2, "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "n_embd": 32, "n_layer": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 8, "attention_head_dim": 8, "intermediate_size": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "image_size": 32,
    "patch_size": 8, "vocab_size": 99, "max_position_embeddings": 64, "projection_dim": 16, "num_queries": 5, "decoder_layers_": 2, "num_frames": 4,
    "decoder_hidden_size": 32, "decoder_intermediate_size": 48, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4, "mlp_dim": 48,
    "feature_size": 32, "mask_feature_size": 32, "fusion_hidden_size": 16, "cross_attention_hidden_size": 32, "encoder_hidden_dim": 32, "num_experts": 2,
    "num_local_experts": 2, "num_experts_per_tok": 1, "out_hidden_size": 32, "num_position_embeddings": 64, "pos_dropout": 0.0, "drop_path_rate": 0.0,
    "initializer_range": 0.02, "output_channels": 32, "layerdrop": 0.0, "num_channels_latents": 8, "query_num": 5, "global_attn_indexes": [1], "num_pos_feats": 16,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "multi_modal_projector_bias": False, "projection_size": 32,
    "image_embedding_size": 4, "mit_hidden_size": 32, "mit_intermediate_size": 48, "mit_num_attention_heads": 4, "mit_num_hidden_layers": 1,
    "prompt_num_attention_heads": 4, "prompt_layers": 1, "encoder_hidden_size": 32, "part_features": 8,
}  # fmt: skip
STAGED: dict[str, list[int]] = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_heads": [2, 2, 4, 4], "num_attention_heads": [2, 2, 4, 4]}
HIER: dict[str, Any] = {"image_size": 128, "patch_size": 4, "embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [2, 2, 4, 4], "window_size": 4}
FOUR = ["stage1", "stage2", "stage3", "stage4"]
HIERA_DET: dict[str, Any] = {
    "hidden_size": 16, "num_attention_heads": 1, "image_size": [128, 128], "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [8, 4, 8, 4], "global_attention_blocks": [4],
}  # fmt: skip
FPN: dict[str, Any] = {
    "backbone_channel_list": [128, 64, 32, 16],
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    "fpn_hidden_size": 32,
    "image_size": 128,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "swin": HIER, "swinv2": HIER, "donut-swin": HIER, "maskformer-swin": HIER,
    "segformer": {"image_size": 128, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 16},
    "glpn": {"image_size": 128, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 16},
    "pvt": {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 4, 4]},
    "pvt_v2": {"image_size": 128, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 4, 4]},
    "mobilevit": {"image_size": 64, "patch_size": 2, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "num_attention_heads": 4},
    "mobilevitv2": {"image_size": 64, "patch_size": 2},
    "cvt": {"embed_dim": [16, 32, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "image_size": 64},
    "levit": {"image_size": 64, "hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8], "patch_size": 16},
    "hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
    "swiftformer": {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 16, 24, 32]},
    "efficientnet": {"skip": True}, "convnext": {"skip": True}, "convnextv2": {"skip": True}, "resnet": {"skip": True}, "regnet": {"skip": True}, "bit": {"skip": True},
    "beit": {"use_relative_position_bias": True}, "data2vec-vision": {"use_relative_position_bias": True},
    "dinov2_with_registers": {"num_register_tokens": 2}, "dinov3_vit": {"num_register_tokens": 2},
    "timesformer": {"num_frames": 2}, "vivit": {"num_frames": 4, "tubelet_size": [2, 8, 8], "image_size": 32},
    "videomae": {"num_frames": 4, "tubelet_size": 2}, "dpt": {"neck_hidden_sizes": [8, 8, 16, 16], "backbone_out_indices": [0, 1, 2, 3], "num_hidden_layers": 4, "fusion_hidden_size": 16, "reassemble_factors": [4, 2, 1, 0.5], "is_hybrid": False},
    "perceiver": {"num_latents": 8, "d_latents": 32, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 2, "num_self_attention_heads": 4, "num_cross_attention_heads": 2},
    "blip-2": {"num_query_tokens": 5}, "siglip2": {"num_patches": 16}, "siglip2_vision_model": {"num_patches": 16},
    "qwen2_vl_vision": {"embed_dim": 32, "hidden_size": 32, "spatial_merge_size": 2}, "qwen3_vl_vision": {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
    "sam_vision_model": {"window_size": 2}, "sam_hq_vision_model": {"window_size": 2}, "layoutlmv3": {"input_size": 32, "coordinate_size": 4, "shape_size": 8, "max_2d_position_embeddings": 64},
    "vilt": {"max_image_length": 16},
    "hgnet_v2": {"hidden_sizes": [128, 512, 1024, 2048]}, "swin2sr": {"image_size": 32, "patch_size": 1, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4},
    "vitpose_backbone": {"num_experts": 1},
    "eomt": {"num_blocks": 1, "num_upscale_blocks": 1}, "xclip": {"projection_dim": 32},
    "rt_detr": {"encoder_in_channels": [16, 32, 32], "decoder_in_channels": [32, 32, 32]},
    "rt_detr_v2": {"encoder_in_channels": [16, 32, 32], "decoder_in_channels": [32, 32, 32]},
    "d_fine": {"encoder_in_channels": [512, 1024, 2048], "decoder_in_channels": [32, 32, 32]},
    "deimv2": {"encoder_in_channels": [512, 1024, 2048], "decoder_in_channels": [32, 32, 32]},
    "bridgetower": {"hidden_size": 64}, "bridgetower_vision_model": {"hidden_size": 64}, "bridgetower_text_model": {"hidden_size": 64},
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [16, 32]}, "unlimited_ocr_sam_vision_model": {"downsample_channels": [16, 32]},
    "depth_anything": {"reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "backbone_config.num_hidden_layers": 4, "backbone_config.out_features": FOUR},
    "prompt_depth_anything": {"reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "backbone_config.num_hidden_layers": 4, "backbone_config.out_features": FOUR},
    "zoedepth": {"backbone_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "bottleneck_features": 16, "backbone_config.num_hidden_layers": 4, "backbone_config.out_features": FOUR,
                 "backbone_config.use_relative_position_bias": True, "backbone_config.reshape_hidden_states": False, "num_attractors": [2, 2, 2, 1], "bin_embedding_dim": 16},
    "depth_pro": {"patch_size": 32, "intermediate_hook_ids": [1, 0], "intermediate_feature_dims": [16, 16], "scaled_images_feature_dims": [32, 32, 32]},
    "dots3_note_vision_encoder": {"moe_intermediate_size": 16, "adapter_in_dim": 32, "adapter_out_dim": 32, "mlp_layer_types": ["dense", "sparse"]},
    "inkling2_vision": {"projection_hidden_dim": 32, "text_hidden_size": 32}, "inkling_vision": {"text_hidden_size": 32, "n_layers": 2},
    "kosmos_2_5_vision_model": {"patch_embed_hidden_size": 192, "max_num_patches": 64},
    "pix2struct_vision_model": {"patch_embed_hidden_size": 192, "d_ff": 48, "d_kv": 8, "seq_len": 64},
    "llama4_vision_model": {"intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32},
    "lw_detr_vit": {"image_size": 64, "window_block_indices": [0], "out_features": ["stage1", "stage2"]},
    "lw_detr": {"backbone_config.image_size": 64, "backbone_config.window_block_indices": [0], "backbone_config.out_features": ["stage1", "stage2"], "projector_scale_factors": [1.0], "num_feature_levels": 1, "projector_in_channels": [32], "projector_out_channels": 32,
                "decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 4, "group_detr": 1, "image_size": 64},
    "rf_detr": {"backbone_config.image_size": 64, "backbone_config.num_hidden_layers": 4, "backbone_config.out_features": FOUR, "decoder_self_attention_heads": 4,
                "decoder_cross_attention_heads": 4, "group_detr": 1, "image_size": 64},
    "minicpm_ocr_vision": {"insert_layer_id": 0}, "minicpmv4_6_vision": {"insert_layer_id": 0}, "minicpmv4_7_vision": {"insert_layer_id": 0},
    "mllama_vision_model": {"attention_heads": 4, "num_global_layers": 1, "intermediate_layers_indices": [0, 1], "vision_output_dim": 96},
    "molmo2_vision": {"image_size": [32, 32], "num_position_embeddings": 16},
    "muse_glimmer_vision": {"layer_types": ["window_attention", "full_attention"]}, "muse_spark_vision": {"layer_types": ["window_attention", "full_attention"]},
    "oneformer": {"image_size": 128, "conv_dim": 32, "mask_dim": 32, "encoder_feedforward_dim": 48, "dim_feedforward": 48, "text_encoder_width": 32, "text_encoder_num_layers": 1},
    "pp_formulanet_vision": {"post_conv_in_channels": 32, "post_conv_mid_channels": 32, "post_conv_out_channels": 32},
    "radio": {"patch_dim": 192, "max_img_size": 64},
    "sam2_hiera_det_model": HIERA_DET, "sam2_vision_model": FPN, "sam2_prompt_encoder": {"image_size": 128, "patch_size": 16},
    "sam3": {"vision_config.fpn_hidden_size": 32, "vision_config.backbone_config.window_size": 2, "image_size": 32},
    "sapiens2": {"num_key_value_heads_per_layer": [4, 4], "num_key_value_attention_heads": 4},
    "seggpt": {"image_size": [64, 32], "merge_index": 0, "intermediate_hidden_state_indices": [0, 1]},
    "tvp": {"max_img_size": 64, "visual_prompt_size": 8},
    "vitmatte": {"convstream_hidden_sizes": [8, 16, 16], "fusion_hidden_sizes": [16, 16, 8, 8], "backbone_config.num_channels": 4, "backbone_config.image_size": 64,
                 "backbone_config.out_features": ["stage2"], "backbone_config.patch_size": 16, "backbone_config.use_relative_position_embeddings": True},
    "vitpose": {"backbone_config.out_features": ["stage2"], "backbone_config.image_size": [64, 48], "backbone_config.patch_size": [16, 16]},
    "florence2": {"image_token_id": 10, "vision_config.projection_dim": 32}, "florence_vision": {"embed_dim": [16, 16, 32, 32], "num_groups": [2, 2, 4, 4], "window_size": 4}, "idefics3": {"image_token_id": 10},
    "llava_onevision": {"image_token_id": 10, "image_token_index": 10, "video_token_index": 11, "video_token_id": 11, "image_grid_pinpoints": [[32, 32]]},
}  # fmt: skip
"""Sizes by name, of a configuration inside another with a point; of a configuration that has a row or lies inside one."""
SHOWN = frozenset(
    """
    data2vec-vision dinov2_with_registers vit_msn yolos siglip_vision_model siglip2_vision_model vitpose_backbone pixio chinese_clip_vision_model
    blip_vision_model blip_2_vision_model owlvit_vision_model clipseg_vision_model xclip_vision_model idefics3_vision internvl_vision segformer pvt_v2
    mobilevit mobilevitv2 cvt swiftformer vivit dpt vilt layoutlmv3 imagegpt swin swinv2 donut-swin siglip blip blip-2 owlvit chinese_clip
    flava_image_model lxmert idefics3 qwen2_vl_vision qwen3_vl_vision video_llama_3_vision detr table-transformer deformable_detr rt_detr d_fine
    grounding-dino mask2former upernet eomt sam sam2 vitpose florence_vision perceiver
    """.split()  # noqa: SIM905
)
WITHOUT = frozenset(
    """
    convnext convnextv2 resnet regnet bit efficientnet mobilenet_v1 mobilenet_v2 dinov3_convnext hgnet_v2 rt_detr_resnet textnet poolformer
    timm_backbone uvdoc align align_vision_model blt dia_decoder clap_audio_model audio-spectrogram-transformer shieldgemma2 pix2struct
    apertus1p5_vision_tokenizer chameleon_vqgan emu3_vqgan janus_vqgan glm_image_vqmodel pp_lcnet_v4 pp_ocrv5_mobile_det pp_ocrv5_server_det
    pp_ocrv6_medium_det pp_ocrv6_small_det sam_prompt_encoder sam2_prompt_encoder sam2_video_prompt_encoder sam3_tracker_prompt_encoder
    sam_hq_prompt_encoder edgetam_prompt_encoder edgetam_video_prompt_encoder sam3_tracker_video_prompt_encoder vision-text-dual-encoder
    t5gemma2_encoder dac edgetam_vision_model gemma4_unified_vision pp_chart2table_vision granite4_vision_text
    """.split()  # noqa: SIM905
)
"""No attention of images, or only a part of a model that has a row."""
WHOLE = frozenset(
    """
    aimv2 altclip beit blip blip-2 bridgetower chinese_clip clip clipseg conditional_detr cvt d_fine dab-detr data2vec-vision deformable_detr deimv2
    deit depth_anything depth_pro detr dinat dinov2 dinov2_with_registers dinov3_vit donut-swin dpt eomt flava florence2 focalnet git glpn
    grounding-dino groupvit hiera idefics3 ijepa imagegpt layoutlmv3 levit lw_detr lxmert mask2former maskformer maskformer-swin metaclip_2 mgp-str
    mm-grounding-dino mobilevit mobilevitv2 oneformer owlv2 owlvit perceiver pixio pixtral prompt_depth_anything pvt pvt_v2 radio rf_detr rt_detr
    rt_detr_v2 sam sam2 sam3 sam_hq sapiens2 segformer seggpt siglip siglip2 swiftformer swin swin2sr swinv2 table-transformer timesformer tipsv2 tvp
    upernet videomae vilt vit vit_mae vit_msn vitdet vitmatte vitpose vitpose_backbone vivit vjepa2 xclip yolos zoedepth mlcd videoprism dac
    """.split()  # noqa: SIM905
)
"""Whole models that are measured beside the towers; those of language models are measured as towers alone."""


PARTS: dict[str, tuple[str, str, dict[str, Callable[[], torch.Tensor]]]] = {
    "blip-2": ("qformer_config", "Blip2QFormerModel", {"query_embeds": lambda: torch.randn(1, 5, 32), "encoder_hidden_states": lambda: torch.randn(1, 16, 32)}),
    "perceiver": ("", "PerceiverModel", {"inputs": lambda: torch.randn(1, 16, 32)}),
    "lxmert": (
        "",
        "LxmertModel",
        {
            "input_ids": lambda: torch.randint(3, 90, (1, 7)),
            "visual_feats": lambda: torch.randn(1, 6, 2048),
            "visual_pos": lambda: torch.rand(1, 6, 4),
        },
    ),
    "idefics_vision": ("", "models.idefics.vision.IdeficsVisionTransformer", {}),
    "lw_detr_vit": ("", "models.lw_detr.modeling_lw_detr.LwDetrViTBackbone", {}),
    "mgp-str": ("", "MgpstrForSceneTextRecognition", {"pixel_values": lambda: torch.randn(1, 3, 32, 128)}),
}
"""Models that are no towers, or are asked for something of their own: which part of the configuration, which class, what it is called with."""


def rows() -> list[Row]:
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError:
        return []
    names = [
        name
        for name in CONFIG_MAPPING
        if name not in WITHOUT and (name in WHOLE or name in SHOWN or "vision" in name or "_vit" in name or "image_model" in name)
    ]
    return [
        Row("transformers", name, partial(_build, name), name in SHOWN)
        for name in dict.fromkeys(names)
        if name not in ("cohere2_vision", "aya_vision", "granite4_vision", "hyperclovax_vision_v2")
    ]


def _shrunk(config: Any, special: dict[str, Any], seen: int = 0) -> Any:
    """Every size of a configuration, and of those inside it, replaced; lists keep their length."""
    for name, value in list(vars(config).items()):
        wanted = special.get(name, SIZES.get(name))
        if hasattr(value, "model_type") and seen < 4:
            _shrunk(value, SPECIAL.get(value.model_type, {}), seen + 1)
        elif name in special or (wanted is not None and isinstance(value, (int, float)) and not isinstance(value, bool) and value is not None):
            _set(config, name, wanted)
        elif name in STAGED and isinstance(value, (list, tuple)) and name not in special:
            _set(config, name, STAGED[name][: len(value)])
        elif "drop" in name and isinstance(value, float):
            # a field that says int takes no 0.0
            _set(config, name, 0.0)
            if getattr(config, name) != 0.0:
                _set(config, name, 0)
    for name, value in special.items():
        owner, _, last = name.rpartition(".")
        if owner or last == "out_features":
            inner = config
            for part in owner.split(".") if owner else ():
                inner = getattr(inner, part)
            _set(inner, last, value)
    return config


def _set(config: Any, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (AttributeError, TypeError, ValueError, StrictDataclassError):
        return


def _class(config: Any, name: str) -> Any:
    """The model whose configuration this is: the automatic one, or the first that takes it, towers before heads."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    mapped = MODEL_MAPPING_NAMES.get(name)
    if isinstance(mapped, str) and hasattr(transformers, mapped):
        return getattr(transformers, mapped)
    module = __import__(type(config).__module__.replace("configuration_", "modeling_"), fromlist=["x"])
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, transformers.PreTrainedModel) and kind.__module__ == module.__name__ and getattr(kind, "config_class", None) is type(config)
    ]
    kinds = [kind for kind in kinds if not kind.__name__.endswith("PreTrainedModel")]
    if not kinds:
        raise LookupError(f"no model takes {type(config).__name__}")
    return min(kinds, key=lambda kind: ("For" in kind.__name__, "Projection" in kind.__name__, len(kind.__name__)))


def _build(name: str) -> Built:
    installed("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    special = SPECIAL.get(name, {})
    config = _shrunk(CONFIG_MAPPING[name](), special)
    torch.manual_seed(0)
    if name in PARTS:
        part, kind_name, inputs = PARTS[name]
        owner, _, last = f"transformers.{kind_name}".rpartition(".")
        kind = getattr(importlib.import_module(owner), last)
        if inputs:
            return kind(getattr(config, part) if part else config).eval(), {key: make() for key, make in inputs.items()}
    else:
        kind = _class(config, name)
    with torch.device("meta"):
        size = sum(p.numel() for p in kind(config).parameters())
    if size > 60e6:
        raise ValueError(f"{kind.__name__} of {size:,} parameters is not small enough")
    model = kind(config).eval()
    tried = []
    given = GIVEN[name]() if name in GIVEN else []
    for inputs in given + _inputs(model, config, special.get("image_size")):
        try:
            with torch.no_grad():
                model(**inputs)
        except Exception as error:
            tried.append(f"{type(error).__name__}: {error}")
            continue
        return model, inputs
    said = " / ".join(dict.fromkeys(tried)) or "nothing to call it with"
    raise ValueError(f"{kind.__name__}: {said}")


def _inputs(model: Any, config: Any, size: Any = None) -> list[dict[str, Any]]:
    """What the model may be called with: the likeliest first."""
    asked = inspect.signature(model.forward).parameters
    vision = getattr(config, "vision_config", None) or config
    side = size or getattr(vision, "image_size", 32)
    side = side if isinstance(side, int) else max(side) if isinstance(side, (list, tuple)) else 32
    sides = list(dict.fromkeys([side, 32, 64, 128]))
    given: list[dict[str, Any]] = []
    text = {
        key: value
        for key, value in {
            "input_ids": torch.randint(3, 90, (1, 7)),
            "attention_mask": torch.ones(1, 7, dtype=torch.long),
            "token_type_ids": torch.zeros(1, 7, dtype=torch.long),
        }.items()
        if key in asked
    }
    patch = getattr(vision, "patch_size", 8)
    patch = patch if isinstance(patch, int) else 8
    frames, channels = getattr(vision, "temporal_patch_size", 1), getattr(vision, "num_channels", getattr(vision, "in_channels", 3)) or 3
    if "grid_thw" in asked or "grid_thws" in asked:
        first = next(iter(asked))
        grid = "grid_thw" if "grid_thw" in asked else "grid_thws"
        for width in (channels * frames * patch * patch,):
            given.append({first: torch.randn(32, width), grid: torch.tensor([[1, 4, 8]])})
            given.append({first: torch.randn(32, channels, patch, patch), grid: torch.tensor([[1, 4, 8]])})
            given.append({first: torch.randn(32, width), grid: torch.tensor([[1, 4, 8]]), "merge_sizes": torch.tensor([2])})
    if "spatial_shapes" in asked:
        given.append(
            {
                "pixel_values": torch.randn(1, 16, channels * patch * patch),
                "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
                "spatial_shapes": torch.tensor([[4, 4]]),
            }
        )
    oblong = next(
        (
            tuple(value)
            for value in (getattr(vision, "image_size", 0), getattr(getattr(config, "backbone_config", None), "image_size", 0))
            if isinstance(value, (list, tuple))
        ),
        None,
    )
    if oblong is not None and len(oblong) == 2 and "pixel_values" in asked:
        given.append({"pixel_values": torch.randn(1, channels, *oblong), **text})
    for size in sides:
        images = torch.randn(1, channels, size, size)
        for key in ("pixel_values", "pixel_values_videos", "hidden_states", "images", "inputs", "query_embeds", "input_ids"):
            if key not in asked:
                continue
            if key == "input_ids" and "pixel_values" not in asked:
                given.append({"input_ids": torch.randint(3, 90, (1, 16))})
            if key != "input_ids":
                given += [{key: images}, {key: images, **text}]
                if "pixel_mask" in asked:
                    given.append({key: images, "pixel_mask": torch.ones(1, size, size, dtype=torch.long), **text})
                for number in (getattr(config, "num_frames", 4), 2, 4):
                    given.append({key: torch.randn(1, number, channels, size, size), **text})
                    given.append({key: torch.randn(number, channels, size, size), **text})
    return given
