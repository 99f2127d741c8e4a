"""TimeSformer in timm: ``attention_type``, ``attention`` and ``time_attention`` are options of ``create_model``, and images become videos ``(B, C, T, H, W)``.

A checkpoint of an image model, in timm's or in the DnA authors' names, is inflated (:func:`foveal.models.inflate_`); the classifier stays fresh then.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..models import TimeSformer, inflate_
from ..models._patches import take_positions
from ..official import translate
from ._register import Published, enter

__all__ = ["checkpoint_filter_fn"]

_KINETICS: dict[str, Any] = {
    "num_classes": 400,
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.45, 0.45, 0.45),
    "std": (0.225, 0.225, 0.225),
}


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of this model, in ours or in the DnA authors' names; or of an image model, which fills it as far as it goes.

    Raises:
        ValueError: keys of no known layout; positions of a grid that is not known.
    """
    assert isinstance(model, TimeSformer), f"this reads checkpoints for TimeSformers, not for {type(model).__name__}"
    state = dict(state_dict.get("model_state", state_dict.get("model", state_dict)))
    if any(key.endswith("neg_scalers") for key in state):
        state = translate("dna.timesformer", state, sign="+")
    if model.time_embed is not None and "time_embed" not in state:
        inflate_(model, state)
        return model.state_dict()
    tokens = take_positions(model, state)
    return state | tokens


_BERTASIUS = {
    "paper_ids": "arXiv:2102.05095",
    "paper_name": "Is Space-Time Attention All You Need?",
    "origin_url": "https://github.com/facebookresearch/TimeSformer",
}
_DNA = {"paper_ids": "arXiv:2606.27372", "paper_name": "DnA: Denoising Attention", "origin_url": "https://github.com/rjccv/DnA"}
_COMMON: dict[str, Any] = {"module": __name__, "filter_fn": checkpoint_filter_fn, "feature_cfg": {"out_indices": 3, "feature_cls": "getter"}}
_SMALL: dict[str, Any] = {"num_frames": 3, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
_SAYS: dict[str, tuple[str, dict[str, Any], Published]] = {
    "timesformer": ("softmax", _BERTASIUS, Published("Bertasius et al., ICML 2021, arXiv 2102.05095")),
    "dna_timesformer": (
        "denoising",
        _DNA,
        Published("Campos et al., ECCV 2026, arXiv 2606.27372", "+23 % over TimeSformer", "+1.8 over TimeSformer on action recognition"),
    ),
}
for _name, (_attention, _paper, _about) in _SAYS.items():
    enter(f"fov_{_name}_base_patch16_224", TimeSformer, published=_about, cfg=_KINETICS | _paper, attention=_attention, **_COMMON)
    enter(f"test_fov_{_name}", TimeSformer, cfg=_KINETICS | {"input_size": (3, 32, 32), "num_classes": 10}, attention=_attention, **_COMMON, **_SMALL)
