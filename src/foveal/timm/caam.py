"""CaaM in timm: logits are those of the mean of all environments' heads on the causal stream; ``model.streams(images)`` gives all three for training.

The defaults are the authors' for NICO; for ImageNet-9 it is ``split_stage=3``, and ``complement_norm=True`` in the transformer.
"""

from dataclasses import asdict
from typing import Any

from ..models import T2T_SIZES, CausalResNetClassifier, CausalT2TViT
from ._register import Published, enter

__all__: list[str] = []

_PAPER: dict[str, Any] = {
    "paper_ids": "arXiv:2108.08782",
    "paper_name": "Causal Attention for Unbiased Visual Recognition",
    "origin_url": "https://github.com/Wangt-CN/CaaM",
}
_NICO: dict[str, Any] = {
    "num_classes": 10,
    "crop_pct": 1.0,
    "crop_mode": "squash",
    "interpolation": "bilinear",
    "mean": (0.524, 0.523, 0.449),
    "std": (0.219, 0.218, 0.226),
    "classifier": ("head", "head.mixture"),
}
_SOURCE = "Wang et al., ICCV 2021, arXiv 2108.08782; accuracy of the released code's README"
_FEATURES = {"feature_cls": "getter"}

_RESNET: dict[str, Any] = {"fixed_input_size": False, "first_conv": "trunk.stem.0"}
enter(
    "fov_caam_resnet18",
    CausalResNetClassifier,
    module=__name__,
    published=Published(_SOURCE, result="46.62 % on NICO's test set, from scratch"),
    cfg=_PAPER | _NICO | _RESNET | {"pool_size": (7, 7)},
    feature_cfg=_FEATURES | {"out_indices": (0, 1, 2, 3)},
)
enter(
    "test_fov_caam_resnet",
    CausalResNetClassifier,
    module=__name__,
    cfg=_NICO | _RESNET | {"input_size": (3, 32, 32), "pool_size": (2, 2)},
    feature_cfg=_FEATURES | {"out_indices": (0, 1, 2)},
    widths=(16, 24, 32),
    depths=(1, 2, 1),
    reduction=4,
)

enter(
    "test_fov_caam_resnet_4",
    CausalResNetClassifier,
    module=__name__,
    cfg=_NICO | _RESNET | {"input_size": (3, 24, 24), "pool_size": (3, 3)},
    feature_cfg=_FEATURES | {"out_indices": (0, 1, 2, 3)},
    widths=(16, 16, 24, 32),
    depths=(1, 1, 1, 1),
    stem=False,
    reduction=4,
)

_DIAL = asdict(T2T_SIZES["7"])
_TOKENS: dict[str, Any] = {"first_conv": None}
enter(
    "fov_caam_t2t_vit_7",
    CausalT2TViT,
    module=__name__,
    published=Published(_SOURCE + ", with the performer as token attention", result="37.62 % on NICO's test set, from scratch"),
    cfg=_PAPER | _NICO | _TOKENS,
    feature_cfg=_FEATURES | {"out_indices": 3},
    embed_dim=_DIAL.pop("dim"),
    **_DIAL,
)
enter(
    "test_fov_caam_t2t_vit",
    CausalT2TViT,
    module=__name__,
    cfg=_NICO | _TOKENS | {"input_size": (3, 32, 32)},
    feature_cfg=_FEATURES | {"out_indices": 3},
    embed_dim=24,
    depth=4,
    num_heads=2,
    token_dim=16,
    causal_depth=2,
)
