import pytest
import torch

from foveal import DifferentialAttention
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.test_softmax import heads, one_map


class TestDifferentialAttention(AttentionContract):
    name = "differential"
    variants = [{}, {"depth": 3}]
    # its head norm divides by the size of a difference
    against_softmax = 3.0

    def oracle(self, module, x, present):
        lambda_init = 0.8 - 0.6 * torch.tensor(-0.3 * (0 if module.lambda_init < 0.21 else 3), dtype=torch.float64).exp()
        strength = (module.lambda_q1 @ module.lambda_k1).exp() - (module.lambda_q2 @ module.lambda_k2).exp() + lambda_init
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k = (heads(module.qkv, sample, part, 3, 2 * HEADS) for part in range(2))
            v = heads(module.qkv, sample, 2, 3)
            mixed = []
            for h in range(HEADS):
                head = (one_map(q[2 * h], k[2 * h], here) - strength * one_map(q[2 * h + 1], k[2 * h + 1], here)) @ v[h]
                head = head / (head.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * module.sub_norm.weight
                mixed.append(head * (1 - lambda_init))
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_attention_dropout_keeps_the_mean(self, options) -> None:
        """Up to the head norm, which is not linear."""

        class NoNorm(torch.nn.RMSNorm):
            def forward(self, x):
                return x

        self.build = lambda dtype=torch.float64, **given: without_norm(AttentionContract.build(self, dtype, **given), NoNorm(DIM // HEADS).double())
        super().test_attention_dropout_keeps_the_mean(options)

    def test_map_gives_the_output(self) -> None:
        module, x = self.build(), torch.randn(2, 9, DIM, dtype=torch.float64)
        v = module.qkv(x).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        mixed = module.sub_norm(module.attention_map(x)["combined"] @ v) * (1 - module.lambda_init)
        assert_close(module.proj(mixed.transpose(1, 2).flatten(2)), module(x), 1e-10, "output from the map")

    @pytest.mark.parametrize("depth", [0, 5])
    def test_equals_timm(self, depth) -> None:
        theirs = pytest.importorskip("timm.layers.diff_attention").DiffAttention(DIM, HEADS, qkv_bias=True, depth=depth).eval()
        ours = DifferentialAttention(DIM, HEADS, qkv_bias=True, depth=depth).eval()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 9, DIM)
        assert_close(ours(x), theirs(x), 1e-5, "output")

    def test_odd_heads_are_refused(self) -> None:
        with pytest.raises(ValueError, match="even"):
            DifferentialAttention(24, 8)


def without_norm(module, norm):
    module.sub_norm = norm
    return module
