"""HaloNets in timm: the paper's ``fov_halonet_h0`` to ``h7``, and timm's own networks with halo attention, ``fov_halonet26t`` and so on, on our layer.

All take images of any size, and ``halo={…}`` for options of the attention. Those of the paper take ``attention_stages``, ``(3, 4)`` say; the other stages
convolve. timm's take timm's weights: ``pretrained=True`` loads them.
"""

from typing import Any

from timm.models import byoanet

from ..models import HALONETS, build_halonet, build_timm_halonet
from ._register import Published, enter

__all__: list[str] = []

_PAPER = {"paper_ids": "arXiv:2103.12731", "paper_name": "Scaling Local Self-Attention for Parameter Efficient Visual Backbones"}
_HOST: dict[str, Any] = {"module": __name__, "feature_cfg": {"flatten_sequential": True}}
_CFG: dict[str, Any] = _PAPER | {"fixed_input_size": False, "first_conv": "stem.conv1.conv", "classifier": "head.fc", "crop_pct": 0.95}
_KERAS = "https://github.com/leondgarse/keras_cv_attention_models"
_TIMM = "https://github.com/huggingface/pytorch-image-models"

# parameters in millions and top-1 on ImageNet-1K
_FAMILY = {
    "h0": ("5.5", "77.9"),
    "h1": ("8.1", "79.9"),
    "h2": ("9.4", "80.4"),
    "h3": ("11.8", "81.9"),
    "h4": ("19.1", "83.3"),
    "h5": ("30.7", "84.0"),
    "h6": ("43.4", "84.4"),
    "h7": ("67.4", "84.9"),
}
for _name, (_count, _top1) in _FAMILY.items():
    _side = HALONETS[_name].img_size
    enter(
        f"fov_halonet_{_name}",
        build_halonet,
        published=Published(
            "Vaswani et al., CVPR 2021, arXiv 2103.12731, as listed by keras_cv_attention_models", f"{_count} M", f"{_top1} top-1 at {_side} pixels"
        ),
        cfg=_CFG | {"input_size": (3, _side, _side), "pool_size": (-(-_side // 32),) * 2, "origin_url": _KERAS},
        size=_name,
        **_HOST,
    )

# weights of timm's are of exactly this function, with its geometry; H1 has none
_HYBRIDS = {
    "halonet26t": ("a1h_in1k", "12,480,288", "79.13"),
    "halonet50ts": ("a1h_in1k", "22,733,280", "81.64"),
    "sehalonet33ts": ("ra2_in1k", "13,691,712", "80.98"),
    "eca_halonext26ts": ("c1_in1k", "10,756,885", "79.52"),
}
for _name, (_tag, _count, _top1) in _HYBRIDS.items():
    _theirs = byoanet.default_cfgs[_name].default.to_dict()
    enter(
        f"fov_{_name}",
        build_timm_halonet,
        published=Published("timm, after arXiv 2103.12731; accuracy of timm's weights, as timm lists it", _count, f"{_top1} top-1 at 256 pixels"),
        cfg={key: value for key, value in _theirs.items() if key not in ("min_input_size", "architecture", "tag")}
        | _PAPER
        | {"hf_hub_id": f"timm/{_name}.{_tag}", "origin_url": _TIMM},
        network=_name,
        **_HOST,
    )

_SMOKE: dict[str, Any] = _CFG | {"input_size": (3, 64, 64), "num_classes": 10, "pool_size": (2, 2)}
enter("test_fov_halonet", build_halonet, cfg=_SMOKE, size="test", **_HOST)
enter("test_fov_halonet26t", build_timm_halonet, cfg=_SMOKE, network="halonet26t", width_factor=0.125, **_HOST)
