"""transformers 5: VideoMAE, TimeSformer, YOLOS and DPT, whose attention and output map are modules of their own."""

from typing import Any

from torch import Tensor, nn

from ..attention import TokenAttention
from ._host import Place, register_host
from ._layouts import tokens_of
from ._parts import carry_hooks, joined
from ._transformers import converted

__all__: list[str] = []


class VideoMAEPlaced(nn.Module):
    """The part whose maps transformers records, and nothing behind it: the output map is in ours."""

    def __init__(self, module: Any, ours: nn.Module) -> None:
        super().__init__()
        self.attention = converted(type(module.attention), module.attention, ours)
        carry_hooks(module.attention, self.attention)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return self.attention(hidden_states)[0]


class TimesformerPlaced(nn.Module):
    """Answers with a tuple of the output and, where it is asked for, the ``combined`` map."""

    def __init__(self, module: Any, ours: nn.Module) -> None:
        super().__init__()
        assert isinstance(ours, TokenAttention), "conversion builds these"
        self.attn = ours

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
        out = self.attn(hidden_states)
        return (out, self.attn.attention_map(hidden_states)["combined"]) if output_attentions else (out,)


def _read_apart(module: Any, model: nn.Module, name: str) -> Place:
    inner = module.attention
    qkv, copied = joined([inner.query, inner.key, inner.value])
    tokens, video = tokens_of(model, name), inner.config.model_type == "videomae"
    return Place(
        dim=qkv.in_features,
        num_heads=inner.num_attention_heads,
        head_dim=inner.attention_head_size,
        qkv=qkv,
        proj=module.output.dense,
        attn_drop=inner.dropout_prob,
        proj_drop=module.output.dropout.p,
        num_prefix_tokens=None if video else tokens.prefix,
        grid=None if video else tokens.grid,
        no_grid="among the patches of all frames of a video" if video else tokens.no_grid,
        copied=copied,
    )


def _read_timesformer(module: Any, model: nn.Module, name: str) -> Place:
    inner, layer = module.attention, model.get_submodule(name.rpartition(".")[0])
    config: Any = getattr(layer, "config", None)
    if name.endswith("temporal_attention"):
        no_grid, grid = "among the frames of a video", None
    elif config is None or config.attention_type != "divided_space_time":
        no_grid, grid = "among the patches of all frames of a video", None
    else:
        no_grid, grid = "", tokens_of(model, name).grid
    return Place(
        dim=inner.qkv.in_features,
        num_heads=inner.num_heads,
        head_dim=inner.qkv.in_features // inner.num_heads,
        qkv=inner.qkv,
        proj=module.output.dense,
        attn_drop=inner.attn_drop.p,
        proj_drop=module.output.dropout.p,
        num_prefix_tokens=None if no_grid else 1,
        grid=grid,
        no_grid=no_grid,
    )


for _key in ("videomae.modeling_videomae.VideoMAEAttention", "yolos.modeling_yolos.YolosAttention", "dpt.modeling_dpt.DPTViTAttention"):
    register_host(f"transformers.models.{_key}", _read_apart, VideoMAEPlaced)
register_host("transformers.models.timesformer.modeling_timesformer.TimeSformerAttention", _read_timesformer, TimesformerPlaced)
