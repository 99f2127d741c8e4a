"""open_clip, and OpenAI's CLIP: the attention that pools the map of their ResNets. The mean of all places asks, and it and all places are read.

Shapes     B images, C channels of the map, N places, E width of what comes out
"""

from typing import Any

import torch
from torch import Tensor, nn

from ._host import Place, register_host
from ._parts import joined
from ._placed import Placed

__all__: list[str] = []


class PoolPlaced(Placed):
    """Called with a map, ``(B, C, height, width) -> (B, E)``. The host lets all places ask, and keeps what the first one is given."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(attn)
        self.positional_embedding = module.positional_embedding

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self.positional_embedding.to(x.dtype)
        return self.attn(tokens[:, :1], **self.options(context=tokens))[:, 0]


def _read(module: Any, model: nn.Module, name: str) -> Place:
    qkv, copied = joined([module.q_proj, module.k_proj, module.v_proj])
    return Place(
        dim=module.q_proj.in_features,
        num_heads=module.num_heads,
        head_dim=module.q_proj.out_features // module.num_heads,
        qkv=qkv,
        proj=module.c_proj,
        needs_pairs="it is asked by the mean of what it reads",
        asks_apart=True,
        copied=copied,
    )


for _key in ("open_clip.modified_resnet.AttentionPool2d", "clip.model.AttentionPool2d"):
    register_host(_key, _read, PoolPlaced)
