"""timm: a model of every family that holds attention, and of every module of timm that came later."""

import inspect
import re
from functools import partial
from typing import Any

import torch

from tests.sweep.rows import Built, Row, installed

__all__ = ["rows"]

SHOWN = {
    "vit (siglip, map pool)": "vit_base_patch16_siglip_224",
    "vit diff attention": "vit_dlittle_patch16_reg1_gap_256",
    "naflexvit (siglip2)": "naflexvit_base_patch16_siglip",
    "vit_relpos": "vit_relpos_small_patch16_224",
    "vit_relpos (rpn cls)": "vit_relpos_base_patch32_plus_rpn_256",
    "sam (rope)": "samvit_base_patch16_224",
    "perception encoder core": "vit_pe_core_tiny_patch16_384",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "crossvit": "crossvit_tiny_240",
    "tnt": "tnt_s_legacy_patch16_224",
    "convit": "convit_tiny",
    "mvitv2": "mvitv2_tiny",
    "pvt_v2": "pvt_v2_b0",
    "pvt_v2 (linear)": "pvt_v2_b2_li",
    "maxvit pm": "maxvit_tiny_pm_256",
    "coatnet": "test_coatnet",
    "coatnext": "coatnext_nano_rw_224",
    "twins_svt": "twins_svt_small",
    "twins_pcpvt": "twins_pcpvt_small",
    "hiera": "hiera_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_sam (mit l)": "efficientvit_l1",
    "efficientformer": "efficientformer_l1",
    "mobilevitv2": "mobilevitv2_050",
    "fastvit (sa12)": "fastvit_sa12",
    "davit": "davit_tiny",
    "edgenext": "edgenext_xx_small",
    "shvit": "shvit_s1",
    "mobilenetv4_hybrid": "mobilenetv4_hybrid_medium_075",
    "halonet": "halonet26t",
    "lambda_resnet": "lambda_resnet26t",
    "lamhalobotnet": "lamhalobotnet50ts_256",
    "resnet_clip (attn pool)": "resnet50_clip",
    "swiftformer": "swiftformer_xs",
    "cpubone": "cpubone_nano",
    "davit (florence)": "davit_base_fl",
    "volo": "volo_d1_224",
    "nextvit": "nextvit_small",
    "bat_resnext": "bat_resnext26ts",
}
OTHERS = {
    "vit": "vit_tiny_patch16_224",
    "vit (clip)": "vit_base_patch32_clip_224",
    "vit (dinov2)": "vit_small_patch14_dinov2",
    "vit (dinov2, registers)": "vit_small_patch14_reg4_dinov2",
    "vit (gap, qk norm)": "vit_wee_patch16_reg1_gap_256",
    "vit (parallel)": "vit_small_patch16_36x1_224",
    "vit (swiglu)": "vit_huge_patch14_gap_224",
    "aimv2": "aimv2_large_patch14_224",
    "flexivit": "flexivit_small",
    "radio": "vit_base_patch16_radio_v3",
    "tipsv2": "vit_large_patch14_reg1_tipsv2",
    "sapiens2": "vit_base_patch16_sapiens2",
    "lingbot": "vit_giant_patch16_lingbot",
    "deit": "deit_tiny_patch16_224",
    "deit (distilled)": "deit_tiny_distilled_patch16_224",
    "deit3": "deit3_small_patch16_224",
    "beit": "beit_base_patch16_224",
    "beit3": "beit3_base_patch16_224",
    "eva": "eva_large_patch14_196",
    "eva02": "eva02_tiny_patch14_224",
    "eva02 (clip)": "eva02_base_patch16_clip_224",
    "dinov3": "vit_small_patch16_dinov3",
    "vit rope": "vit_small_patch16_rope_224",
    "vit rope (mixed)": "vit_small_patch16_rope_mixed_224",
    "vit rope (registers)": "vit_medium_patch16_rope_reg1_gap_256",
    "perception encoder spatial": "vit_pe_spatial_tiny_patch16_512",
    "vit hybrid": "vit_small_r26_s32_224",
    "naflexvit": "naflexvit_base_patch16_gap",
    "naflexvit (map)": "naflexvit_base_patch16_map",
    "xcit": "xcit_nano_12_p16_224",
    "coat lite": "coat_lite_tiny",
    "levit": "levit_128s",
    "levit (conv)": "levit_conv_128s",
    "pit": "pit_ti_224",
    "nest": "nest_tiny",
    "swin": "swin_tiny_patch4_window7_224",
    "swin s3": "swin_s3_tiny_224",
    "swinv2": "swinv2_tiny_window8_256",
    "swinv2_cr": "swinv2_cr_tiny_ns_224",
    "maxvit": "test_maxvit",
    "maxvit (tf)": "maxvit_tiny_tf_224",
    "maxvit (rmlp)": "maxvit_rmlp_pico_rw_256",
    "maxxvit": "maxxvit_rmlp_nano_rw_256",
    "maxxvitv2": "maxxvitv2_nano_rw_256",
    "coatnet (rmlp)": "coatnet_rmlp_nano_rw_224",
    "coatnet (bias)": "coatnet_0_224",
    "gcvit": "gcvit_xxtiny",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientvit_msra": "efficientvit_m0",
    "mobilevit": "mobilevit_xxs",
    "repvit": "repvit_m0_9",
    "visformer": "visformer_tiny",
    "vitamin": "vitamin_small_224",
    "tnt (new)": "tnt_s_patch16_224",
    "caformer": "caformer_s18",
    "botnet": "botnet26t_256",
    "halonet (regnetz)": "haloregnetz_b",
    "halo2botnet": "halo2botnet50ts_256",
    "sebotnet": "sebotnet33ts_256",
    "eca_halonext": "eca_halonext26ts",
    "hieradet_sam2": "sam2_hiera_tiny",
    "iformer": "iformer_t",
    "lowformer": "lowformer_b0",
    "csatv2": "csatv2",
    "mobilenetv5": "mobilenetv5_base",
    "fastvit (mci)": "fastvit_mci0",
    "fastvit (ma)": "fastvit_ma36",
    "resnet_clip (gap)": "resnet50_clip_gap",
    "deepseek_vit": "deepseek_vit_412m",
    "gemma4_vit": "gemma4_vit_167m",
    "qwen3_vit": "qwen3_vit_88m",
    "test_vit4": "test_vit4",
    "vit mci": "vit_base_mci_224",
}
DEPTHS: list[dict[str, Any]] = [
    {"depth": 2},
    {"depths": (1, 1, 1, 1)},
    {"depths": (1, 1, 2, 1)},
    {"depths": (2, 1, 1, 1)},
    {"depths": (1, 1, 1)},
    {"depths": (1, 1)},
    {"layers": (1, 1, 1, 1)},
    {},
]
FULL = ("volo", "nextvit", "coat", "crossvit", "davit (florence)")
"""Families that lose kinds of attention when they are cut."""


def _build(family: str, name: str) -> Built:
    installed("timm")
    import timm

    torch.manual_seed(0)
    side = timm.models.get_pretrained_cfg(name).input_size[-1]
    small = 64 if "patch16" in name or "patch8" in name else 56 if "patch14" in name else 128 if side % 32 == 0 else side
    tried: list[str] = []
    for depth in [{}] if family in FULL else DEPTHS:
        for size in ({"img_size": small}, {}):
            try:
                model = timm.create_model(name, num_classes=5, **depth, **size).eval()
            except (TypeError, ValueError, AssertionError, IndexError, KeyError, RuntimeError) as error:
                tried.append(str(error))
                continue
            for images in (small, side) if not size else (small,):
                x = torch.randn(2, 3, images, images)
                try:
                    with torch.no_grad():
                        model(x)
                except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
                    tried.append(str(error))
                    continue
                return model, x
    raise RuntimeError(f"not built: {tried[-1] if tried else ''}")


def rows() -> list[Row]:
    known = [Row("timm", family, partial(_build, family, name), True) for family, name in SHOWN.items()]
    known += [Row("timm", family, partial(_build, family, name)) for family, name in OTHERS.items()]
    return known + [Row("timm", f"module {module}", partial(_build, module, name)) for module, name in _modules_unknown().items()]


def _modules_unknown() -> dict[str, str]:
    """timm's modules that speak of attention and have no row yet, with the first of their models: families of later versions."""
    import timm
    from timm.models import _registry

    covered = {_registry._model_to_module[name] for name in (*SHOWN.values(), *OTHERS.values()) if name in _registry._model_to_module}
    found: dict[str, str] = {}
    for name in timm.list_models():
        module = _registry._model_to_module[name]
        if module not in covered and module not in found:
            source = inspect.getsource(inspect.getmodule(_registry._model_entrypoints[name]))  # type: ignore[arg-type]
            if re.search(r"softmax\(|scaled_dot_product_attention|MultiheadAttention", source):
                found[module] = name
    return found
