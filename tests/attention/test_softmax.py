import pytest
import torch
from torch import Tensor

from foveal import SoftmaxAttention
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close


def heads(layer: torch.nn.Linear, x: Tensor, part: int = 0, parts: int = 1, num_heads: int = HEADS) -> list[Tensor]:
    """One sample's projection, head by head, (N, D) each."""
    return list((x @ layer.weight.T + layer.bias).chunk(parts, dim=-1)[part].chunk(num_heads, dim=-1))


def one_map(q: Tensor, k: Tensor, present: Tensor) -> Tensor:
    weights = torch.zeros(len(q), len(k), dtype=q.dtype)
    scores = (q @ k.T / q.shape[-1] ** 0.5)[:, present].exp()
    weights[:, present] = scores / scores.sum(-1, keepdim=True)
    return weights


class TestSoftmaxAttention(AttentionContract):
    name = "softmax"
    variants = [{}, {"attn_head_dim": 5}]

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3) for part in range(3))
            mixed = [one_map(q[h], k[h], here) @ v[h] for h in range(HEADS)]
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_map_gives_the_output(self) -> None:
        module, x = self.build(), torch.randn(2, 9, DIM, dtype=torch.float64)
        v = module.qkv(x).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out = module.proj((module.attention_map(x)["combined"] @ v).transpose(1, 2).flatten(2))
        assert_close(out, module(x), 1e-10, "output from the map")

    @pytest.mark.parametrize("timm_options", [{}, {"qk_norm": True, "scale_norm": True}, {"attn_head_dim": 5}])
    def test_equals_timm(self, timm_options) -> None:
        layers = pytest.importorskip("timm.layers")
        theirs = layers.Attention(DIM, HEADS, qkv_bias=True, norm_layer=torch.nn.LayerNorm, **timm_options).eval()
        ours = SoftmaxAttention(DIM, HEADS, qkv_bias=True, norm_layer=torch.nn.LayerNorm, **timm_options).eval()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 9, DIM)
        assert_close(ours(x), theirs(x), 1e-6, "output")
        mask = torch.rand(2, 1, 9, 9) > 0.3
        assert_close(ours(x, attn_mask=mask), theirs(x, attn_mask=mask), 1e-6, "masked output")

    def test_context(self) -> None:
        """Cross-attention over a context equals the rows of self-attention over both, the queries' own keys masked out."""
        module = self.build()
        x, context = torch.randn(2, 3, DIM, dtype=torch.float64), torch.randn(2, 7, DIM, dtype=torch.float64)
        mask = torch.ones(10, 10, dtype=torch.bool)
        mask[:, :3] = False
        assert_close(module(x, context=context), module(torch.cat([x, context], 1), attn_mask=mask)[:, :3], 1e-10, "output")

    def test_float_masks_are_added(self) -> None:
        module, x = self.build(), torch.randn(2, 9, DIM, dtype=torch.float64)
        keep = torch.rand(9, 9) > 0.3
        keep.fill_diagonal_(True)
        added = torch.zeros(9, 9).masked_fill(~keep, float("-inf"))
        assert_close(module(x, attn_mask=added), module(x, attn_mask=keep), 1e-10, "output")

    def test_adapters_are_not_passed_by(self) -> None:
        """A projection that is more than a Linear, or carries a hook, is called whole, also where only some of its rows are needed."""
        module, x = self.build(torch.float32), torch.randn(2, 5, DIM)
        seen = []
        module.qkv.register_forward_hook(lambda layer, args, out: seen.append(out.shape[-1]))
        with torch.no_grad():
            module(x, context=x)
        assert seen == [3 * DIM, 3 * DIM]

        class Doubled(torch.nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        want = module.proj(torch.ones(1, 1, DIM)) * 2
        doubled = Doubled(DIM, DIM)
        doubled.load_state_dict(module.proj.state_dict())
        from foveal.attention._linear import project

        assert_close(project(doubled, torch.ones(1, 1, DIM)), want, 1e-6, "output of a subclass")
