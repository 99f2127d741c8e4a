"""timm: attentions with rotary positions and with biases of their own making (EVA, EVA02, DINOv3, ROPE-ViT, Perception Encoder; BEiT)."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ._host import Place, register_host
from ._layouts import tokens_of
from ._parts import PrefixRotary, joined, only, with_separate_bias
from ._placed import Bias, Placed
from ._timm import refuse_gates

__all__: list[str] = []


class RotaryPlaced(Placed):
    """Called as timm's ``EvaAttention`` and ``AttentionRope``."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        from timm.layers import apply_rot_embed_cat

        super().__init__(attn)
        self.apply_rotary, self.rotate_half = apply_rot_embed_cat, bool(getattr(module, "rotate_half", False))
        self.num_prefix_tokens = module.num_prefix_tokens

    def forward(self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        rotary = None if rope is None else PrefixRotary(partial(self.apply_rotary, emb=rope, half=self.rotate_half), self.num_prefix_tokens)
        return self.attn(x, **self.options(mask=attn_mask, rope=rotary, is_causal=is_causal))


def _read_rotary(module: Any, model: nn.Module, name: str) -> Place:
    refuse_gates(module, name)
    if module.qkv is None:
        qkv, copied = joined([module.q_proj, module.k_proj, module.v_proj])
    elif getattr(module, "q_bias", None) is not None:
        qkv, copied = with_separate_bias(module.qkv, module.q_bias, module.v_bias)
    else:
        qkv, copied = module.qkv, ()
    tokens = tokens_of(model, name)
    return Place(
        dim=qkv.in_features,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=qkv,
        proj=module.proj,
        q_norm=module.q_norm,
        k_norm=module.k_norm,
        norm=module.norm,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=module.num_prefix_tokens,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        rotary=_turns(model, name),
        copied=copied,
    )


def _turns(model: nn.Module, name: str) -> bool:
    """Whether the transformer that the module lies in has rotary positions at all."""
    above = name.split(".")
    owners = (model.get_submodule(".".join(above[:depth])) for depth in range(len(above) - 1, -1, -1))
    return next((owner.rope is not None for owner in owners if hasattr(owner, "rope")), True)


class BeitPlaced(Placed):
    """Called as timm's attention of BEiT."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        return self.attn(x, **self.options(bias=shared_rel_pos_bias))


def _beit_bias(table: Any) -> Tensor:
    return table._get_rel_pos_bias()


def _beit_position(module: Any) -> Bias | None:
    if module.relative_position_bias_table is None:
        return None
    return Bias(only(module, ("relative_position_bias_table", "relative_position_index", "k_bias")), _beit_bias)


def _read_beit(module: Any, model: nn.Module, name: str) -> Place:
    tokens = tokens_of(model, name)
    qkv, copied = with_separate_bias(module.qkv, module.q_bias, module.v_bias)
    above = name.split(".")
    owners = [model.get_submodule(".".join(above[:depth])) for depth in range(len(above))]
    return Place(
        dim=module.qkv.in_features,
        num_heads=module.num_heads,
        head_dim=module.proj.in_features // module.num_heads,
        qkv=qkv,
        proj=module.proj,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=tokens.prefix,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        position=_beit_position(module),
        given_bias=any(getattr(owner, "rel_pos_bias", None) is not None for owner in owners),
        copied=copied,
    )


for _key in ("timm.models.eva.EvaAttention", "timm.layers.attention.AttentionRope"):
    register_host(_key, _read_rotary, RotaryPlaced)
register_host("timm.models.beit.Attention", _read_beit, lambda module, ours: BeitPlaced(ours, _beit_position(module)))
