"""timm: vision transformers whose blocks own an ``Attention`` (ViT, DeiT, DeiT3, DINOv2, CLIP and SigLIP towers, hybrids)."""

from typing import Any

from torch import nn

from .._errors import InputError
from ._host import Place, register_host
from ._layouts import tokens_of

__all__ = ["refuse_gates"]


def refuse_gates(module: nn.Module, name: str) -> None:
    """What no attention here can do.

    Raises:
        ValueError: a gate on the output; keys for several heads; another width that comes out than goes in.
    """
    reason = ""
    if getattr(module, "gate", None) is not None:
        reason = "gates its output"
    elif getattr(module, "num_kv_groups", 1) != 1:
        reason = "shares keys and values among heads"
    else:
        projection: Any = getattr(module, "qkv", None) or getattr(module, "q_proj", None)
        if module.proj.out_features != projection.in_features:  # type: ignore[union-attr]
            reason = "changes the width of its tokens"
    if reason:
        raise InputError(f"{name} {reason}, which no attention here does; leave it out of `where`")


def _read(module: nn.Module, model: nn.Module, name: str) -> Place:
    refuse_gates(module, name)
    qkv, proj = module.qkv, module.proj
    tokens = tokens_of(model, name)
    return Place(
        dim=qkv.in_features,  # type: ignore[union-attr,arg-type]
        num_heads=module.num_heads,  # type: ignore[arg-type]
        head_dim=module.head_dim,  # type: ignore[arg-type]
        qkv=qkv,  # type: ignore[arg-type]
        proj=proj,  # type: ignore[arg-type]
        q_norm=module.q_norm,  # type: ignore[arg-type]
        k_norm=module.k_norm,  # type: ignore[arg-type]
        norm=module.norm,  # type: ignore[arg-type]
        attn_drop=module.attn_drop.p,  # type: ignore[union-attr,arg-type]
        proj_drop=module.proj_drop.p,  # type: ignore[union-attr,arg-type]
        num_prefix_tokens=tokens.prefix,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
    )


register_host("timm.layers.attention.Attention", _read)
