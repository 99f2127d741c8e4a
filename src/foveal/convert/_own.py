"""Foveal's own attentions as hosts: models that were built with one of them, ours and those that timm built with ``attn_layer``."""

from typing import Any

import torch
from torch import nn

from .._errors import InputError
from ..attention import ExternalAttention, SoftmaxAttention
from ..attention._registry import registered
from ._hanging import is_readable
from ._host import Place, register_host
from ._layouts import Tokens, tokens_of
from ._parts import Copied

__all__: list[str] = []

_SHARED = ("qkv", "proj", "q_norm", "k_norm", "norm")


def _read(module: Any, model: nn.Module, name: str) -> Place:
    if isinstance(module, ExternalAttention):
        return _read_external(module, model, name)
    if getattr(module, "fused", False):
        raise InputError(f"{name} is fused; convert the model as it was before")
    lost = [key for key, _ in module.named_parameters() if key.partition(".")[0] not in _SHARED]
    no_grid = _not_of_one_image(model, name)
    tokens = Tokens(no_grid=no_grid) if no_grid else tokens_of(model, name)
    others = type(module) is not SoftmaxAttention or module.lambdas is not None
    return Place(
        dim=module.dim,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=module.qkv,
        proj=module.proj,
        q_norm=module.q_norm,
        k_norm=module.k_norm,
        norm=module.norm,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=tokens.prefix,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        needs_pairs="" if module.proj.out_features == module.dim else "it narrows its tokens, and its block reads its values",
        lost=(*lost, f"what {module.name} attention makes of queries, keys and values") if others else (),
    )


def _read_external(module: Any, model: nn.Module, name: str) -> Place:
    """Its queries are queries. Keys and values of tokens it has none: they are drawn."""
    inner, q = module.q.out_features, module.q
    if not is_readable(q):
        raise InputError(f"{name}.q is more than a linear map, and its rows become those of queries, keys and values; merge or remove what hangs on it first")
    qkv = nn.Linear(q.in_features, 3 * inner, bias=q.bias is not None, device=q.weight.device, dtype=q.weight.dtype)
    copied = []
    for key, value in q.named_parameters():
        with torch.no_grad():
            getattr(qkv, key)[:inner].copy_(value)
        getattr(qkv, key).requires_grad_(value.requires_grad)
        copied.append(Copied(qkv, key, slice(inner), value))
    no_grid = _not_of_one_image(model, name)
    tokens = Tokens(no_grid=no_grid) if no_grid else tokens_of(model, name)
    return Place(
        dim=module.dim,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=qkv,
        proj=module.proj,
        q_norm=module.q_norm,
        norm=module.norm,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=tokens.prefix,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        lost=(*(f"memory.{key}" for key, _ in module.memory.named_parameters()), "what external attention makes of queries"),
        notes=("keys and values are new: external attention has none of tokens",),
        copied=tuple(copied),
    )


def _not_of_one_image(model: nn.Module, name: str) -> str:
    """Why the tokens are no grid, in a transformer on video; empty in others."""
    above = name.split(".")
    owners = (model.get_submodule(".".join(above[:depth])) for depth in range(len(above) - 1, -1, -1))
    kind = next((owner.attention_type for owner in owners if hasattr(owner, "attention_type")), None)
    if "patch_embed" in above:
        return "in the steps that make patches"
    if above[-1] == "temporal_attn":
        return "among the frames of a video"
    return "among the patches of all frames of a video" if kind == "joint_space_time" else ""


for _class in registered().values():
    if _class.form == "tokens" and _class.__module__.startswith("foveal."):  # type: ignore[attr-defined]
        register_host(f"{_class.__module__}.{_class.__qualname__}", _read)
