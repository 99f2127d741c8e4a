"""timm: attentions in windows, with biases of relative positions (Swin, Swin V2, MaxViT, CoAtNet)."""

from typing import Any

import torch
from torch import Tensor, nn

from ..attention._grid import check_grid
from ._host import Place, register_host
from ._parts import Copied, ScaledUnit, Unit, joined_parameters, only, with_separate_bias
from ._placed import SHIFTED, Bias, Placed, WindowPlaced

__all__ = ["LastPlaced"]


def _owner(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name.rpartition(".")[0])


def _windows(size: Any, window: Any) -> int:
    return -(-size[0] // window[0]) * -(-size[1] // window[1])


# -- Swin -------------------------------------------------------------------------------------------------------------------------------------------


def _swin_bias(table: Any) -> Tensor:
    return table._get_rel_pos_bias()


def _swin_position(module: Any) -> Bias:
    return Bias(only(module, ("relative_position_bias_table", "relative_position_index")), _swin_bias)


def _swin_v2_bias(table: Any) -> Tensor:
    """The continuous bias: a small network of log-spaced offsets, squashed to at most 16."""
    height, width = table.window_size
    of_offsets = table.cpb_mlp(table.relative_coords_table).view(-1, table.num_heads)
    of_pairs = of_offsets[table.relative_position_index.view(-1)].view(height * width, height * width, -1)
    return 16 * of_pairs.permute(2, 0, 1).unsqueeze(0).sigmoid()


def _swin_v2_position(module: Any) -> Bias:
    return Bias(only(module, ("cpb_mlp", "relative_coords_table", "relative_position_index")), _swin_v2_bias)


def _read_swin(module: Any, model: nn.Module, name: str) -> Place:
    block = _owner(model, name)
    resolution, shifted = getattr(block, "input_resolution", None), any(getattr(block, "shift_size", (1,)))
    second = hasattr(module, "logit_scale")
    qkv, copied = with_separate_bias(module.qkv, module.q_bias, module.v_bias) if second else (module.qkv, ())
    return Place(
        dim=module.qkv.in_features,
        num_heads=module.num_heads,
        head_dim=module.proj.in_features // module.num_heads,
        qkv=qkv,
        proj=module.proj,
        q_norm=ScaledUnit(module.logit_scale) if second else nn.Identity(),
        k_norm=Unit() if second else nn.Identity(),
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=0,
        grid=tuple(module.window_size),
        windows=None if resolution is None else _windows(resolution, module.window_size),
        position=_swin_v2_position(module) if second else _swin_position(module),
        needs_pairs=SHIFTED if shifted else "",
        copied=copied,
    )


register_host("timm.models.swin_transformer.WindowAttention", _read_swin, lambda module, ours: WindowPlaced(ours, _swin_position(module)))
register_host("timm.models.swin_transformer_v2.WindowAttention", _read_swin, lambda module, ours: WindowPlaced(ours, _swin_v2_position(module)))


# -- MaxViT and CoAtNet -----------------------------------------------------------------------------------------------------------------------------


class LastPlaced(Placed):
    """Called with channels last, ``(B, …, C)``."""

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        check_grid(self.attn, (x.shape[1], x.shape[2]))
        return self.attn(x.flatten(1, -2), **self.options(bias=shared_rel_pos)).view(*x.shape[:-1], -1)

    @property
    def rel_pos(self) -> nn.Module | None:
        """timm asks it for another size of windows."""
        return None if self.position is None else self.position.table  # type: ignore[return-value]


class MapPlaced(LastPlaced):
    """Called with channels first, ``(B, C, H, W)``."""

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        check_grid(self.attn, (x.shape[2], x.shape[3]))
        out = self.attn(x.flatten(2).transpose(-2, -1), **self.options(bias=shared_rel_pos))
        return out.transpose(-2, -1).reshape(x.shape[0], -1, *x.shape[2:])


def _partition_bias(table: Any) -> Tensor:
    return table.get_bias()


def _partition_position(module: Any) -> Bias | None:
    return None if module.rel_pos is None else Bias(module.rel_pos, _partition_bias)


def _read_partition(module: Any, model: nn.Module, name: str) -> Place:
    qkv, proj = module.qkv, module.proj
    dim, dim_out = qkv.weight.shape[1], proj.weight.shape[0]
    copied: tuple[Copied, ...] = ()
    if module.head_first or not isinstance(qkv, nn.Linear):
        qkv, copied = _three(module)
    if not isinstance(proj, nn.Linear):
        proj, of_proj = joined_parameters([proj.weight], [proj.bias])
        copied += of_proj
    owner = _owner(model, name)
    grid = getattr(owner, "partition_size", None) or getattr(module.rel_pos, "window_size", None)
    return Place(
        dim=dim,
        dim_out=dim_out,
        num_heads=module.num_heads,
        head_dim=module.dim_head,
        qkv=qkv,
        proj=proj,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        num_prefix_tokens=0,
        grid=None if grid is None else tuple(grid),
        grid_in_call=True,
        # a block that does not partition attends to the whole map
        windows=None if hasattr(owner, "partition_size") else 1,
        position=_partition_position(module),
        copied=copied,
    )


def _three(module: Any) -> tuple[nn.Linear, tuple[Copied, ...]]:
    """Queries, keys and values in that order; the host may hold them head by head."""
    layer = module.qkv
    out, copied = joined_parameters([layer.weight], [layer.bias])
    if module.head_first:
        rows = torch.arange(len(layer.weight), device=layer.weight.device).view(module.num_heads, 3, module.dim_head).transpose(0, 1).flatten()
        with torch.no_grad():
            for value in out.parameters():
                value.copy_(value[rows].clone())
        back = rows.argsort()
        copied = tuple(Copied(part.layer, part.name, back, part.host) for part in copied)
    return out, copied


register_host("timm.models.maxxvit.AttentionCl", _read_partition, lambda module, ours: LastPlaced(ours, _partition_position(module)))
register_host("timm.models.maxxvit.Attention2d", _read_partition, lambda module, ours: MapPlaced(ours, _partition_position(module)))
