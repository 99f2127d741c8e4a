import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal import ChannelLinearAttention2d, DenoisingAttention, LinearAttention, LinearAttention2d, official
from foveal.functional import (
    channel_linear_attention,
    channel_linear_attention_map,
    channel_linear_attention_reference,
    denoising_attention,
    linear_attention,
    linear_attention_map,
    linear_attention_reference,
)
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.maps_contract import HeadsMapContract, MapContract
from tests.attention.test_efficient import Largest
from tests.attention.test_softmax import heads
from tests.official.test_golden import part, read


def one_head(q: Tensor, k: Tensor, v: Tensor, here: Tensor) -> Tensor:
    """One sample and head, query by query. Absent keys are left out, not masked."""
    out = []
    for query in q:
        weights = 1 + F.cosine_similarity(query, k[here], dim=-1)
        out.append((weights @ v[here]) / weights.sum())
    return torch.stack(out)


def legacy_channels(v: Tensor, eps: float) -> Tensor:
    """What the official code computes of (C, N): normalized over channels, divided by N, ⟨v, k̂⟩ q̂ where the formula has ⟨q̂, k̂⟩ v."""
    hat = torch.stack([pixel / pixel.norm() for pixel in v.T], dim=1)
    out = []
    for c in range(len(v)):
        divisor = v.shape[1] + hat[c] @ (sum(hat) + eps)
        out.append((sum(v) + sum((v[c] @ hat[m]) * hat[m] for m in range(len(v)))) / divisor)
    return torch.stack(out)


class TestLinearAttention(AttentionContract):
    name = "linear"
    variants = [{}, {"chunk": 4}, {"attn_head_dim": 5}]
    causal = False

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, which, 3) for which in range(3))
            mixed = [one_head(q[h], k[h], v[h], here) for h in range(HEADS)]
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_the_map_gives_the_output(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        for mask in (None, torch.rand(2, 1, 1, 9) > 0.3):
            v = module._qkv(x, None)[2]
            out = module.proj((module.attention_map(x, attn_mask=mask)["combined"] @ v).transpose(1, 2).flatten(2))
            assert_close(out, module(x, attn_mask=mask), 1e-10, "output from the map")

    def test_context(self, options) -> None:
        module = self.build(**options)
        x, context = torch.randn(2, 5, DIM, dtype=torch.float64), torch.randn(2, 8, DIM, dtype=torch.float64)
        present = torch.ones(2, 8, dtype=torch.bool)
        present[0, 5:] = False
        want = []
        for b in range(2):
            q = heads(module.qkv, x[b], 0, 3)
            k, v = (heads(module.qkv, context[b], which, 3) for which in (1, 2))
            want.append(torch.cat([one_head(q[h], k[h], v[h], present[b]) for h in range(HEADS)], -1))
        got = module(x, context=context, attn_mask=present[:, None, None])
        assert_close(got, module.proj(torch.stack(want)), 1e-10, "output over a context")

    def test_a_context_of_nothing(self) -> None:
        module = self.build()
        out = module(torch.randn(2, 9, DIM, dtype=torch.float64), context=torch.randn(2, 0, DIM, dtype=torch.float64))
        assert_close(out, module.proj.bias.expand(2, 9, -1), 1e-12, "output of nothing")

    def test_eps_reaches_the_divisor(self) -> None:
        module, exact, x = self.build(eps=0.5), self.build(), torch.randn(2, 9, DIM, dtype=torch.float64)
        v = module._qkv(x, None)[2]
        out = module.proj((module.attention_map(x)["combined"] @ v).transpose(1, 2).flatten(2))
        assert_close(out, module(x), 1e-10, "output from the map")
        assert (module(x) - exact(x)).abs().max() > 1e-3

    def test_zero_tokens(self) -> None:
        """Without biases a zero token has no direction. It gets the mean of the values, and everybody gets a number and a gradient."""
        module, x = self.build(qkv_bias=False), torch.randn(2, 9, DIM, dtype=torch.float64)
        x[:, 4] = 0
        x.requires_grad_()
        out = module(x)
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()
        mean = module._qkv(x, None)[2].mean(-2).flatten(1)
        assert_close(out[:, 4], module.proj(mean), 1e-10, "the zero token")

    def test_bad_options_are_explained(self) -> None:
        with pytest.raises(ValueError, match="chunk must be at least 1"):
            LinearAttention(DIM, HEADS, chunk=0)

    def test_masks_without_meaning_are_refused(self) -> None:
        x = torch.randn(2, 9, DIM)
        with pytest.raises(ValueError, match="a mask per query has no meaning"):
            self.build(torch.float32)(x, attn_mask=torch.ones(9, 9, dtype=torch.bool))
        with pytest.raises(ValueError, match="this float mask has other values"):
            self.build(torch.float32).attention_map(x, attn_mask=torch.full((2, 1, 1, 9), 0.5))


class TestLinearFunction:
    @staticmethod
    def inputs(num_queries: int = 7, num_keys: int = 17) -> tuple[Tensor, Tensor, Tensor]:
        shapes = ((2, 3, num_queries, 4), (2, 3, num_keys, 4), (2, 3, num_keys, 6))
        q, k, v = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
        return q, k, v

    @pytest.mark.parametrize("chunk", [None, 1, 5, 17, 100])
    @pytest.mark.parametrize("mask", [None, "samples", "heads", "all"])
    @pytest.mark.parametrize("change", [{}, {"scale": 0.7, "eps": 1e-2}])
    def test_equals_the_reference(self, chunk, mask, change) -> None:
        inputs = self.inputs()
        shape = {None: None, "samples": (2, 1, 1, 17), "heads": (2, 3, 1, 17), "all": (1, 17)}[mask]
        options = {"mask": None if shape is None else torch.rand(shape) > 0.4, **change}
        fast, slow = linear_attention(*inputs, chunk=chunk, **options), linear_attention_reference(*inputs, **options)
        assert_close(fast, slow, 1e-10, "output")
        assert_close(linear_attention_map(*inputs[:2], **options) @ inputs[2], slow, 1e-10, "output from the map")
        cotangent = torch.randn_like(fast)
        for got, want in zip(torch.autograd.grad(fast, inputs, cotangent), torch.autograd.grad(slow, inputs, cotangent), strict=True):
            assert_close(got, want, 1e-10, "gradient")

    def test_it_is_a_feature_map(self) -> None:
        """φ(x) = [1; x̂], so the map before its division has rank D + 1."""
        q, k, _ = self.inputs(40, 40)
        features = [torch.cat([torch.ones_like(t[..., :1]), t / t.norm(dim=-1, keepdim=True)], -1) for t in (q, k)]
        weights = features[0] @ features[1].mT
        implied = linear_attention_map(q, k)
        assert_close(implied, weights / weights.sum(-1, keepdim=True), 1e-12, "map")
        assert (torch.linalg.matrix_rank(implied) == 5).all()

    def test_rows_are_convex_and_nearly_uniform(self) -> None:
        """Whatever is learnt, no weight exceeds 2 / (N (1 + q̂ · k̄)); an output stays between the least and the largest value."""
        q, k, v = self.inputs(50, 200)
        implied = linear_attention_map(100 * q, 100 * k)
        assert (implied >= 0).all()
        assert_close(implied.sum(-1), torch.ones(2, 3, 50), 1e-12, "rows")
        directions = [t / t.norm(dim=-1, keepdim=True) for t in (q, k)]
        most = 2 / (200 * (1 + directions[0] @ directions[1].mean(-2, keepdim=True).mT))
        assert (implied <= most + 1e-12).all()
        assert 200 * implied.max() < 3
        out = linear_attention(q, k, v)
        assert (out <= v.amax(-2, keepdim=True)).all()
        assert (out >= v.amin(-2, keepdim=True)).all()
        constant = linear_attention(q, k, torch.ones_like(v))
        assert_close(constant, torch.ones_like(constant), 1e-12, "constant values")

    def test_length_does_not_count(self) -> None:
        q, k, v = self.inputs()
        want = linear_attention(q, k, v)
        assert_close(linear_attention(1e-9 * q, 1e9 * k, v), want, 1e-10, "output")
        small = [(1e-9 * t).float() for t in (q, k)]
        assert_close(linear_attention(*small, v.float()), want, 1e-5, "float32 output")

    def test_opposite_keys(self) -> None:
        """The one place where the divisor vanishes. The output is finite there, and the map is its map; its rows no longer sum to one."""
        q, v = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True), torch.randn(1, 1, 5, 6, dtype=torch.float64)
        k = -q[..., :1, :].expand(-1, -1, 5, -1)
        out = linear_attention(q, k, v)
        out.sum().backward()
        assert out.isfinite().all()
        assert q.grad.isfinite().all()
        assert (out[..., 0, :].abs() < 1e-10).all()
        implied = linear_attention_map(q, k)
        assert implied[..., 0, :].sum() < 1e-10
        assert_close(implied @ v, out, 1e-10, "output from the map")

    def test_heads_of_width_1(self) -> None:
        """A direction is a sign there: a query averages the keys of its own sign."""
        q, k, v = (torch.randn(1, 2, 9, width, dtype=torch.float64) for width in (1, 1, 3))
        same = (q.sign() == k.sign().mT).double()
        assert_close(linear_attention(q, k, v), same @ v / same.sum(-1, keepdim=True).clamp_min(1), 1e-10, "output")

    def test_zero_vectors_have_no_direction(self) -> None:
        q, k, v = (t.detach() for t in self.inputs())
        q[:, :, 2] = k[:, :, 5] = 0
        q.requires_grad_()
        k.requires_grad_()
        out = linear_attention(q, k, v)
        assert_close(out[:, :, 2], v.mean(-2), 1e-12, "the zero query")
        assert_close(linear_attention_map(q, k) @ v, out, 1e-12, "output from the map")
        for gradient in torch.autograd.grad(out.pow(2).sum(), (q, k)):
            assert gradient.isfinite().all()
        assert linear_attention_reference(q, k, v).isnan().all(), "officially one zero key spoils every output"

    @pytest.mark.parametrize("chunk", [None, 4])
    def test_no_key_gives_zeros_and_zero_gradients(self, chunk) -> None:
        inputs = self.inputs()
        mask = torch.tensor([True, False])[:, None, None, None].expand(-1, -1, -1, 17)
        out = linear_attention(*inputs, mask=mask, chunk=chunk)
        assert (out[1] == 0).all()
        assert (linear_attention_map(*inputs[:2], mask=mask)[1] == 0).all()
        for gradient in torch.autograd.grad(out.sum(), inputs):
            assert gradient.isfinite().all()
            assert (gradient[1] == 0).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("chunk", [None, 50000])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_half_precision_over_many_positions(self, dtype, chunk, autocast) -> None:
        """N itself overflows float16 from 256 × 256 on; the official divisor is inf there and the branch silently 0."""
        q, k, v = torch.randn(1, 1, 8, 4).to(dtype), torch.randn(1, 1, 512 * 512, 4).to(dtype), (torch.randn(1, 1, 512 * 512, 6) + 1).to(dtype)
        want = linear_attention(q.double(), k.double(), v.double())
        with torch.autocast("cpu", dtype, enabled=autocast):
            got = linear_attention(q, k, v, chunk=chunk)
        assert got.dtype == dtype
        assert_close(got, want, 2 * torch.finfo(dtype).eps, "output")

    def test_float32_over_many_positions(self) -> None:
        q, k, v = torch.randn(1, 1, 8, 4), torch.randn(1, 1, 512 * 512, 4), torch.randn(1, 1, 512 * 512, 6) + 1
        assert_close(linear_attention(q, k, v), linear_attention(q.double(), k.double(), v.double()), 2e-6, "output")

    def test_memory_is_bounded(self) -> None:
        q, k, v = (torch.randn(1, 2, 4096, width) for width in (8, 8, 16))
        for chunk, most in ((None, v.numel()), (64, v.numel() // 64)):
            with torch.no_grad(), Largest() as seen:
                linear_attention(q[..., :64, :], k, v, chunk=chunk)
            assert seen.elements <= most, f"chunk={chunk}"

    @pytest.mark.parametrize("masked", [False, True])
    def test_pieces_that_nobody_asked_for(self, masked) -> None:
        """Without gradients long inputs are read in pieces that stay in the cache: no temporary is as large as the input, and the result is the same."""
        q, k, v = (torch.randn(1, 2, 5000, width, dtype=torch.float64) for width in (32, 32, 64))
        mask = torch.rand(1, 1, 1, 5000) > 0.3 if masked else None
        want = linear_attention(q, k, v, mask=mask)
        with torch.no_grad(), Largest() as seen:
            got = linear_attention(q[..., :3000, :], k, v, mask=mask)
        assert_close(got, want[..., :3000, :], 1e-12, "output")
        assert seen.elements == got.numel(), "the output is the largest"

    @pytest.mark.parametrize("chunk", [None, 4])
    def test_no_query(self, chunk) -> None:
        q, k, v = self.inputs()
        assert linear_attention(q[..., :0, :], k, v, chunk=chunk).shape == (2, 3, 0, 6)

    def test_dropout_keeps_the_mean(self) -> None:
        q, k, v = self.inputs()
        draws = linear_attention(*(t.detach()[:1].expand(20000, -1, -1, -1) for t in (q, k, v)), dropout_p=0.3)
        want = linear_attention(q, k, v)[0]
        assert (draws.mean(0) - want).abs().max() < 0.05 * want.abs().max()
        assert draws.std(0).min() > 0

    def test_scale(self) -> None:
        q, k, v = self.inputs()
        assert_close(linear_attention(q, k, v, scale=0.0), v.mean(-2, keepdim=True).expand(-1, -1, 7, -1), 1e-12, "scale 0")
        assert_close(linear_attention(q, k, v, scale=-1.0), linear_attention(-q, k, v), 1e-12, "scale -1")
        for scale in (1.01, -2.0, float("nan")):
            with pytest.raises(ValueError, match="between -1 and 1"):
                linear_attention(q, k, v, scale=scale)

    def test_denoising_over_it(self) -> None:
        q, k, v = self.inputs()
        q_neg, v_neg, lambdas = torch.randn_like(q), torch.randn_like(v), torch.rand(3, dtype=torch.float64)
        want = linear_attention_reference(q, k, v) - lambdas[:, None, None] * linear_attention_reference(-q_neg, k, v_neg)
        assert_close(denoising_attention(q, k, v, q_neg=q_neg, v_neg=v_neg, lambdas=lambdas, core=linear_attention), want, 1e-10, "output")
        assert DenoisingAttention(DIM, HEADS, core=linear_attention)(torch.randn(2, 9, DIM)).shape == (2, 9, DIM)

    def test_bad_input_is_explained(self) -> None:
        q, k, v = self.inputs()
        with pytest.raises(ValueError, match="chunk must be at least 1"):
            linear_attention(q, k, v, chunk=0)
        with pytest.raises(ValueError, match="per query"):
            linear_attention(q, k, v, mask=torch.ones(7, 17, dtype=torch.bool))
        with pytest.raises(ValueError, match="0 and -inf"):
            linear_attention(q, k, v, mask=torch.full((1, 17), -1.0))


class TestChannelFunction:
    def test_equals_brute_force(self) -> None:
        """The formula, channel by channel: normalized over positions, divided by C and not by N."""
        x = torch.randn(2, 1, 5, 30, dtype=torch.float64, requires_grad=True)
        want = torch.stack([one_head(sample, sample, sample, torch.ones(5, dtype=torch.bool)) for sample in x[:, 0]])[:, None]
        got = channel_linear_attention(x)
        assert_close(got, want, 1e-10, "output")
        assert_close(got, channel_linear_attention_reference(x), 1e-10, "output of the reference")
        assert_close(got, linear_attention(x, x, x), 1e-10, "output of the position form, with the channels as tokens")
        assert_close(channel_linear_attention_map(x) @ x, got, 1e-10, "output from the map")
        cotangent = torch.randn_like(got)
        assert_close(torch.autograd.grad(got, x, cotangent)[0], torch.autograd.grad(want, x, cotangent)[0], 1e-10, "gradient")

    def test_legacy_equals_brute_force(self) -> None:
        x = torch.randn(1, 1, 5, 30, dtype=torch.float64)
        assert_close(channel_linear_attention(x, legacy=True, eps=1e-6)[0, 0], legacy_channels(x[0, 0], 1e-6), 1e-10, "legacy output")

    def test_only_the_correct_operator_is_convex(self) -> None:
        ones = torch.ones(1, 1, 16, 36, dtype=torch.float64)
        assert_close(channel_linear_attention(ones), ones, 1e-12, "constant channels")
        legacy = channel_linear_attention(ones, legacy=True)
        assert_close(legacy, torch.full_like(ones, (16 + 36) / (2 * 36)), 1e-12, "constant channels under legacy")
        x = torch.randn(2, 3, 6, 40, dtype=torch.float64)
        out, implied = channel_linear_attention(x), channel_linear_attention_map(x)
        assert (implied >= 0).all()
        assert_close(implied.sum(-1), torch.ones(2, 3, 6), 1e-12, "rows")
        assert (out <= x.amax(-2, keepdim=True)).all()
        assert (out >= x.amin(-2, keepdim=True)).all()
        theirs = channel_linear_attention(x, legacy=True)
        assert not (theirs <= x.amax(-2, keepdim=True)).all()
        assert (theirs - out).abs().max() > 0.1

    @pytest.mark.parametrize("legacy", [False, True])
    def test_heads_do_not_meet(self, legacy) -> None:
        x = torch.randn(2, 3, 6, 10, dtype=torch.float64)
        alone = torch.cat([channel_linear_attention(x[:, h : h + 1], legacy=legacy) for h in range(3)], 1)
        assert_close(channel_linear_attention(x, legacy=legacy), alone, 1e-12, "output")

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("where", ["a channel", "a pixel", "all"])
    def test_zeros(self, legacy, where) -> None:
        x = torch.randn(1, 1, 4, 9, dtype=torch.float64)
        if where == "a channel":
            x[..., 2, :] = 0
        elif where == "a pixel":
            x[..., 5] = 0
        else:
            x.zero_()
        x.requires_grad_()
        out = channel_linear_attention(x, legacy=legacy)
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()
        if where == "a channel" and not legacy:
            assert_close(out[..., 2, :], x.mean(-2), 1e-12, "the zero channel gets the mean of all")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_half_precision_over_many_positions(self, dtype, legacy) -> None:
        x = (torch.randn(1, 1, 6, 512 * 512) + 1).to(dtype)
        want = channel_linear_attention(x.double(), legacy=legacy)
        with torch.autocast("cpu", dtype):
            got = channel_linear_attention(x, legacy=legacy)
        assert got.dtype == dtype
        assert_close(got, want, 2 * torch.finfo(dtype).eps, "output")

    def test_eps_without_legacy_is_refused(self) -> None:
        with pytest.raises(ValueError, match="legacy"):
            channel_linear_attention(torch.randn(1, 1, 4, 9), eps=1e-6)


class TestLinearAttention2d(HeadsMapContract):
    """Maps that are not square are in the contract: the official code fails on 8 × 16, and turns 1 × 16 into 16 × 16 without a word."""

    name = "linear_2d"
    # 12 channels would have keys of width 1 by default: signs, whose weights vanish where all differ
    variants = [
        {"key_channels": 4},
        {"key_channels": 6, "num_heads": 3, "residual": False},
        {"key_channels": 4, "num_heads": 2, "chunk": 5, "gamma_init": 0.75},
    ]

    def one_head(self, module, q, k, v, here):
        return one_head(q, k, v, here)

    def behind(self, module, x, mixed):
        return module.gamma * mixed + (x if module.residual else 0)

    @pytest.mark.parametrize("gamma", [0.0, 0.75])
    def test_zero_pixels(self, gamma) -> None:
        """Officially one all-zero pixel under zero biases makes the whole map NaN, even at γ = 0."""
        block, x = self.make(key_channels=4, gamma_init=gamma).double(), self.draw(4, 6)
        torch.nn.init.zeros_(block.qkv.bias)
        x[:, :, 1, 2] = 0
        x[1] = 0
        x.requires_grad_()
        out = block(x)
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in block.parameters())
        if gamma == 0:
            assert torch.equal(out, x)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_at_512(self, dtype) -> None:
        block, x = LinearAttention2d(8, key_channels=4, gamma_init=1.0, residual=False), torch.randn(1, 8, 512, 512) + 0.5
        with torch.no_grad():
            want = block(x)
            got = copy.deepcopy(block).to(dtype)(x.to(dtype))
        assert got.dtype == dtype
        assert_close(got, want, 16 * torch.finfo(dtype).eps, "output")
        assert got.abs().max() > 0.1, "the official branch is 0 here"

    def test_it_starts_as_the_identity(self) -> None:
        block, x = LinearAttention2d(16), torch.randn(2, 16, 5, 6)
        assert torch.equal(block(x), x)
        block(x).pow(2).sum().backward()
        assert block.gamma.grad.abs().item() > 0
        assert (block.qkv.weight.grad == 0).all(), "γ alone learns at first"
        assert block.no_weight_decay() == {"gamma"}

    def test_few_channels(self) -> None:
        """Officially C < 8 makes convolutions without outputs."""
        assert LinearAttention2d(5).key_channels == 1
        assert LinearAttention2d(5, gamma_init=1.0)(torch.randn(2, 5, 4, 6)).isfinite().all()
        assert LinearAttention2d(64).key_channels == 8

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"channels": 12, "key_channels": 5, "num_heads": 3}, "key_channels=5 and num_heads=3; try key_channels=6"),
            ({"channels": 16, "key_channels": 6, "num_heads": 3}, "value_channels=16 and num_heads=3"),
            ({"channels": 0}, "widths of at least 1"),
            ({"channels": 8, "chunk": 0}, "chunk"),
        ],
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            LinearAttention2d(**change)

    def test_official_checkpoints_that_do_not_fit_are_refused(self) -> None:
        _, settings, tensors = read("linear_position")
        state = part(tensors, "state.", torch.float32)
        with pytest.raises(ValueError, match=r"lacks value_conv\.weight"):
            official.load("linear.position", {key: value for key, value in state.items() if key != "value_conv.weight"}, **settings)
        with pytest.raises(ValueError, match="strange"):
            official.load("linear.position", state | {"strange": torch.ones(1)}, **settings)
        with pytest.raises(ValueError, match=r"query_conv\.bias"):
            official.load("linear.channel", state)

    def test_official_weights_without_the_official_eps(self) -> None:
        """The eps is in the checkpoint's kind; the paper's formula is as near as 1e-6 is to 0."""
        _, settings, tensors = read("linear_position")
        module = official.load("linear.position", part(tensors, "state.", torch.float64), **settings | {"eps": 0.0})
        assert_close(module(tensors["input.x"].double()), tensors["output"], 1e-5, "output")


class TestChannelLinearAttention2d(MapContract):
    name = "linear_channel_2d"
    variants = [{}, {"residual": False, "gamma_init": 0.75}, {"legacy": True, "eps": 1e-6}]

    def oracle(self, module, x, present):
        mixed = []
        for sample in x.flatten(2):
            mixed.append(legacy_channels(sample, module.eps) if module.legacy else one_head(sample, sample, sample, torch.ones(len(sample), dtype=torch.bool)))
        return self.behind(module, x, torch.stack(mixed))

    def from_map(self, module, x, maps):
        return self.behind(module, x, maps["combined"][:, 0] @ x.flatten(2))

    @staticmethod
    def behind(module: ChannelLinearAttention2d, x: Tensor, mixed: Tensor) -> Tensor:
        return module.gamma * mixed.unflatten(-1, x.shape[2:]) + (x if module.residual else 0)

    def test_the_map_gives_the_output(self, options) -> None:
        if not options.get("legacy"):
            super().test_the_map_gives_the_output(options)
            return
        with pytest.raises(ValueError, match="legacy"):
            self.build(**options).attention_map(self.draw(4, 6))

    def test_another_precision_is_explained(self) -> None:
        """It has no weights but a factor, so any precision is its own."""
        for dtype in (torch.float64, torch.bfloat16):
            assert self.build(torch.float32)(self.draw(5, 7, dtype=dtype)).dtype == dtype

    def test_any_number_of_channels(self) -> None:
        block = ChannelLinearAttention2d()
        for channels in (1, 7):
            assert block(torch.randn(2, channels, 3, 4)).shape == (2, channels, 3, 4)
        with pytest.raises(ValueError, match="give channels"):
            block.cost(3, 4)
        for x in (torch.randn(2, 7, 3), torch.randn(7)):
            with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
                block(x)

    @pytest.mark.parametrize(("change", "says"), [({"channels": 0}, "channels must be at least 1"), ({"channels": 8, "eps": 1e-6}, "legacy=True")])
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            ChannelLinearAttention2d(**change)

    def test_it_starts_as_the_identity(self) -> None:
        block, x = ChannelLinearAttention2d(8), torch.randn(2, 8, 5, 6)
        assert torch.equal(block(x), x)
        block(x).pow(2).sum().backward()
        assert block.gamma.grad.abs().item() > 0
        assert block.no_weight_decay() == {"gamma"}
