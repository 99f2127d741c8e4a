import pytest
import torch

from foveal import DenoisingAttention, SoftmaxAttention
from foveal.functional import denoising_attention, denoising_attention_reference, softmax_attention_reference
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.test_softmax import heads, one_map


class TestDenoisingAttention(AttentionContract):
    name = "denoising"
    variants = [{}, {"shared_values": True}, {"attn_head_dim": 5}]

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3) for part in range(3))
            q_neg = heads(module.q_neg, sample)
            v_neg = v if module.v_neg is None else heads(module.v_neg, sample)
            mixed = [one_map(q[h], k[h], here) @ v[h] - module.lambdas[h] * one_map(-q_neg[h], k[h], here) @ v_neg[h] for h in range(HEADS)]
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_maps_give_the_output(self) -> None:
        x = torch.randn(2, 9, DIM, dtype=torch.float64)
        split = lambda value: value.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
        apart = self.build()
        maps, v, v_neg = apart.attention_map(x), split(apart.qkv(x).chunk(3, -1)[2]), split(apart.v_neg(x))
        mixed = maps["positive"] @ v - apart.lambdas.view(-1, 1, 1) * (maps["negative"] @ v_neg)
        assert_close(apart.proj(mixed.transpose(1, 2).flatten(2)), apart(x), 1e-10, "output from two maps")
        shared = self.build(shared_values=True)
        mixed = shared.attention_map(x)["combined"] @ split(shared.qkv(x).chunk(3, -1)[2])
        assert_close(shared.proj(mixed.transpose(1, 2).flatten(2)), shared(x), 1e-10, "output from one map")

    def test_rows_of_the_combined_map_sum_to_one_minus_lambda(self) -> None:
        module = self.build(shared_values=True)
        rows = module.attention_map(torch.randn(2, 9, DIM, dtype=torch.float64))["combined"].sum(-1)
        assert_close(rows, (1 - module.lambdas).view(1, HEADS, 1).expand(2, HEADS, 9), 1e-10, "rows")

    # -- the four facts of the algebra (specification 1.1) --------------------------------------------------------------------------------

    def test_fact_1_the_sign_of_the_branch_is_the_sign_of_its_values(self) -> None:
        q, k, v, q_neg, v_neg = torch.randn(5, 2, HEADS, 9, 6, dtype=torch.float64)
        lambdas = torch.rand(HEADS, dtype=torch.float64)
        added = denoising_attention(q, k, v, q_neg=q_neg, v_neg=v_neg, lambdas=-lambdas)
        assert_close(denoising_attention(q, k, v, q_neg=q_neg, v_neg=-v_neg, lambdas=lambdas), added, 1e-12, "output")

    def test_fact_2_softmin_is_softmax_of_the_negated_query(self) -> None:
        q, k = torch.randn(2, 2, HEADS, 9, 6, dtype=torch.float64)
        logits = q @ k.mT * 6**-0.5
        softmin = (-logits).exp() / (-logits).exp().sum(-1, keepdim=True)
        v = torch.randn(2, HEADS, 9, 6, dtype=torch.float64)
        assert_close(softmax_attention_reference(-q, k, v), softmin @ v, 1e-12, "output")

    def test_fact_3_with_shared_values_the_sign_is_real(self) -> None:
        module, x = self.build(shared_values=True), torch.randn(2, 9, DIM, dtype=torch.float64)
        out = module(x)
        with torch.no_grad():
            module.lambdas.neg_()
        assert (module(x) - out).abs().max() > 1e-2

    def test_fact_4_it_is_softmax_attention_with_twice_the_heads(self) -> None:
        """Keys duplicated, negative queries negated, output rows tied: so denoising is contained in a wider softmax attention."""
        module, x = self.build(), torch.randn(2, 9, DIM, dtype=torch.float64)
        wide = SoftmaxAttention(DIM, 2 * HEADS, qkv_bias=True, attn_head_dim=DIM // HEADS).double()
        with torch.no_grad():
            for field in ("weight", "bias"):
                q, k, v = getattr(module.qkv, field).chunk(3)
                getattr(wide.qkv, field).copy_(torch.cat([q, -getattr(module.q_neg, field), k, k, v, getattr(module.v_neg, field)]))
            strength = -module.lambdas.repeat_interleave(DIM // HEADS)
            wide.proj.weight.copy_(torch.cat([module.proj.weight, module.proj.weight * strength], dim=1))
            wide.proj.bias.copy_(module.proj.bias)
        assert_close(wide(x), module(x), 1e-10, "output")

    def test_two_thirds_of_the_heads_cost_what_softmax_costs(self) -> None:
        """768 channels, heads of 64: 8 denoising heads have the weights of 12 softmax heads, 12 those of 18."""

        def weights(module):
            return sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight"))

        meta = {"device": "meta", "attn_head_dim": 64}
        assert weights(DenoisingAttention(768, 8, **meta)) == weights(SoftmaxAttention(768, 12, **meta)) == 4 * 768**2
        assert weights(DenoisingAttention(768, 12, **meta)) == weights(SoftmaxAttention(768, 18, **meta)) == 6 * 768**2
        assert weights(DenoisingAttention(768, 12, shared_values=True, **meta)) == 5 * 768**2

    # -- masks, cores, context ----------------------------------------------------------------------------------------------------------------

    def test_masked_keys_get_exactly_nothing_in_both_maps(self) -> None:
        """A literal softmin of masked logits would give them everything."""
        module, x = self.build(), torch.randn(1, 9, DIM, dtype=torch.float64)
        present = torch.arange(9) < 5
        maps = module.attention_map(x, attn_mask=present.view(1, 1, 1, 9))
        for name in ("positive", "negative"):
            assert (maps[name][..., ~present] == 0).all()
            assert_close(maps[name][..., present].sum(-1), torch.ones(1, HEADS, 9), 1e-12, name)

    @pytest.mark.parametrize("shared", [False, True])
    def test_fast_path_equals_the_reference(self, shared) -> None:
        q, k, v, q_neg, v_neg = torch.randn(5, 2, HEADS, 9, 6, dtype=torch.float64).requires_grad_().unbind()
        options = {"q_neg": q_neg, "v_neg": None if shared else v_neg, "lambdas": torch.rand(HEADS, dtype=torch.float64), "mask": torch.rand(2, 1, 9, 9) > 0.3}
        inputs = [q, k, v, q_neg] + ([] if shared else [v_neg])
        fast, slow = denoising_attention(q, k, v, **options), denoising_attention_reference(q, k, v, **options)
        assert_close(fast, slow, 1e-10, "output")
        cotangent = torch.randn_like(fast)
        for got, want in zip(torch.autograd.grad(fast, inputs, cotangent, retain_graph=True), torch.autograd.grad(slow, inputs, cotangent), strict=True):
            assert_close(got, want, 1e-10, "gradient")

    def test_any_core(self) -> None:
        """The pair is written once; the core may be anything with the contract of the functional layer."""

        def uniform(q, k, v, *, mask=None, dropout_p=0.0, scale=None):
            return v.mean(-2, keepdim=True).expand(*q.shape[:-1], -1)

        module = self.build(core=uniform)
        x = torch.randn(2, 9, DIM, dtype=torch.float64)
        v, v_neg = module.qkv(x).chunk(3, -1)[2].mean(1), module.v_neg(x).mean(1)
        want = module.proj(v - module.lambdas.repeat_interleave(DIM // HEADS) * v_neg)
        assert_close(module(x), want[:, None].expand(-1, 9, -1), 1e-10, "output")
        with pytest.raises(ValueError, match="no map is known"):
            module.attention_map(x)
        with pytest.raises(ValueError, match="cost of the core"):
            module.cost(9)
        with pytest.raises(ValueError, match=r"functools\.partial"):
            DenoisingAttention(DIM, HEADS, core=uniform, core_options={"chunk": 2})
        with pytest.raises(ValueError, match="did you mean softmax"):
            DenoisingAttention(DIM, HEADS, core="softmacks")
        with pytest.raises(ValueError, match="did you mean block_size"):
            DenoisingAttention(DIM, HEADS, core="halo", core_options={"block": 2})

    def test_context(self) -> None:
        module = self.build()
        x, context = torch.randn(2, 3, DIM, dtype=torch.float64), torch.randn(2, 7, DIM, dtype=torch.float64)
        mask = torch.ones(10, 10, dtype=torch.bool)
        mask[:, :3] = False
        assert_close(module(x, context=context), module(torch.cat([x, context], 1), attn_mask=mask)[:, :3], 1e-10, "output")

    @pytest.mark.parametrize(
        ("context", "causal", "says"),
        [(torch.randn(3, 7, DIM), False, "as many"), (torch.randn(2, 7, DIM + 1), False, "context"), (torch.randn(2, 7, DIM), True, "causal")],
    )
    def test_bad_context_is_explained(self, context, causal, says) -> None:
        with pytest.raises(ValueError, match=says):
            self.build(torch.float32)(torch.randn(2, 3, DIM), context=context, is_causal=causal)

    def test_negation_comes_after_the_norm(self) -> None:
        """A LayerNorm with a bias does not commute with the sign."""
        module = self.build(qk_norm=True)
        x = torch.randn(2, 9, DIM, dtype=torch.float64)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in module.qkv(x).chunk(3, -1))
        q_neg = module.q_neg_norm(module.q_neg(x).unflatten(-1, (HEADS, -1))).transpose(1, 2)
        v_neg = module.v_neg(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        want = denoising_attention_reference(module.q_norm(q), module.k_norm(k), v, q_neg=q_neg, v_neg=v_neg, lambdas=module.lambdas)
        assert_close(module(x), module.proj(want.transpose(1, 2).flatten(2)), 1e-10, "output")
