"""transformers 5: vision towers whose attention owns ``q_proj``, ``k_proj``, ``v_proj`` and an output map, and answers with output and weights.

A replacement is an instance of a subclass of the host's class: transformers finds what to record by class, and would else return no maps and say nothing.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import TokenAttention
from ._host import Place, register_host
from ._layouts import tokens_of
from ._parts import PrefixRotary, joined
from ._placed import Placed

__all__ = ["FORWARDS", "converted"]

FAMILIES = {
    "vit.modeling_vit.ViTAttention": "o_proj",
    "deit.modeling_deit.DeiTAttention": "o_proj",
    "dinov2.modeling_dinov2.Dinov2Attention": "o_proj",
    "clip.modeling_clip.CLIPAttention": "out_proj",
    "siglip.modeling_siglip.SiglipAttention": "out_proj",
    "dinov3_vit.modeling_dinov3_vit.DINOv3ViTAttention": "o_proj",
    "beit.modeling_beit.BeitAttention": "o_proj",
    "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersAttention": "o_proj",
    "vit_msn.modeling_vit_msn.ViTMSNAttention": "o_proj",
    "vit_mae.modeling_vit_mae.ViTMAEAttention": "o_proj",
    "ijepa.modeling_ijepa.IJepaAttention": "o_proj",
    "pixio.modeling_pixio.PixioAttention": "o_proj",
    "chinese_clip.modeling_chinese_clip.ChineseCLIPVisionAttention": "out_proj",
    "siglip2.modeling_siglip2.Siglip2Attention": "out_proj",
}
"""Classes under ``transformers.models``, and the name of their output map."""
FORWARDS: dict[str, Callable[..., Any]] = {}
"""By class, how a replacement is called where its host is called in another way than those."""


def _forward(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, position_embeddings: tuple[Tensor, Tensor] | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """``(B, N, C)`` and the ``combined`` map, ``(B, H, N, N)``, where attentions were asked for: by ``attn_implementation="eager"``, as ever."""
    rope = None
    if position_embeddings is not None:
        cos, sin = position_embeddings
        rope = PrefixRotary(
            lambda x: x * cos + torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], dim=-1) * sin, hidden_states.shape[1] - len(cos)
        )
    masks = {"bias" if self.given_bias else "mask": _of_keys(self.attn, attention_mask)}
    options = self.options(**masks, rope=rope, is_causal=bool(kwargs.get("is_causal") or False))
    out = self.attn(hidden_states, **options)
    weights = self.attn.attention_map(hidden_states, **options)["combined"] if self.config._attn_implementation == "eager" else None
    return out, weights


def _of_keys(attn: TokenAttention, mask: Tensor | None) -> Tensor | None:
    """In export transformers gives a mask, ``(B, 1, N, N)``, where there is none to give. Its rows are equal: who has no pairs takes the first.

    In a vision tower, masks leave out keys for all queries. A graph cannot look whether one does; outside of export a mask of pairs is refused as ever.
    """
    if mask is None or mask.ndim != 4 or attn.has_pairwise_logits or not torch.compiler.is_exporting():
        return mask
    return mask[:, :, :1] if mask.dtype == torch.bool else mask[:, :, :1] >= 0


@lru_cache
def _subclass(family: Any) -> Any:
    forward = FORWARDS.get(f"{family.__module__}.{family.__name__}", _forward)
    return type(f"Converted{family.__name__}", (family,), {"forward": forward, "options": Placed.options, "__module__": __name__, "__reduce_ex__": _reduce})


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
    tokens = tokens_of(model, name)
    qkv, copied = joined([module.q_proj, module.k_proj, module.v_proj])
    return Place(
        dim=proj.out_features,
        num_heads=getattr(module, "num_attention_heads", None) or module.num_heads,
        head_dim=module.head_dim,
        qkv=qkv,
        copied=copied,
        proj=proj,
        attn_drop=getattr(module, "attention_dropout", getattr(module, "dropout", 0.0)),
        num_prefix_tokens=tokens.prefix,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        needs_pairs=_masks_of_pairs(config),
        rotary=config.model_type == "dinov3_vit",
        given_bias=_given_bias(config),
    )


def _given_bias(config: Any) -> bool:
    """BEiT's relative positions come to its attentions with the mask."""
    return bool(getattr(config, "use_relative_position_bias", False) or getattr(config, "use_shared_relative_position_bias", False))


def _masks_of_pairs(config: Any) -> str:
    """Text is padded, and SigLIP 2 pads images of other proportions; transformers says so by a mask ``(B, 1, N, N)``, or by none where nothing is padded."""
    if "Text" in type(config).__name__:
        return "it reads text, whose padding comes as a mask of pairs; leave text out of `where`, for example with where='vision_model.*'"
    return "images of other proportions are padded, which comes as a mask of pairs" if config.model_type.startswith("siglip2") else ""


def _wrap(module: Any, ours: nn.Module) -> nn.Module:
    return converted(type(module), module, ours)


def converted(family: Any, module: Any, ours: nn.Module) -> Any:
    """An instance of a subclass of ``family`` that is called as the host calls ``module``."""
    assert isinstance(ours, TokenAttention), "conversion builds these"
    replacement = _empty(family)
    nn.Module.__init__(replacement)
    replacement.attn, replacement.position, replacement.given_bias = ours, None, _given_bias(module.config)
    for name in ("config", "is_causal", "head_dim", "num_heads", "num_attention_heads", "embed_dim"):
        if hasattr(module, name):
            setattr(replacement, name, getattr(module, name))
    return replacement


for _family in FAMILIES:
    register_host(f"transformers.models.{_family}", _read, _wrap)
