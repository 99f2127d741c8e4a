"""DnA ViT in timm: ``fov_dna_vit_…`` with values apart, the paper's main model, and ``fov_dna_shared_vit_…`` with shared values, its ablation.

The layout is the authors'. Their checkpoints, and those in timm's layout, are read into whichever layout the model has.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..models import DenoisingViT, VisionTransformer
from ..models._patches import take_positions
from ..official import translate
from ._register import Published, enter

__all__ = ["checkpoint_filter_fn"]

_DIALS: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
_PAPER = {
    "paper_ids": "arXiv:2606.27372",
    "paper_name": "DnA: Denoising Attention",
    "origin_url": "https://github.com/rjccv/DnA",
}


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of this model, in the authors' names or ours and in either layout of positions, for the model as it is built.

    Files with ``qqkvv`` are of the authors' training, which adds the negative branch; those with ``qqkv``, of their shared values, subtract it. A file that
    disagrees goes through ``foveal.official.load``, which takes the sign.

    Raises:
        ValueError: keys of no known layout; positions of a grid that is not known.
    """
    assert isinstance(model, VisionTransformer), f"this reads checkpoints of vision transformers, not of {type(model).__name__}"
    state = dict(state_dict.get("model", state_dict))
    if any(key.endswith("neg_scalers") for key in state):
        state = translate("dna.vit", state, sign="-" if any(".qqkv." in key for key in state) else "+")
    tokens = take_positions(model, state)
    return state | tokens


_SOURCE = "Campos et al., ECCV 2026, arXiv 2606.27372"
# counts for a head of 1000 classes; the paper reports its gain over ViT-B alone, and no absolute accuracy is known to us
_SAYS = {
    ("base", False): Published(_SOURCE + "; count of the official model", "100,741,240", "+0.8 top-1 over ViT-B on ImageNet-1K"),
    ("base", True): Published(_SOURCE + "; the ablation with shared values"),
}

for _shared in (False, True):
    _kind = "dna_shared_vit" if _shared else "dna_vit"
    _common: dict[str, Any] = {
        "module": __name__,
        "filter_fn": checkpoint_filter_fn,
        "feature_cfg": {"out_indices": 3, "feature_cls": "getter"},
        "options": {"shared_values": True} if _shared else None,
    }
    for _size, _dial in _DIALS.items():
        _about = _SAYS.get((_size, _shared), Published(_SOURCE + "; not in the paper, sized as timm's ViT"))
        enter(f"fov_{_kind}_{_size}_patch16_224", DenoisingViT, published=_about, cfg=_PAPER, patch_size=16, **_common, **_dial)
    _small: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    enter(f"test_fov_{_kind}", DenoisingViT, cfg={"input_size": (3, 32, 32), "num_classes": 10}, **_common, **_small)
