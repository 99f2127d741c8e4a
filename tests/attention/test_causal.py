"""Causal attention: the contract, the two streams, and the complementary gate against a loop over pixels."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveal import CausalAttention, ComplementaryCBAM
from foveal.functional import causal_attention, causal_attention_reference, denoising_attention
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.test_softmax import heads, one_map


class TestCausalAttention(AttentionContract):
    name = "causal"
    variants = [{}, {"attn_head_dim": 5}]

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3) for part in range(3))
            mixed = [(one_map(q[h], k[h], here) + one_map(-q[h], k[h], here)) @ v[h] for h in range(HEADS)]
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_finite_and_near(self, options, dtype) -> None:
        """Inputs as large as the contract's make both maps one-hot, and which pair wins turns on rounding; here they are a quarter."""
        module, x = self.build(torch.float32, **options), torch.randn(2, 33, DIM)
        want, got = module(x), self.build(torch.float32, **options).to(dtype)(x.to(dtype))
        assert got.isfinite().all()
        assert (got.float() - want).abs().max() < 0.1 * want.abs().max()

    def test_streams_add_up_to_the_mixture(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        cause, complement = module.pair(x)
        assert_close(cause + complement - module.proj.bias, module(x), 1e-10, "the mixture")

    def test_most_for_is_least_against(self, options) -> None:
        maps = self.build(**options).attention_map(torch.randn(2, 9, DIM, dtype=torch.float64))
        assert torch.equal(maps["positive"].argmax(-1), maps["negative"].argmin(-1))
        assert torch.equal(maps["positive"].argmin(-1), maps["negative"].argmax(-1))
        for name in ("positive", "negative"):
            assert_close(maps[name].sum(-1), torch.ones(2, HEADS, 9), 1e-12, f"rows of {name}")

    def test_the_map_gives_the_output(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        v = module.qkv(x).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out = module.proj((module.attention_map(x)["combined"] @ v).transpose(1, 2).flatten(2))
        assert_close(out, module(x), 1e-10, "output from the map")

    def test_the_mixture_does_not_know_the_sign_of_the_query(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        out = module(x)
        with torch.no_grad():
            module.qkv.weight[: module.inner_dim].neg_()
            module.qkv.bias[: module.inner_dim].neg_()
        assert_close(module(x), out, 1e-12, "output")


def test_the_pair_is_the_denoising_pair_with_tied_query_and_values() -> None:
    q, k, v = torch.randn(3, 2, HEADS, 9, 6, dtype=torch.float64)
    cause, complement = causal_attention(q, k, v)
    tied = denoising_attention(q, k, v, q_neg=q, lambdas=torch.full((HEADS,), -1.0, dtype=torch.float64))
    assert_close(cause + complement, tied, 1e-12, "sum")


@pytest.mark.parametrize("causal", [False, True])
def test_fast_path_equals_the_reference(causal) -> None:
    inputs = [torch.randn(2, 3, 9, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    options = {"mask": torch.rand(2, 1, 9, 9) > 0.3, "scale": 0.7, "is_causal": causal}
    for fast, slow in zip(causal_attention(*inputs, **options), causal_attention_reference(*inputs, **options), strict=True):
        assert_close(fast, slow, 1e-10, "output")
        cotangent = torch.randn_like(fast)
        for got, want in zip(torch.autograd.grad(fast, inputs, cotangent), torch.autograd.grad(slow, inputs, cotangent), strict=True):
            assert_close(got, want, 1e-10, "gradient")


# -- the gate ------------------------------------------------------------------------------------------------------------------------------------


def gate(channels: int = 8, reduction: int = 4) -> ComplementaryCBAM:
    torch.manual_seed(2)
    block = ComplementaryCBAM(channels, reduction).double().eval()
    with torch.no_grad():
        for value in (*block.parameters(), block.bn.running_mean):
            value.add_(0.3 * torch.randn_like(value))
    return block


def slow_gate(block: ComplementaryCBAM, h: torch.Tensor) -> torch.Tensor:
    """Channel by channel, then pixel by pixel."""
    batch, channels, height, width = h.shape
    out = torch.zeros_like(h)
    for b in range(batch):

        def mlp(v: torch.Tensor) -> torch.Tensor:
            return block.fc2.weight @ (block.fc1.weight @ v + block.fc1.bias).clamp_min(0) + block.fc2.bias

        means = torch.stack([h[b, c].sum() / (height * width) for c in range(channels)])
        tops = torch.stack([h[b, c].max() for c in range(channels)])
        a_c = 1 / (1 + (-(mlp(means) + mlp(tops))).exp())
        gated = a_c[:, None, None] * h[b]
        for y in range(height):
            for x in range(width):
                total = 0.0
                for dy in range(-3, 4):
                    for dx in range(-3, 4):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            pixel = gated[:, y + dy, x + dx]
                            weight = block.conv.weight[0, :, dy + 3, dx + 3]
                            total = total + weight[0] * pixel.max() + weight[1] * pixel.sum() / channels
                normed = (total - block.bn.running_mean) / (block.bn.running_var + block.bn.eps).sqrt() * block.bn.weight + block.bn.bias
                out[b, :, y, x] = a_c / (1 + (-normed).exp())
    return out


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (8, 2)])
def test_the_gate_equals_a_loop_over_pixels(size) -> None:
    block, h = gate(), torch.randn(2, 8, *size, dtype=torch.float64)
    want = slow_gate(block, h)
    cause, complement = block(h)
    assert_close(block.gate(h), want, 1e-12, "gate")
    assert_close(cause, want * h, 1e-12, "cause")
    assert_close(complement, (1 - want) * h, 1e-12, "complement")


def test_the_two_gates_add_up_to_one() -> None:
    block, h = gate(), torch.randn(2, 8, 6, 7, dtype=torch.float64)
    cause, complement = block(h)
    assert_close(cause / h + complement / h, torch.ones_like(h), 1e-12, "gates")


def test_the_spatial_gate_starts_at_one_half() -> None:
    """So the complement starts with about three quarters of the signal."""
    torch.manual_seed(0)
    block, h = ComplementaryCBAM(64), torch.randn(8, 64, 7, 7)
    a = block.train().gate(h)
    assert_close(a, a[..., :1, :1].expand_as(a), 1e-12, "the same at every place")
    assert 0.1 < a.mean() < 0.4
    block.reset_parameters()
    assert (block.bn.weight == 0).all()


def test_gradcheck_of_the_gate() -> None:
    assert torch.autograd.gradcheck(gate(4, 2), (torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True),))


def test_cost_of_the_gate() -> None:
    block = ComplementaryCBAM(32, device="meta").eval()
    with FlopCounterMode(display=False) as counter:
        block(torch.empty(1, 32, 9, 7, device="meta"))
    assert block.cost(9, 7).macs == counter.get_total_flops() // 2
    assert block.cost(9, 7).parameters == sum(p.numel() for p in block.parameters())


@pytest.mark.parametrize(("channels", "reduction"), [(0, 1), (8, 16), (8, 0)])
def test_gates_that_cannot_be_are_refused(channels, reduction) -> None:
    with pytest.raises(ValueError, match="reduction"):
        ComplementaryCBAM(channels, reduction)


@pytest.mark.parametrize(
    ("h", "says"),
    [
        (torch.randn(2, 9, 5, 5), "C=8"),
        (torch.randn(2, 8, 5, 5), r"torch\.float64, got torch\.float32"),
        (torch.randn(2, 8, 0, 5, dtype=torch.float64), "at least one pixel"),
    ],
)
def test_maps_that_do_not_fit_the_gate_are_refused(h, says) -> None:
    with pytest.raises(ValueError, match=says):
        gate()(h)


def test_weights_are_those_of_softmax_attention() -> None:
    names = {key: value.shape for key, value in CausalAttention(DIM, HEADS).state_dict().items()}
    assert set(names) == {"qkv.weight", "proj.weight", "proj.bias"}
