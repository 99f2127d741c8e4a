"""transformers 5: vision towers whose attention owns ``q_proj``, ``k_proj``, ``v_proj`` and an output map, and answers with output and weights.

A replacement is an instance of a subclass of the host's class: transformers finds what to record by class, and would else return no maps and say nothing.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import TokenAttention
from ._host import Place, joined, linear_of, register_host

__all__: list[str] = []

FAMILIES = {
    "vit.modeling_vit.ViTAttention": "o_proj",
    "deit.modeling_deit.DeiTAttention": "o_proj",
    "dinov2.modeling_dinov2.Dinov2Attention": "o_proj",
    "clip.modeling_clip.CLIPAttention": "out_proj",
    "siglip.modeling_siglip.SiglipAttention": "out_proj",
}
"""Classes under ``transformers.models``, and the name of their output map."""


def _forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """``(B, N, C)`` and the ``combined`` map, ``(B, H, N, N)``, where attentions were asked for: by ``attn_implementation="eager"``, as ever."""
    options = {"attn_mask": _of_keys(self.attn, attention_mask), "is_causal": bool(kwargs.get("is_causal") or False)}
    out = self.attn(hidden_states, **options)
    weights = self.attn.attention_map(hidden_states, **options)["combined"] if self.config._attn_implementation == "eager" else None
    return out, weights


def _of_keys(attn: TokenAttention, mask: Tensor | None) -> Tensor | None:
    """In export transformers gives a mask, ``(B, 1, N, N)``, where there is none to give. Its rows are equal: who has no pairs takes the first.

    In a vision tower, masks leave out keys for all queries. A graph cannot look whether one does; outside of export a mask of pairs is refused as ever.
    """
    if mask is None or mask.ndim != 4 or attn.of_pairs or not torch.compiler.is_exporting():
        return mask
    return mask[:, :, :1] if mask.dtype == torch.bool else mask[:, :, :1] >= 0


@lru_cache
def _subclass(family: Any) -> Any:
    return type(f"Converted{family.__name__}", (family,), {"forward": _forward, "__module__": __name__, "__reduce_ex__": _reduce})


def _reduce(self: nn.Module, protocol: Any) -> Any:
    # the class is made at run time, so it is found again by the one that it is made from
    return _empty, (type(self).__mro__[1],), self.__dict__


def _empty(family: Any) -> Any:
    made = _subclass(family)
    return made.__new__(made)


def _read(module: Any, model: nn.Module, name: str) -> Place:
    config = module.config
    if type(module).__name__ == "CLIPAttention" and "Text" in type(config).__name__:
        raise InputError(f"{name} reads text, whose masks are causal; leave it out of `where`, for example with where='vision_model.*'")
    proj = getattr(module, FAMILIES[".".join([*type(module).__module__.split(".")[2:], type(module).__name__])])
    prefix, grid = _tokens(config)
    return Place(
        dim=proj.out_features,
        num_heads=getattr(module, "num_attention_heads", None) or module.num_heads,
        head_dim=module.head_dim,
        qkv=joined([module.q_proj, module.k_proj, module.v_proj]),
        proj=linear_of(proj.weight, proj.bias),
        attn_drop=getattr(module, "attention_dropout", getattr(module, "dropout", 0.0)),
        num_prefix_tokens=prefix,
        grid=grid,
    )


def _tokens(config: Any) -> tuple[int | None, tuple[int, int] | None]:
    """From the configuration. SigLIP has no class token, DeiT has two, DINOv2 takes images of any size."""
    prefix = {"siglip_vision_model": 0, "deit": 2}.get(config.model_type, 1)
    side = config.image_size // config.patch_size if isinstance(config.image_size, int) and config.model_type != "dinov2" else None
    return prefix, None if side is None else (side, side)


def _wrap(module: Any, ours: nn.Module) -> nn.Module:
    assert isinstance(ours, TokenAttention), "conversion builds these"
    family: Any = type(module)
    replacement = _empty(family)
    nn.Module.__init__(replacement)
    replacement.attn = ours
    for name in ("config", "is_causal", "head_dim", "num_heads", "num_attention_heads", "embed_dim"):
        if hasattr(module, name):
            setattr(replacement, name, getattr(module, name))
    return replacement


for _family in FAMILIES:
    register_host(f"transformers.models.{_family}", _read, _wrap)
