"""timm: the encoder of SAM, whose positions are multiplied with its queries, or turn them.

Shapes     B samples or windows, H heads, (h, w) of a window or of the whole map, D head width, C width
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..attention._base import QKVAttention
from ..attention._grid import check_grid
from ..attention._linear import project
from ._host import Place, register_host
from ._layouts import tokens_of
from ._parts import PrefixRotary, only
from ._timm_windows import LastPlaced

__all__: list[str] = []


class SamPlaced(LastPlaced):
    """Called with channels last, ``(B, h, w, C)``."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        from timm.layers import apply_rot_embed_cat
        from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias

        super().__init__(attn)
        self.apply_rotary, self.bias_of = apply_rot_embed_cat, get_decomposed_rel_pos_bias
        # an attention of pairs without queries that can be read drops them as one without pairs does
        self.tables = _tables(module) if isinstance(attn, QKVAttention) and attn.has_pairwise_logits else None
        self.rope = module.rope if attn.takes_rotary else None

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        size = (x.shape[1], x.shape[2])
        check_grid(self.attn, size)
        tokens = x.flatten(1, 2)
        rotary = None if self.rope is None else PrefixRotary(partial(self.apply_rotary, emb=self.rope.get_embed()), 0)
        bias = None if self.tables is None else self._bias(tokens, size)
        return self.attn(tokens, **self.options(bias=bias, rope=rotary)).view(*x.shape[:-1], -1)

    def _bias(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, H, N, N)``, from queries behind their norm."""
        attn = self.attn
        tables: Any = self.tables
        assert isinstance(attn, QKVAttention), "it has tables"
        assert tables is not None, "asked by the caller"
        q = attn.q_norm(project(attn.qkv, tokens, slice(0, attn.inner_dim)).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2))
        return self.bias_of(q.flatten(0, 1), tables.rel_pos_h, tables.rel_pos_w, size, size).unflatten(0, q.shape[:2])


def _tables(module: Any) -> nn.Module | None:
    if not module.use_rel_pos:
        return None
    tables: Any = only(module, ("rel_pos_h", "rel_pos_w"))
    tables.of_queries = True
    return tables


def _read(module: Any, model: nn.Module, name: str) -> Place:
    block = model.get_submodule(name.rpartition(".")[0])
    window = getattr(block, "window_size", None)
    return Place(
        dim=module.qkv.in_features,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=module.qkv,
        proj=module.proj,
        q_norm=module.q_norm,
        k_norm=module.k_norm,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=0,
        grid=(window, window) if window else tokens_of(model, name).grid,
        grid_in_call=True,
        windows=None if window else 1,
        position=_tables(module),
        rotary=module.rope is not None,
    )


register_host("timm.models.vision_transformer_sam.Attention", _read, SamPlaced)
