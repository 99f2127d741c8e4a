"""transformers 5: VideoLLaMA 3's vision tower, whose tokens lie in one row, the frames of all images and videos one after the other.

A frame's tokens meet one another alone. Ours gets the frames one by one, as the host's own kernels do.
"""

from typing import Any

import torch
from torch import Tensor

from ._host import Place, register_host
from ._parts import joined
from ._transformers import FORWARDS, converted

__all__: list[str] = []


def _forward(
    self: Any, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], max_seqlen: int | None = None, **kwargs: Any
) -> tuple[Tensor, list[Tensor | None]]:
    """``(sum N, C)``, and by frame the ``combined`` map, ``(1, H, N, N)``, where attentions were asked for: by ``attn_implementation="eager"``, as ever."""
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    shown = self.config._attn_implementation == "eager"
    out, maps = [], []
    for tokens, cos, sin in zip(hidden_states.split(lengths), *(part.split(lengths) for part in position_embeddings), strict=True):
        options = self.options(rope=_Rotary(cos, sin))
        out.append(self.attn(tokens[None], **options)[0])
        maps.append(self.attn.attention_map(tokens[None], **options)["combined"] if shown else None)
    return torch.cat(out), maps


class _Rotary:
    """Of one frame, in single precision as the host's."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos.float(), sin.float()

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        first, second = wide.chunk(2, dim=-1)
        return (wide * self.cos + torch.cat([-second, first], dim=-1) * self.sin).to(x.dtype)


def _read(module: Any, model: Any, name: str) -> Place:
    qkv, copied = joined([module.q_proj, module.k_proj, module.v_proj])
    return Place(
        dim=module.embed_dim,
        num_heads=module.num_heads,
        head_dim=module.head_dim,
        qkv=qkv,
        copied=copied,
        proj=module.out_proj,
        attn_drop=module.attention_dropout,
        no_grid="among the patches of frames of any size",
        rotary=True,
    )


def _wrap(module: Any, ours: Any) -> Any:
    return converted(type(module), module, ours)


_CLASS = "transformers.models.video_llama_3.modeling_video_llama_3.VideoLlama3VisionAttention"
FORWARDS[_CLASS] = _forward
register_host(_CLASS, _read, _wrap)
