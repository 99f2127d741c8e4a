"""The tests that every attention of the library inherits, and an oracle that shares no code with the mechanism."""

import cosine_attention  # noqa: F401  # registers itself
import torch

from foveal.testing import AttentionContract


class TestCosineAttention(AttentionContract):
    name = "cosine"
    variants = [{"temperature": 0.5}]

    def oracle(self, module, x, present):
        samples = []
        for tokens, here in zip(x, present, strict=True):
            heads = []
            for q, k, v in zip(*(part.unflatten(-1, (module.num_heads, -1)).unbind(1) for part in module.qkv(tokens).chunk(3, -1)), strict=True):
                cosines = (q @ k.mT) / (q.norm(dim=-1)[:, None] * k.norm(dim=-1)[None])
                weights = (cosines * module.core.log_scale.exp()).exp() * here
                heads.append(weights @ v / weights.sum(-1, keepdim=True))
            samples.append(module.proj(torch.cat(heads, -1)))
        return torch.stack(samples)
