import pytest
import torch
from torch import Tensor

from foveal import InputError, SoftmaxAttention
from foveal.attention import attention_class
from foveal.functional import centered_attention, centered_attention_maps, centered_attention_reference
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


class TestCenteredSoftmaxAttention(AttentionContract):
    name = "softmax"
    variants = [{"center": True}, {"center": True, "attn_head_dim": 5}, {"center": True, "extra_heads": 2}]
    # a difference is smaller than what it is made of
    against_softmax = 3.0

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3, module.num_heads) for part in range(3))
            mixed = []
            for h in range(module.num_heads):
                alike = torch.zeros_like(v[h][0])
                for token in here.nonzero()[:, 0].tolist():
                    alike = alike + v[h][token] / int(here.sum())
                mixed.append(one_map(q[h], k[h], here) @ v[h] - module.lambdas[h] * alike)
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_map_gives_the_output(self) -> None:
        module, x = self.build(center=True), torch.randn(2, 9, DIM, dtype=torch.float64)
        mask = torch.rand(2, HEADS, 9, 9) > 0.4
        v = module.qkv(x).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for options in ({}, {"attn_mask": mask}, {"is_causal": True}, {"attn_mask": mask, "is_causal": True}):
            maps = module.attention_map(x, **options)
            out = module.proj((maps["combined"] @ v).transpose(1, 2).flatten(2))
            assert_close(out, module(x, **options), 1e-10, f"output from the map with {options.keys()}")
            assert_close(maps["combined"], maps["positive"] - module.lambdas.view(-1, 1, 1) * maps["negative"], 1e-12, "combined")

    def test_every_query_has_its_own_number_of_keys(self) -> None:
        """By loop over queries, for masks of every shape that a layer takes; a query that may look at nothing gets nothing."""
        module, x = self.build(center=True), torch.randn(2, 7, DIM, dtype=torch.float64)
        v = module.qkv(x).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        plain = attention_class("softmax")(DIM, HEADS, qkv_bias=True).double()
        plain.load_state_dict({key: value for key, value in module.state_dict().items() if key != "lambdas"})
        pairs = torch.rand(7, 7) > 0.4
        pairs[2] = False
        added = torch.randn(2, HEADS, 7, 7, dtype=torch.float64).masked_fill(torch.rand(2, HEADS, 7, 7) > 0.6, float("-inf"))
        keys, queries = torch.rand(2, 1, 1, 7) > 0.4, torch.rand(2, HEADS, 7, 1) > 0.4
        for mask, causal in ((pairs, False), (pairs, True), (None, True), (keys, False), (queries, False), (added, False)):
            allowed = torch.ones(2, HEADS, 7, 7, dtype=torch.bool)
            if mask is not None:
                allowed &= mask if mask.dtype == torch.bool else mask > float("-inf")
            options = {"attn_mask": mask, "is_causal": causal}
            for query in range(7):
                if causal:
                    allowed[..., query, query + 1 :] = False
            means = torch.zeros_like(v)
            for b, h, query in [(b, h, query) for b in range(2) for h in range(HEADS) for query in range(7)]:
                seen = allowed[b, h, query].nonzero()[:, 0]
                if len(seen):
                    means[b, h, query] = v[b, h, seen].mean(0)
            less = (module.lambdas.view(-1, 1, 1) * means).transpose(1, 2).flatten(2) @ module.proj.weight.T
            assert_close(module(x, **options), plain(x, **options) - less, 1e-10, f"output, causal {causal}")

    def test_it_is_denoising_with_shared_values_and_a_query_of_zero(self) -> None:
        centered, x = self.build(center=True), torch.randn(2, 9, DIM, dtype=torch.float64)
        denoising = attention_class("denoising")(DIM, HEADS, qkv_bias=True, shared_values=True).double()
        state = {key: torch.zeros_like(value) for key, value in denoising.state_dict().items()}
        denoising.load_state_dict(state | centered.state_dict())
        mask = torch.rand(2, 1, 9, 9) > 0.4
        assert_close(denoising(x, attn_mask=mask), centered(x, attn_mask=mask), 1e-10, "output")

    def test_context_counts_its_own_tokens(self) -> None:
        module = self.build(center=True)
        x, context = torch.randn(2, 3, DIM, dtype=torch.float64), torch.randn(2, 7, DIM, dtype=torch.float64)
        mask = torch.ones(10, 10, dtype=torch.bool)
        mask[:, :3] = False
        assert_close(module(x, context=context), module(torch.cat([x, context], 1), attn_mask=mask)[:, :3], 1e-10, "output")

    def test_weights_and_names(self) -> None:
        plain, centered = attention_class("softmax")(DIM, HEADS), attention_class("softmax")(DIM, HEADS, center=True)
        assert centered.cost(9).parameters == plain.cost(9).parameters + HEADS
        assert centered.state_dict().keys() - plain.state_dict().keys() == {"lambdas"}
        assert centered.lambdas.tolist() == [0.5] * HEADS
        assert centered.no_weight_decay() == {"lambdas"}
        assert not plain.no_weight_decay()

    def test_functions_agree_with_more_keys_than_queries(self) -> None:
        """Where causality cannot be a running sum."""
        q, k, v = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 6, 5).double(), torch.randn(2, 3, 6, 2).double()
        lambdas = torch.randn(3).double()
        for options in ({}, {"is_causal": True}, {"mask": torch.rand(2, 1, 4, 6) > 0.4}, {"mask": torch.rand(1, 3, 4, 6) > 0.4, "is_causal": True}):
            want = centered_attention_reference(q, k, v, lambdas=lambdas, **options)
            assert_close(centered_attention(q, k, v, lambdas=lambdas, **options), want, 1e-12, "fast path")
            assert_close(centered_attention_maps(q, k, lambdas=lambdas, **options)["combined"] @ v, want, 1e-12, "map")

    def test_options_without_a_meaning_are_refused(self) -> None:
        with pytest.raises(InputError, match="extra_heads must be at least 0, got -1"):
            SoftmaxAttention(DIM, HEADS, extra_heads=-1)
        with pytest.raises(InputError, match="lambda_init starts λ, which plain softmax attention has not; give center=True, or leave it out"):
            SoftmaxAttention(DIM, HEADS, lambda_init=0.0)
