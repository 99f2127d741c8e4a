"""Models with the names and the ways of open_clip, tiny: a vision tower that says its grid, a text tower behind a causal mask."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """As open_clip's ``ResidualAttentionBlock``: who calls it may give keys and values of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)

    def attention(self, q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
        k_x = k_x if k_x is not None else q_x
        v_x = v_x if v_x is not None else q_x
        return self.attn(q_x, k_x, v_x, need_weights=False, attn_mask=attn_mask)[0]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return x + self.attention(q_x=self.ln_1(x), attn_mask=attn_mask)


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x


class Visual(nn.Module):
    def __init__(self, image_size: tuple[int, int], patch_size: int, pool_type: str = "tok", width: int = 16, patch_dropout: bool = False) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.pool_type = image_size, (patch_size, patch_size), pool_type
        self.grid_size = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(self.grid_size[0] * self.grid_size[1] + 1, width))
        self.patch_dropout = nn.Dropout(0.5) if patch_dropout else nn.Identity()
        self.transformer = Transformer(width, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.transformer(x)
        return x[:, 0] if self.pool_type == "tok" else x[:, 1:].mean(1)


class TwoTowers(nn.Module):
    """As open_clip's ``CLIP``: the mask of the text is the model's, beside the vision tower."""

    def __init__(self, image_size: tuple[int, int] = (32, 72)) -> None:
        super().__init__()
        self.visual = Visual(image_size, 8)
        self.transformer = Transformer(16, 4, 1)
        self.token_embedding = nn.Embedding(50, 16)
        self.register_buffer("attn_mask", torch.full((6, 6), float("-inf")).triu_(1), persistent=False)

    def forward(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.visual(images), self.transformer(self.token_embedding(text), attn_mask=self.attn_mask)[:, -1]
