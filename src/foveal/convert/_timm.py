"""timm: vision transformers whose blocks own an ``Attention`` (ViT, DeiT, DeiT3, DINOv2, CLIP and SigLIP towers, hybrids)."""

from typing import Any

from torch import nn

from .._errors import InputError
from ._host import Place, register_host

__all__ = ["refuse_gates", "tokens_of"]


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
    prefix, grid = tokens_of(model, name)
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
        num_prefix_tokens=prefix,
        grid=grid,
    )


def tokens_of(model: nn.Module, name: str) -> tuple[int | None, tuple[int, int] | None]:
    """Prefix tokens and grid of the transformer that the module lies in: the nearest one above it, as a tower may be part of a larger model."""
    above = name.split(".")
    for depth in range(len(above) - 1, -1, -1):
        owner = model.get_submodule(".".join(above[:depth]))
        if hasattr(owner, "num_prefix_tokens") and hasattr(owner, "patch_embed"):
            return owner.num_prefix_tokens, getattr(owner.patch_embed, "grid_size", None)  # type: ignore[return-value]
    return None, None


register_host("timm.layers.attention.Attention", _read)
