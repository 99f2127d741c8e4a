"""What every token attention must do; see :class:`AttentionContract`."""

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .._errors import InputError
from ..attention import AttentionConfig, TokenAttention, attention_class, config_from_dict, create_attention
from ._half import HALVES, SIZES, errors, hold, of_autocast, sharpened, yardstick
from ._reads import no_host_reads

DIM, HEADS = 24, 4
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"))]


class AttentionContract:
    """A class of tests for pytest. A mechanism inherits it and says what is its own.

    ``name`` is the registered one and ``variants`` are options to test, each as keywords; ``causal`` says whether the mechanism can be, and
    :meth:`oracle` is the paper's formula, written slowly and sharing no code with the mechanism.
    """

    name: ClassVar[str]
    variants: ClassVar[list[dict[str, Any]]] = [{}]
    causal: ClassVar[bool] = True
    against_softmax: ClassVar[float] = 2.0
    """How many times the error of softmax attention in half precision is taken."""

    def many(self, options: dict[str, Any]) -> int:
        return 100

    def tokens(self, options: dict[str, Any]) -> Tensor:
        """So many that errors of rounding are alike in what is compared."""
        count = self.many(options)
        return torch.randn(max(3, 300 // count), count, DIM, dtype=torch.float64)

    def oracle(self, module: TokenAttention, x: Tensor, present: Tensor) -> Tensor:
        """The paper's formula from the module's weights, sample by sample and head by head, in the dtype of ``x``. ``present`` is (B, N), bool."""
        raise NotImplementedError

    def build(self, dtype: torch.dtype = torch.float64, **options: Any) -> TokenAttention:
        torch.manual_seed(1)
        module: TokenAttention = attention_class(self.name)(DIM, HEADS, **{"qkv_bias": True} | options).to(dtype)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return module.eval()

    @staticmethod
    def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
        if "options" in metafunc.fixturenames:
            variants = metafunc.cls.variants
            metafunc.parametrize("options", variants, ids=[",".join(f"{k}={v}" for k, v in variant.items()) or "default" for variant in variants])

    # -- the mathematics ------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("num_tokens", [1, 2, 7, 50])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_output_and_gradients_equal_the_oracle(self, options: dict[str, Any], num_tokens: int, dtype: torch.dtype) -> None:
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        module, x = self.build(dtype, **options), torch.randn(3, num_tokens, DIM, dtype=dtype)
        slow = copy.deepcopy(module).double()
        cotangent = torch.randn(3, num_tokens, DIM, dtype=torch.float64)
        fast_x, slow_x = x.clone().requires_grad_(), x.double().requires_grad_()
        fast, want = module(fast_x), self.oracle(slow, slow_x, torch.ones(3, num_tokens, dtype=torch.bool))
        assert_close(fast, want, tolerance, "output")
        (fast * cotangent.to(dtype)).sum().backward()
        (want * cotangent).sum().backward()
        largest = max(p.grad.abs().max().item() for p in slow.parameters() if p.grad is not None)
        assert fast_x.grad is not None, "x gets no gradient"
        assert slow_x.grad is not None, "the oracle gives x no gradient"
        assert_close(fast_x.grad, slow_x.grad, tolerance, "gradient of x", floor=0.1 * largest)
        for (key, ours), theirs in zip(module.named_parameters(), slow.parameters(), strict=True):
            want_grad = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
            assert ours.grad is not None, f"{key} gets no gradient"
            assert_close(ours.grad, want_grad, tolerance, f"gradient of {key}", floor=0.1 * largest)

    def test_inference_equals_training_mode_mathematics(self, options: dict[str, Any]) -> None:
        """Without gradients another CPU path is taken for large inputs; it must be the same mathematics."""
        module = create_attention(self.name, 192, 6, **options).eval()
        x = torch.randn(4, 640, 192)
        with torch.no_grad():
            fast = module(x)
        assert_close(fast, module(x), 1e-5, "output without gradients")

    def test_absent_keys_get_no_weight(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(3, 9, DIM, dtype=torch.float64)
        present = torch.ones(3, 9, dtype=torch.bool)
        present[0, 6:] = present[1, ::2] = False
        out = module(x, attn_mask=present[:, None, None])
        assert_close(out[present], self.oracle(module, x, present)[present], 1e-10, "masked output")
        noisy = torch.where(present[..., None], x, 1e3 * torch.randn_like(x))
        assert_close(module(noisy, attn_mask=present[:, None, None])[present], out[present], 1e-10, "output when absent tokens change")
        alone = module(x[:1, :6])
        assert_close(out[:1, :6], alone, 1e-10, "output with padding against without")

    def test_a_sample_without_any_token_is_finite(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)
        present = torch.tensor([[True] * 5, [False] * 5])
        out = module(x, attn_mask=present[:, None, None])
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad is not None, "x gets no gradient"
        assert x.grad.isfinite().all(), "gradient of x"

    @pytest.mark.parametrize("left_out", [float("-inf"), torch.finfo(torch.float64).min, torch.finfo(torch.float32).min])
    def test_a_mask_of_keys_that_became_float_means_the_same(self, options: dict[str, Any], left_out: float) -> None:
        """0 and -inf, as PyTorch's encoder makes them of bool; here with a sample that is wholly left out."""
        module, x = self.build(**options), torch.randn(3, 9, DIM, dtype=torch.float64)
        present = torch.ones(3, 9, dtype=torch.bool)
        present[0, 6:] = present[1, ::2] = False
        if left_out == float("-inf"):
            # a lowest number that is added is no mask where it is added to all keys alike
            present[2] = False
        floats = torch.zeros(3, 9, dtype=torch.float64).masked_fill(~present, left_out)
        for call in (module, lambda x, attn_mask: module.attention_map(x, attn_mask)["combined"]):
            with_bool, with_floats = call(x, attn_mask=present[:, None, None]), call(x, attn_mask=floats[:, None, None])
            assert with_bool.isfinite().all()
            assert_close(with_floats, with_bool, 1e-12, "with a float mask")

    def test_a_mask_of_other_floats_is_added_or_refused(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        mask = torch.zeros(2, 1, 1, 9, dtype=torch.float64)
        mask[..., 3] = -1.0
        given = options | (options.get("core_options") or {})
        if not module.has_pairwise_logits and given.get("normalization", "softmax" if "efficient" in (self.name, options.get("core")) else "") != "softmax":
            for call in (module, module.attention_map):
                with pytest.raises(InputError, match="0 and -inf"):
                    call(x, attn_mask=mask)
            return
        got = module(x, attn_mask=mask)
        # what is added leaves something of the key, and takes something away
        without = torch.ones(2, 1, 1, 9, dtype=torch.bool)
        without[..., 3] = False
        assert (got - module(x)).abs().max() > 1e-6
        assert (got - module(x, attn_mask=without)).abs().max() > 1e-6

    def test_causal(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        if not self.causal:
            with pytest.raises(ValueError, match="causal"):
                module(x, is_causal=True)
            return
        out = module(x, is_causal=True)
        for n in (0, 3, 8):
            assert_close(out[:, : n + 1], module(x[:, : n + 1], is_causal=True), 1e-10, f"the first {n + 1} outputs")
        assert_close(out[:, -1], module(x)[:, -1], 1e-10, "the last token sees all")
        both = module(x, attn_mask=torch.ones(9, 9, dtype=torch.bool), is_causal=True)
        assert_close(both, out, 1e-10, "causal with a mask")

    def test_gradcheck(self, options: dict[str, Any]) -> None:
        module = self.build(**options)
        assert torch.autograd.gradcheck(module, (torch.randn(1, 4, DIM, dtype=torch.float64, requires_grad=True),))

    def test_tokens_have_no_order(self, options: dict[str, Any]) -> None:
        module, x, order = self.build(**options), torch.randn(2, 11, DIM, dtype=torch.float64), torch.randperm(11)
        assert_close(module(x[:, order]), module(x)[:, order], 1e-10, "permuted output")

    def test_samples_do_not_meet(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(3, 11, DIM, dtype=torch.float64)
        assert_close(module(x)[1:2], module(x[1:2]), 1e-10, "one sample alone")

    def test_nan_stays_in_its_sample(self, options: dict[str, Any]) -> None:
        """NaN in, NaN out, for that sample; the others do not notice."""
        module, x = self.build(**options), torch.randn(3, 9, DIM, dtype=torch.float64)
        want = module(x)
        x[1, 4] = float("nan")
        out = module(x)
        assert out[1].isnan().any()
        assert_equal(out[::2], want[::2], "samples beside one with NaN")

    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize("size", SIZES)
    def test_half_precision_is_as_near_as_that_of_softmax(self, options: dict[str, Any], size: float, dtype: torch.dtype) -> None:
        module, x = sharpened(self.build(**options), size), self.tokens(options)
        hold(errors(module, x, dtype), errors(yardstick(DIM, HEADS, size), x, dtype), self.against_softmax)

    @pytest.mark.parametrize("dtype", HALVES)
    def test_half_precision_with_absent_keys(self, options: dict[str, Any], dtype: torch.dtype) -> None:
        """One sample has none left."""
        module, x = sharpened(self.build(**options), 4.0), self.tokens(options)
        present = torch.rand(x.shape[:2]) > 0.3
        present[2] = False
        found, plain = (
            errors(module, x, dtype, lambda module, x: module(x, attn_mask=present[:, None, None])[present]) for module in (module, yardstick(DIM, HEADS, 4.0))
        )
        hold(found, plain, self.against_softmax)
        assert copy.deepcopy(module).to(dtype)(x.to(dtype), attn_mask=present[:, None, None]).isfinite().all()

    def test_autocast_is_within_a_hundredth(self, options: dict[str, Any]) -> None:
        """Or as near as softmax is, where that is farther."""
        x = self.tokens(options)
        found, allowed = of_autocast(self.build(**options), x), max(0.01, 1.5 * of_autocast(yardstick(DIM, HEADS, 1.0), x))
        assert found < allowed, f"output under autocast is off by {found:.4f} relative, allowed {allowed:.4f}"

    def test_autocast(self, options: dict[str, Any]) -> None:
        module, x = self.build(torch.float32, **options).train(), torch.randn(2, 9, DIM, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = module(x)
        out.float().sum().backward()
        assert out.isfinite().all()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())

    # -- on a device --------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("device", DEVICES)
    def test_nothing_is_read_by_the_host(self, options: dict[str, Any], device: str) -> None:
        """Each read would make it wait for the device."""
        module = self.build(torch.float32, **options).to(device).train()
        x = torch.randn(2, 9, DIM, device=device, requires_grad=True)
        mask = (torch.arange(9) < 7)[None, None, None].to(device)
        module(x)
        with no_host_reads(device):
            out = module(x).sum() + module(x, attn_mask=mask).sum()
            if self.causal:
                out = out + module(x, is_causal=True).sum()
            out.backward()

    @pytest.mark.parametrize("device", DEVICES[1:])
    def test_an_accelerator_gives_what_the_processor_gives(self, options: dict[str, Any], device: str) -> None:
        """Output and gradients, in three precisions, against float64 on the processor: within what softmax attention loses there."""
        module, x = self.build(**options), self.tokens(options)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found, plain = (errors(one, x, dtype, device=device) for one in (module, yardstick(DIM, HEADS, 1.0)))
            hold(found, plain, self.against_softmax)

    # -- looking ------------------------------------------------------------------------------------------------------------------------------

    def test_maps(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        maps = module.attention_map(x)
        assert maps["combined"].shape == (2, module.num_heads, 9, 9)
        for name, value in maps.items():
            assert value.shape[:3] == (2, module.num_heads, 9), name
            if name != "combined" or "negative" not in maps:
                assert (value >= 0).all(), name
                if name == "combined" or not {"normalization", "eps"} & options.keys():
                    assert_close(value.sum(-1), torch.ones(2, module.num_heads, 9), 1e-10, f"rows of {name}")

    def test_maps_leave_absent_keys_out(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(1, 9, DIM, dtype=torch.float64)
        present = torch.arange(9)[None] < 6
        for name, value in module.attention_map(x, attn_mask=present[:, None, None]).items():
            if value.shape[-1] == 9:
                assert_equal(value[..., :6, 6:], torch.zeros_like(value[..., :6, 6:]), f"what {name} gives absent keys")

    # -- cost -----------------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("num_tokens", [1, 50])
    def test_analytic_cost_is_the_counted_cost(self, options: dict[str, Any], num_tokens: int) -> None:
        # on the meta device, where the fused kernel is counted; on the CPU the counter says 0 for it
        module = create_attention(self.name, DIM, HEADS, device="meta", **options).eval()
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, num_tokens, DIM, device="meta"))
        cost = module.cost(num_tokens)
        counted = counter.get_total_flops() // 2
        assert cost.macs == counted, f"macs({num_tokens}) says {cost.macs} multiply-adds, counted are {counted}"
        assert cost.parameters == sum(p.numel() for p in module.parameters())

    # -- a good citizen --------------------------------------------------------------------------------------------------------------------------

    def test_dropout_only_in_training(self, options: dict[str, Any]) -> None:
        module, x = self.build(attn_drop=0.5, proj_drop=0.5, **options), torch.randn(2, 9, DIM, dtype=torch.float64)
        assert_equal(module(x), self.build(**options)(x), "output in evaluation, with dropout and without")
        assert not torch.equal(module.train()(x), module(x))

    def test_attention_dropout_keeps_the_mean(self, options: dict[str, Any]) -> None:
        module, x = self.build(attn_drop=0.3, **options), torch.randn(1, 5, DIM, dtype=torch.float64)
        want = module(x)
        got = module.train()(x.expand(20000, -1, -1)).mean(0, keepdim=True)
        assert_close(got, want, 0.05, "mean output under dropout")

    def test_seed_decides(self, options: dict[str, Any]) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(7)
            states.append(create_attention(self.name, DIM, HEADS, **options).state_dict())
        assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))

    def test_state_dict_round_trip(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        other = create_attention(self.name, DIM, HEADS, qkv_bias=True, **options).double().eval()
        other.load_state_dict(module.state_dict())
        assert_equal(other(x), module(x), "output after loading a state dict")

    def test_copy_and_pickle(self, options: dict[str, Any]) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        assert_equal(copy.deepcopy(module)(x), module(x), "output of a copy")
        assert_equal(pickle.loads(pickle.dumps(module))(x), module(x), "output of a pickled one")

    def test_meta_device(self, options: dict[str, Any]) -> None:
        module = create_attention(self.name, DIM, HEADS, device="meta", **options)
        assert all(p.is_meta for p in module.parameters())
        assert not list(module.buffers())
        # whoever fills a meta module calls reset_parameters on every part that has it
        module.to_empty(device="cpu")
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()  # type: ignore[operator]
        assert all(p.isfinite().all() for p in module.parameters())

    def test_config_round_trip(self, options: dict[str, Any]) -> None:
        config = attention_class(self.name).Config(**options)
        assert AttentionConfig.from_json(config.to_json()) == config
        assert config_from_dict({"attention": self.name, **options}) == config
        module = config.build(DIM, HEADS)
        assert type(module) is attention_class(self.name)
        bound = config.layer()(DIM, num_heads=HEADS)
        assert type(bound) is type(module)
        assert {k: v.shape for k, v in bound.state_dict().items()} == {k: v.shape for k, v in module.state_dict().items()}
        pickle.loads(pickle.dumps(bound))

    def test_undecayed_parameters_exist(self, options: dict[str, Any]) -> None:
        module = self.build(**options)
        assert module.no_weight_decay() <= {name for name, _ in module.named_parameters()}

    @pytest.mark.parametrize("train", [False, True])
    def test_compiles_without_a_graph_break(self, options: dict[str, Any], train: bool) -> None:
        module, x = self.build(torch.float32, **options).train(train), torch.randn(2, 9, DIM)
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert_close(compiled(x), module(x), 1e-5, "compiled output")
        with torch.no_grad():
            assert_close(compiled(x), module(x), 1e-5, "compiled output without gradients")

    def test_exports_with_a_dynamic_batch(self, options: dict[str, Any]) -> None:
        module, x = self.build(torch.float32, **options), torch.randn(2, 9, DIM)
        program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}})
        for batch in (1, 5):
            x = torch.randn(batch, 9, DIM)
            assert_close(program.module()(x), module(x), 1e-5, "exported output")

    def test_lives_in_a_timm_vision_transformer(self, options: dict[str, Any]) -> None:
        timm = pytest.importorskip("timm")
        layer = attention_class(self.name).Config(**options).layer()
        model = timm.create_model("test_vit", attn_layer=layer, num_classes=5).eval()
        assert all(type(block.attn) is attention_class(self.name) for block in model.blocks)
        assert model(torch.randn(1, 3, 160, 160)).shape == (1, 5)

    # -- bad input -----------------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("x", "attn_mask", "says"),
        [
            (torch.randn(2, 9, DIM + 1), None, "C=24"),
            (torch.randn(9, DIM), None, r"\(B, N, C\)"),
            (torch.randn(2, 9, DIM), [True] * 9, "attn_mask to be a tensor"),
            (torch.randint(0, 9, (2, 9, DIM)), None, "floating point"),
            (torch.randn(2, 9, DIM), torch.ones(2, 1, 1, 8, dtype=torch.bool), "attn_mask"),
            (torch.randn(2, 9, DIM), torch.ones(2, 9, dtype=torch.bool), "attn_mask"),
            (torch.randn(2, 9, DIM), torch.ones(3, 1, 1, 9, dtype=torch.bool), "attn_mask"),
            (torch.randn(2, 9, DIM), torch.ones(2, 1, 1, 9, dtype=torch.long), "attn_mask"),
        ],
    )
    def test_bad_input_is_explained(self, x: Tensor, attn_mask: Any, says: str) -> None:
        for call in (self.build(torch.float32), self.build(torch.float32).attention_map):
            with pytest.raises(ValueError, match=says):
                call(x, attn_mask=attn_mask)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_another_precision_is_explained(self, dtype: torch.dtype) -> None:
        """Nothing is converted in silence. Autocast, which converts by consent, is tested above."""
        for call in (self.build(torch.float32), self.build(torch.float32).attention_map):
            with pytest.raises(ValueError, match=rf"torch\.float32, got {dtype}; .*\.to\("):
                call(torch.randn(2, 9, DIM, dtype=dtype))

    def test_bad_construction_is_explained(self) -> None:
        with pytest.raises(ValueError, match="try num_heads=4"):
            create_attention(self.name, 24, 5)
        with pytest.raises(ValueError, match="at least 1"):
            create_attention(self.name, 24, 0)

    def test_empty_batch(self, options: dict[str, Any]) -> None:
        assert self.build(torch.float32, **options)(torch.randn(0, 9, DIM)).shape == (0, 9, DIM)


def assert_close(got: Tensor, want: Tensor, tolerance: float, what: str, floor: float = 0.0) -> None:
    """Largest difference, relative to the largest wanted value, or to ``floor`` where that is larger; says where it is."""
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} instead of {tuple(want.shape)}"
    apart, size = (got.double() - want.double()).abs(), max(want.double().abs().max().item(), floor, 1e-12)
    error = apart.max().item()
    assert error < tolerance * size, f"{what}: off by {error / size:.2e} relative, allowed {tolerance:.0e}; {_where(apart, got, want)}"


def assert_equal(got: Tensor, want: Tensor, what: str) -> None:
    """To the last bit; says where it is not."""
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} instead of {tuple(want.shape)}"
    apart = (got.double() - want.double()).abs()
    assert torch.equal(got, want), f"{what}: {int((got != want).sum())} of {got.numel()} numbers differ; {_where(apart, got, want)}"


def _where(apart: Tensor, got: Tensor, want: Tensor) -> str:
    """The largest difference; NaN counts as the largest."""
    place = tuple(int(index) for index in torch.unravel_index(apart.nan_to_num(nan=float("inf")).argmax(), apart.shape))
    return f"largest at {place}: {got[place].item():.9g} instead of {want[place].item():.9g}, {apart[place].item():.2e} apart"
