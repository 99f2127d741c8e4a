"""T2T-ViT and EAMLP in timm, with any attention in the token module (``token_attention``) and in the backbone (``attention``).

``fov_t2t_vit_…`` has softmax in both; ``…_ea`` external attention in the token module alone, which is what the rows "EA" of the paper's table mean;
``fov_eamlp_…`` in both, with the expansion of the released code and its dropout in the token module. Stochastic depth belongs to the training.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from ..models import T2T_SIZES, T2TViT
from ..models._patches import take_positions
from ..models.t2t import eamlp
from ..official import translate
from ._register import Published, enter

__all__ = ["checkpoint_filter_fn"]

_T2T: dict[str, Any] = {"paper_ids": "arXiv:2101.11986", "paper_name": "Tokens-to-Token ViT", "origin_url": "https://github.com/yitu-opensource/T2T-ViT"}
_EA: dict[str, Any] = {
    "paper_ids": "arXiv:2105.02358",
    "paper_name": "Beyond Self-attention: External Attention",
    "origin_url": "https://github.com/MenghaoGuo/EANet",
}
_FIRST: dict[str, Any] = {"first_conv": None, "crop_pct": 0.9}


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of this model, in our names or in those of EANet's EAMLP, with positions of any size.

    Raises:
        ValueError: keys of no known layout; positions of a grid that is not known.
    """
    assert isinstance(model, T2TViT), f"this reads checkpoints of T2T-ViT, not of {type(model).__name__}"
    state = dict(state_dict.get("state_dict", state_dict))
    if any(key.startswith("tokens_to_token.") for key in state):
        state = translate("external.eamlp", state)
    tokens = take_positions(model, state)
    return state | tokens


_SLOTS = {"token_attention": "external", "token_options": {"slots": 128}}
_MLP = {name: value for name, value in asdict(eamlp()).items() if name not in ("size", "drop_path", "token_dim")}
_YUAN = "Yuan et al., ICCV 2021, arXiv 2101.11986, with the performer as token attention"
_GUO = "Guo et al., arXiv 2105.02358"
_VIP = "; accuracy as in the table of the ViP repository"

# top-1 on ImageNet-1K at 224 pixels unless said otherwise
_SAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Published]]] = {
    "fov_t2t_vit_{}": (
        "test_fov_t2t_vit",
        {},
        _T2T,
        {
            "7": Published(_YUAN, "4.3 M", "71.7 top-1"),
            "14": Published(_YUAN, "21.5 M", "81.5 top-1; 81.7 with softmax there"),
            "19": Published(_YUAN, "39.2 M", "81.9 top-1"),
        },
    ),
    "fov_t2t_vit_{}_ea": (
        "test_fov_t2t_vit_ea",
        _SLOTS,
        _EA,
        {
            "7": Published(_GUO),
            "14": Published(_GUO + "; accuracy as listed by Papers with Code", "21.5 M", "81.7 top-1"),
            "19": Published(_GUO),
        },
    ),
    "fov_eamlp_{}": (
        "test_fov_eamlp",
        _MLP,
        _EA,
        {
            "7": Published(_GUO + "; count of the official model", "6,146,638", "71.7 top-1 at 384 pixels"),
            "14": Published(_GUO + "; count of the official model" + _VIP, "29,877,070", "78.9 top-1"),
            "19": Published(_GUO + "; count of the official model" + _VIP, "54,559,054", "79.4 top-1"),
        },
    ),
}

_HOST: dict[str, Any] = {"module": __name__, "filter_fn": checkpoint_filter_fn, "feature_cfg": {"out_indices": 3, "feature_cls": "getter"}}
_SMOKE: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "token_dim": 16}

for _name, (_small, _options, _paper, _sizes) in _SAYS.items():
    for _size, _about in _sizes.items():
        _dial = asdict(T2T_SIZES[_size])
        enter(_name.format(_size), T2TViT, published=_about, cfg=_paper | _FIRST, embed_dim=_dial.pop("dim"), **_HOST, **_options, **_dial)
    # without dropout, so that a miniature in training is a function of its input
    _quiet: dict[str, Any] = {name: value for name, value in _options.items() if name != "token_drop"}
    enter(_small, T2TViT, cfg=_FIRST | {"input_size": (3, 32, 32), "num_classes": 10}, **_HOST, **_quiet, **_SMOKE)
