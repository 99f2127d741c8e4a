import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import foveal
from foveal import DenoisingAttention, EfficientAttention, EfficientAttention2d, official
from foveal.functional import denoising_attention, efficient_attention, efficient_attention_map, efficient_attention_reference
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.maps_contract import HeadsMapContract
from tests.attention.test_softmax import heads
from tests.official.test_golden import part, read

NORMS = ["softmax", "scaling"]


def one_head(q: Tensor, k: Tensor, v: Tensor, here: Tensor, normalization: str) -> Tensor:
    """One sample and head, token by token and channel by channel, with the map in memory. Absent keys are left out, not masked."""
    k, v = k[here], v[here]
    if normalization == "scaling":
        return torch.stack([sum((query @ key) / len(k) * value for key, value in zip(k, v, strict=True)) for query in q])
    gives = torch.stack([channel.exp() / channel.exp().sum() for channel in k.T])
    out = []
    for query in q:
        takes = query.exp() / query.exp().sum()
        out.append(sum(takes[c] * (gives[c] @ v) for c in range(len(takes))))
    return torch.stack(out)


class Largest(TorchDispatchMode):
    """The most elements any operation gave back that owns its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not func.is_view:
            self.elements = max(self.elements, out.numel())
        return out


class TestEfficientAttention(AttentionContract):
    name = "efficient"
    variants = [{}, {"normalization": "scaling"}, {"chunk": 4}, {"attn_head_dim": 5}]
    causal = False

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, which, 3) for which in range(3))
            mixed = [one_head(q[h], k[h], v[h], here, module.core.normalization) for h in range(HEADS)]
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_maps(self, options) -> None:
        if options.get("normalization") != "scaling":
            super().test_maps(options)
            return
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        q, k, _ = module._qkv(x, None)
        combined = module.attention_map(x)["combined"]
        assert_close(combined, q @ k.mT / 9, 1e-10, "dot products over N")
        assert combined.min() < 0, "signed, and documented so"

    def test_the_map_gives_the_output(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        present = torch.rand(2, 1, 1, 9) > 0.3
        for mask in (None, present):
            v = module._qkv(x, None)[2]
            out = module.proj((module.attention_map(x, attn_mask=mask)["combined"] @ v).transpose(1, 2).flatten(2))
            assert_close(out, module(x, attn_mask=mask), 1e-10, "output from the map")

    def test_context(self, options) -> None:
        """Queries of one input, keys and values of another of another length, some of them absent."""
        module = self.build(**options)
        x, context = torch.randn(2, 5, DIM, dtype=torch.float64), torch.randn(2, 8, DIM, dtype=torch.float64)
        present = torch.ones(2, 8, dtype=torch.bool)
        present[0, 5:] = False
        want = []
        for b in range(2):
            q = heads(module.qkv, x[b], 0, 3)
            k, v = (heads(module.qkv, context[b], which, 3) for which in (1, 2))
            want.append(torch.cat([one_head(q[h], k[h], v[h], present[b], module.core.normalization) for h in range(HEADS)], -1))
        got = module(x, context=context, attn_mask=present[:, None, None])
        assert_close(got, module.proj(torch.stack(want)), 1e-10, "output over a context")
        assert_close(module(x, context=x), module(x), 1e-10, "its own context")

    def test_weights_are_those_of_softmax_attention(self) -> None:
        """A host's weights keep their names; the function is another, whatever the README of the official code says."""
        module, softmax = self.build(), foveal.create_attention("softmax", DIM, HEADS, qkv_bias=True).double()
        softmax.load_state_dict(module.state_dict())
        x = torch.randn(2, 9, DIM, dtype=torch.float64)
        assert (softmax(x) - module(x)).abs().max() > 0.01 * module(x).abs().max()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"normalization": "softmx"}, "did you mean softmax"),
            ({"chunk": 0}, "chunk must be at least 1"),
            ({"attn_head_dim": 1}, "at least 2 channels per head"),
        ],
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            EfficientAttention(DIM, HEADS, **change)

    def test_masks_without_meaning_are_refused(self) -> None:
        x = torch.randn(2, 9, DIM)
        for mask in (torch.ones(9, 9, dtype=torch.bool), torch.ones(2, 1, 9, 9, dtype=torch.bool), torch.ones(2, 1, 9, 1, dtype=torch.bool)):
            for call in (self.build(torch.float32), self.build(torch.float32).attention_map):
                with pytest.raises(ValueError, match="a mask per query has no meaning"):
                    call(x, attn_mask=mask)
        with pytest.raises(ValueError, match="this float mask has other values"):
            self.build(torch.float32, normalization="scaling")(x, attn_mask=torch.full((2, 1, 1, 9), 0.5))

    def test_causality_over_a_context_is_refused(self) -> None:
        with pytest.raises(ValueError, match="causal"):
            self.build(torch.float32)(torch.randn(2, 9, DIM), context=torch.randn(2, 9, DIM), is_causal=True)

    def test_normalized_queries_and_keys_under_autocast(self) -> None:
        """Norms give float32 there and the values are half: the function takes both."""
        module, x = self.build(torch.float32, qk_norm=True), torch.randn(2, 9, DIM)
        with torch.autocast("cpu", torch.bfloat16):
            assert (module(x).float() - module.float()(x)).abs().max() < 0.1


class TestEfficientFunction:
    @staticmethod
    def inputs(num_queries: int = 7, num_keys: int = 17) -> tuple[Tensor, Tensor, Tensor]:
        shapes = ((2, 3, num_queries, 4), (2, 3, num_keys, 4), (2, 3, num_keys, 6))
        q, k, v = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
        return q, k, v

    @pytest.mark.parametrize("normalization", NORMS)
    @pytest.mark.parametrize("chunk", [None, 1, 5, 17, 100])
    @pytest.mark.parametrize("mask", [None, "samples", "heads", "all"])
    def test_equals_the_reference(self, normalization, chunk, mask) -> None:
        inputs = self.inputs()
        shape = {None: None, "samples": (2, 1, 1, 17), "heads": (2, 3, 1, 17), "all": (1, 17)}[mask]
        present = None if shape is None else torch.rand(shape) > 0.4
        options = {"mask": present, "normalization": normalization, "scale": 0.7}
        fast, slow = efficient_attention(*inputs, chunk=chunk, **options), efficient_attention_reference(*inputs, **options)
        assert_close(fast, slow, 1e-10, "output")
        assert_close(efficient_attention_map(*inputs[:2], **options) @ inputs[2], slow, 1e-10, "output from the map")
        cotangent = torch.randn_like(fast)
        for got, want in zip(torch.autograd.grad(fast, inputs, cotangent), torch.autograd.grad(slow, inputs, cotangent), strict=True):
            assert_close(got, want, 1e-10, "gradient")

    def test_rows_are_convex_and_of_low_rank(self) -> None:
        q, k, _ = self.inputs(40, 40)
        implied = efficient_attention_map(q, k)
        assert (implied >= 0).all()
        assert_close(implied.sum(-1), torch.ones(2, 3, 40), 1e-12, "rows")
        assert (torch.linalg.matrix_rank(implied) == 4).all()
        assert (torch.linalg.matrix_rank((q @ k.mT).softmax(-1)) > 4).all(), "softmax attention is not so bound"

    def test_scaling_is_dot_product_attention(self) -> None:
        q, k, v = self.inputs()
        assert_close(efficient_attention(q, k, v, normalization="scaling"), (q @ k.mT / 17) @ v, 1e-12, "output")

    def test_a_key_channel_can_pick_one_position(self) -> None:
        k = torch.zeros(1, 1, 50, 2, dtype=torch.float64)
        k[..., 31, 0] = 60
        q, v = torch.tensor([60.0, 0.0], dtype=torch.float64).expand(1, 1, 3, 2), torch.randn(1, 1, 50, 6, dtype=torch.float64)
        assert_close(efficient_attention(q, k, v), v[..., 31:32, :].expand(-1, -1, 3, -1), 1e-10, "output")

    def test_one_channel_tells_no_position_from_another(self) -> None:
        """Why the layers refuse heads of width 1."""
        q, k, v = torch.randn(1, 1, 9, 1), torch.randn(1, 1, 9, 1), torch.randn(1, 1, 9, 4)
        assert_close(efficient_attention(q, k, v), efficient_attention(-q, k, v), 1e-6, "output")

    @pytest.mark.parametrize("chunk", [None, 4])
    def test_float_masks_weigh_keys(self, chunk) -> None:
        q, k, v = self.inputs()
        weights = torch.rand(2, 1, 1, 17, dtype=torch.float64) + 0.1
        gives = k.exp() * weights.mT
        want = q.softmax(-1) @ ((gives / gives.sum(-2, keepdim=True)).mT @ v)
        assert_close(efficient_attention(q, k, v, mask=weights.log(), chunk=chunk), want, 1e-10, "output")
        present = weights > 0.5
        out = torch.zeros(present.shape, dtype=torch.float64).masked_fill(~present, float("-inf"))
        assert_close(efficient_attention(q, k, v, mask=out, chunk=chunk), efficient_attention(q, k, v, mask=present, chunk=chunk), 1e-10, "-inf for False")

    @pytest.mark.parametrize("order", ["rising", "falling", "absent first"])
    def test_the_running_maximum_meets_any_order(self, order) -> None:
        """Logits far beyond what exp can hold, in steps of ten keys, the largest last or first, and whole pieces without a key."""
        q, k, v = self.inputs(7, 40)
        k = k.detach() + 1000 * (torch.arange(40) // 10 - 2)[:, None] * (1 if order == "rising" else -1)
        mask = torch.arange(40)[None] >= 23 if order == "absent first" else None
        k.requires_grad_()
        whole, cut = (efficient_attention(q, k, v, mask=mask, chunk=chunk) for chunk in (None, 6))
        assert_close(cut, whole, 1e-10, "output")
        cotangent = torch.randn_like(whole)
        for got, want in zip(torch.autograd.grad(cut, (q, k, v), cotangent), torch.autograd.grad(whole, (q, k, v), cotangent), strict=True):
            assert got.isfinite().all()
            assert_close(got, want, 1e-10, "gradient")

    @pytest.mark.parametrize("normalization", NORMS)
    @pytest.mark.parametrize("chunk", [None, 4])
    def test_no_key_gives_zeros_and_zero_gradients(self, normalization, chunk) -> None:
        inputs = self.inputs()
        mask = torch.tensor([True, False])[:, None, None, None].expand(-1, -1, -1, 17)
        out = efficient_attention(*inputs, mask=mask, normalization=normalization, chunk=chunk)
        assert (out[1] == 0).all()
        assert (efficient_attention_map(*inputs[:2], mask=mask, normalization=normalization)[1] == 0).all()
        for gradient in torch.autograd.grad(out.sum(), inputs):
            assert gradient.isfinite().all()
            assert (gradient[1] == 0).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("chunk", [None, 5000])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_half_precision_over_many_positions(self, dtype, chunk, autocast) -> None:
        """At N = 65536 most weights are below float16's normal range, and a sum of them in bfloat16 stalls."""
        q, k, v = torch.randn(1, 1, 8, 4).to(dtype), torch.randn(1, 1, 65536, 4).to(dtype), (torch.randn(1, 1, 65536, 6) + 1).to(dtype)
        want = efficient_attention(q.double(), k.double(), v.double())
        with torch.autocast("cpu", dtype, enabled=autocast):
            got = efficient_attention(q, k, v, chunk=chunk)
        assert got.dtype == dtype
        assert_close(got, want, 2 * torch.finfo(dtype).eps, "output")

    @pytest.mark.parametrize("normalization", NORMS)
    def test_memory_is_bounded(self, normalization) -> None:
        q, k, v = (torch.randn(1, 2, 4096, width) for width in (8, 8, 16))
        for chunk, most in ((None, v.numel()), (64, v.numel() // 64)):
            with torch.no_grad(), Largest() as seen:
                parts = [efficient_attention(q[..., at : at + 64, :], k, v, normalization=normalization, chunk=chunk) for at in (0, 64)]
            assert seen.elements <= most, f"chunk={chunk}"
            assert parts[0].shape == (1, 2, 64, 16)

    @pytest.mark.parametrize("normalization", NORMS)
    @pytest.mark.parametrize("masked", [False, True])
    def test_pieces_that_nobody_asked_for(self, normalization, masked) -> None:
        """Without gradients long inputs are read in pieces that stay in the cache: no temporary is as large as the input, and the result is the same."""
        q, k, v = (torch.randn(1, 2, 5000, width, dtype=torch.float64) for width in (32, 32, 64))
        options = {"normalization": normalization, "mask": torch.rand(1, 1, 1, 5000) > 0.3 if masked else None}
        want = efficient_attention(q, k, v, **options)
        with torch.no_grad(), Largest() as seen:
            got = efficient_attention(q[..., :3000, :], k, v, **options)
        assert_close(got, want[..., :3000, :], 1e-12, "output")
        assert seen.elements == got.numel(), "the output is the largest"

    @pytest.mark.parametrize("chunk", [None, 4])
    def test_no_query(self, chunk) -> None:
        q, k, v = self.inputs()
        assert efficient_attention(q[..., :0, :], k, v, chunk=chunk).shape == (2, 3, 0, 6)

    @pytest.mark.parametrize("normalization", NORMS)
    def test_denoising_over_it(self, normalization) -> None:
        """Denoising composes: two calls over shared keys, the second with the negated negative query."""
        q, k, v = self.inputs()
        q_neg, v_neg, lambdas = torch.randn_like(q), torch.randn_like(v), torch.rand(3, dtype=torch.float64)

        def core(*args, **options):
            return efficient_attention(*args, normalization=normalization, **options)

        want = efficient_attention_reference(q, k, v, normalization=normalization)
        want = want - lambdas[:, None, None] * efficient_attention_reference(-q_neg, k, v_neg, normalization=normalization)
        assert_close(denoising_attention(q, k, v, q_neg=q_neg, v_neg=v_neg, lambdas=lambdas, core=core), want, 1e-10, "output")
        assert DenoisingAttention(DIM, HEADS, core=core)(torch.randn(2, 9, DIM)).shape == (2, 9, DIM)

    def test_bad_input_is_explained(self) -> None:
        q, k, v = self.inputs()
        with pytest.raises(ValueError, match="did you mean scaling"):
            efficient_attention(q, k, v, normalization="scalin")
        with pytest.raises(ValueError, match="chunk must be at least 1"):
            efficient_attention(q, k, v, chunk=-3)
        with pytest.raises(ValueError, match="per query"):
            efficient_attention(q, k, v, mask=torch.ones(7, 17, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"\(2, 3, 1, 17\), got \(17,\)"):
            efficient_attention(q, k, v, mask=torch.ones(17, dtype=torch.bool))
        with pytest.raises(ValueError, match="bool"):
            efficient_attention(q, k, v, mask=torch.ones(1, 17, dtype=torch.long))
        with pytest.raises(ValueError, match="0 and -inf"):
            efficient_attention_map(q, k, mask=torch.full((1, 17), -1.0), normalization="scaling")


class TestEfficientAttention2d(HeadsMapContract):
    name = "efficient_2d"
    variants = [
        {},
        {"key_channels": 6, "value_channels": 9, "num_heads": 3, "residual": False},
        {"normalization": "scaling", "num_heads": 2},
        {"num_heads": 2, "chunk": 5, "gamma_init": 0.5},
    ]

    def one_head(self, module, q, k, v, here):
        return one_head(q, k, v, here, module.normalization)

    def behind(self, module, x, mixed):
        out = module.proj(mixed) * (1 if module.gamma is None else module.gamma)
        return x + out if module.residual else out

    def rows_sum_to_one(self, options):
        return options.get("normalization") != "scaling"

    def test_what_overflows_in_half_precision_is_no_nan(self, options) -> None:
        """Under scaling the output is no mean of values, and is itself beyond float16 here."""
        if options.get("normalization") != "scaling":
            super().test_what_overflows_in_half_precision_is_no_nan(options)

    @pytest.mark.parametrize(("channels", "parameters"), [(512, 787_968), (256, 197_376)])
    def test_published_parameters(self, channels, parameters) -> None:
        assert EfficientAttention2d(channels, device="meta").cost(1, 1).parameters == parameters

    def test_a_gate_of_zero_is_the_identity(self) -> None:
        block, x = self.make(gamma_init=0.0).double(), self.draw(4, 6)
        assert torch.equal(block(x), x)
        block(x).sum().backward()
        assert block.gamma.grad.abs().item() > 0
        assert block.no_weight_decay() == {"gamma"}
        assert self.make().no_weight_decay() == set()
        assert "gamma" not in self.make().state_dict()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            # the official block drops two key channels here, in silence
            ({"channels": 64, "key_channels": 30, "num_heads": 4, "value_channels": 64}, "key_channels=30 and num_heads=4; try key_channels=32"),
            # and fails in a convolution here
            ({"channels": 64, "key_channels": 32, "num_heads": 4, "value_channels": 63}, "value_channels=63 and num_heads=4; try value_channels=64"),
            ({"channels": 8, "key_channels": 4, "num_heads": 4}, "at least 2 channels per head"),
            ({"channels": 1}, "widths of at least 1, got channels=1, key_channels=0"),
            ({"channels": 8, "num_heads": 0}, "num_heads=0"),
            ({"channels": 8, "normalization": "softmacks"}, "did you mean softmax"),
            ({"channels": 8, "chunk": 0}, "chunk"),
        ],
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            EfficientAttention2d(**change)

    def test_official_checkpoints_that_do_not_fit_are_refused(self) -> None:
        _, settings, tensors = read("efficient_conv2d")
        state = part(tensors, "state.", torch.float32)
        with pytest.raises(ValueError, match=r"lacks keys\.bias"):
            official.load("efficient.conv2d", {key: value for key, value in state.items() if key != "keys.bias"}, **settings)
        with pytest.raises(ValueError, match=r"keys\.scale"):
            official.load("efficient.conv2d", state | {"keys.scale": torch.ones(1)}, **settings)
        with pytest.raises(ValueError, match="num_heads must divide key_channels"):
            official.load("efficient.conv2d", state, **settings | {"head_count": 3})

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype) -> None:
        block, x = EfficientAttention2d(8), torch.randn(1, 8, 64, 80)
        want = block(x)
        got = block.to(dtype)(x.to(dtype))
        assert got.dtype == dtype
        assert_close(got, want, 8 * torch.finfo(dtype).eps, "output")
