"""Foveal's own attentions as hosts: models that were built with one of them, ours and those that timm built with ``attn_layer``."""

from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import SoftmaxAttention, attention_class, list_attentions
from ..attention._base import QKVAttention
from ._host import Place, register_host
from ._timm import tokens_of

__all__: list[str] = []

_SHARED = ("qkv", "proj", "q_norm", "k_norm", "norm")


def _read(module: Any, model: nn.Module, name: str) -> Place:
    if not isinstance(module, QKVAttention):
        raise InputError(f"{name} is {module.name} attention, which has no keys and values of tokens that another could take over; build the model with the other")
    if getattr(module, "fused", False):
        raise InputError(f"{name} is fused; convert the model as it was before")
    lost = [key for key, _ in module.named_parameters() if key.partition(".")[0] not in _SHARED]
    no_grid = _not_of_one_image(model, name)
    prefix, grid = (None, None) if no_grid else tokens_of(model, name)
    own = type(module) is not SoftmaxAttention
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
        num_prefix_tokens=prefix,
        grid=grid,
        no_grid=no_grid,
        lost=(*lost, f"what {module.name} attention makes of queries, keys and values") if own else (),
    )


def _not_of_one_image(model: nn.Module, name: str) -> str:
    """Why the tokens are no grid, in a transformer on video; empty in others."""
    above = name.split(".")
    owners = (model.get_submodule(".".join(above[:depth])) for depth in range(len(above) - 1, -1, -1))
    kind = next((owner.attention_type for owner in owners if hasattr(owner, "attention_type")), None)
    if above[-1] == "temporal_attn":
        return "among the frames of a video"
    return "among the patches of all frames of a video" if kind == "joint_space_time" else ""


for _name in list_attentions(form="tokens"):
    _class = attention_class(_name)
    if _class.__module__.startswith("foveal."):
        register_host(f"{_class.__module__}.{_class.__qualname__}", _read)
