"""What every attention on feature maps must do. A block inherits this class and says its own: name, a slow oracle, and how its map gives its output."""

import copy
import pickle
from dataclasses import fields
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import foveal
from foveal.attention import AttentionConfig, attention_class, config_from_dict
from foveal.testing import no_host_reads
from foveal.testing._contract import DEVICES
from foveal.testing._half import HALVES, errors, hold, of_autocast, sharpened, yardstick
from foveal.testing._half import SIZES as LENGTHS
from tests.attention.contract import assert_close

SIZES = [(1, 1), (1, 5), (6, 1), (5, 7)]


class MapContract:
    name: ClassVar[str]
    variants: ClassVar[list[dict[str, Any]]] = [{}]
    common: ClassVar[dict[str, Any]] = {}
    """Options of all variants."""
    channels: ClassVar[int] = 12
    masks: ClassVar[bool] = False

    def oracle(self, module: Any, x: Tensor, present: Tensor) -> Tensor:
        """The paper's formula from the module's weights, in the dtype of ``x``. ``present`` is (B, H, W), bool; all True where a block takes no mask."""
        raise NotImplementedError

    def from_map(self, module: Any, x: Tensor, maps: dict[str, Tensor]) -> Tensor:
        """The output, from what ``attention_map`` gave and from the values."""
        raise NotImplementedError

    def rows_sum_to_one(self, options: dict[str, Any]) -> bool:
        return True

    def make(self, **options: Any) -> Any:
        return foveal.create_attention(self.name, self.channels, **self.common | options)

    def build(self, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
        torch.manual_seed(1)
        module = self.make(**options)
        with torch.no_grad():
            # gates that start at 0 would hide the attention behind them
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.add_(0.3 * torch.rand_like(buffer))
        return module.to(dtype).eval()

    def draw(self, *size: int, batch: int = 2, dtype: torch.dtype = torch.float64, **options: Any) -> Tensor:
        return torch.randn(batch, self.channels, *size, dtype=dtype, **options)

    @staticmethod
    def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
        if "options" in metafunc.fixturenames:
            variants = metafunc.cls.variants
            metafunc.parametrize("options", variants, ids=[",".join(f"{k}={v}" for k, v in variant.items()) or "default" for variant in variants])

    # -- the mathematics --------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", SIZES)
    def test_output_and_gradients_equal_the_oracle(self, options, size) -> None:
        single = self.build(torch.float32, **options)
        slow, x = copy.deepcopy(single).double(), self.draw(*size, dtype=torch.float32)
        slow_x = x.double().requires_grad_()
        want = self.oracle(slow, slow_x, torch.ones(2, *size, dtype=torch.bool))
        cotangent = torch.randn_like(want)
        want_grads = gradients(slow, slow_x, want, cotangent)
        largest = max(grad.abs().max().item() for grad in want_grads.values())
        for module, tolerance in ((copy.deepcopy(slow), 1e-10), (single, 1e-5)):
            dtype = next(module.parameters()).dtype
            fast_x = x.to(dtype).requires_grad_()
            got = module(fast_x)
            assert got.dtype == dtype
            assert_close(got, want, tolerance, f"output in {dtype}")
            for name, grad in gradients(module, fast_x, got, cotangent.to(dtype)).items():
                assert_close(grad, want_grads[name], tolerance, f"gradient of {name} in {dtype}", floor=0.1 * largest)

    @pytest.mark.parametrize("size", [*SIZES, (16, 16), (3, 18)])
    def test_channels_last_stays_so(self, options, size) -> None:
        module, x = self.build(**options), self.draw(*size)
        out, last = module(x), module(x.to(memory_format=torch.channels_last))
        assert_close(last, out, 1e-10, "channels-last output")
        assert last.is_contiguous(memory_format=torch.channels_last)

    def test_strides_do_not_matter(self, options) -> None:
        """A crop, and a map with height and width exchanged, are read as what they are."""
        module, x = self.build(**options), self.draw(9, 8)
        for view in (x[..., 1:6, 2:], x.mT):
            assert_close(module(view), module(view.contiguous()), 1e-10, "output of a view")

    def test_gradcheck(self, options) -> None:
        assert torch.autograd.gradcheck(self.build(**options), (self.draw(2, 3, batch=1, requires_grad=True),))

    def test_samples_do_not_meet(self, options) -> None:
        module, x = self.build(**options), self.draw(5, 7, batch=3)
        assert_close(module(x)[1:2], module(x[1:2]), 1e-10, "one sample alone")

    def test_nan_stays_in_its_sample(self, options) -> None:
        """NaN in, NaN out, for that sample; the others do not notice."""
        module, x = self.build(**options), self.draw(5, 7, batch=3)
        want = module(x)
        x[1, :, 2, 4] = float("nan")
        out = module(x)
        assert out[1].isnan().any()
        assert torch.equal(out[::2], want[::2])

    @pytest.mark.case("R1")
    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize("size", LENGTHS)
    def test_half_precision_is_as_near_as_that_of_softmax(self, options, size, dtype) -> None:
        module, x = sharpened(self.build(**options), size), self.draw(11, 9, batch=10)
        hold(errors(module, x, dtype), errors(yardstick(self.channels, 1, size), x, dtype))

    @pytest.mark.case("R1")
    def test_autocast_is_within_a_hundredth(self, options) -> None:
        assert of_autocast(self.build(**options), self.draw(11, 9)) < 0.01

    def test_autocast(self, options) -> None:
        module, x = self.build(torch.float32, **options).train(), self.draw(5, 7, dtype=torch.float32, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = module(x)
        out.float().sum().backward()
        assert out.isfinite().all()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())

    # -- on a device --------------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("device", DEVICES)
    def test_nothing_is_read_by_the_host(self, options, device) -> None:
        module, x = self.build(torch.float32, **options).to(device).train(), self.draw(16, 8, dtype=torch.float32, device=device, requires_grad=True)
        module(x)
        with no_host_reads(device):
            module(x).sum().backward()

    @pytest.mark.parametrize("device", DEVICES[1:])
    def test_an_accelerator_gives_what_the_processor_gives(self, options, device) -> None:
        module, x = self.build(**options), self.draw(11, 9, batch=10)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            hold(errors(module, x, dtype, device=device), errors(yardstick(self.channels, 1, 1.0), x, dtype, device=device))

    # -- looking ----------------------------------------------------------------------------------------------------------------------------------

    def test_the_map_gives_the_output(self, options) -> None:
        module, x = self.build(**options), self.draw(5, 7)
        for mask in (None, torch.rand(2, 5, 7) > 0.3) if self.masks else (None,):
            given = {} if mask is None else {"mask": mask}
            maps = module.attention_map(x, **given)
            assert_close(self.from_map(module, x, maps), module(x, **given), 1e-10, "output from the map")
            if self.rows_sum_to_one(options):
                assert (maps["combined"] >= 0).all()
                assert_close(maps["combined"].sum(-1), torch.ones(maps["combined"].shape[:-1]), 1e-10, "rows")
            if mask is not None:
                assert (maps["combined"].movedim(-1, 1)[~mask.flatten(1)] == 0).all()

    # -- cost -------------------------------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [(1, 1), (7, 10), (32, 32)])
    def test_analytic_cost_is_the_counted_cost(self, options, size) -> None:
        module = self.make(device="meta", **options).eval()
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, self.channels, *size, device="meta"))
        cost = module.cost(*size)
        assert cost.macs == counter.get_total_flops() // 2
        assert cost.parameters == sum(p.numel() for p in module.parameters())

    # -- a good citizen ---------------------------------------------------------------------------------------------------------------------------

    def test_nothing_is_drawn_in_training(self, options) -> None:
        """These blocks have no dropout."""
        module, x = self.build(**options).train(), self.draw(5, 7)
        assert torch.equal(module(x), module(x))

    def test_seed_decides(self, options) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(7)
            states.append(self.make(**options).state_dict())
        assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))

    def test_state_dict_copy_and_pickle(self, options) -> None:
        module, x = self.build(**options), self.draw(5, 7)
        other = self.make(**options).double().eval()
        other.load_state_dict(module.state_dict())
        for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(same(x), module(x))

    def test_meta_device(self, options) -> None:
        module = self.make(device="meta", **options)
        assert all(value.is_meta for value in module.state_dict().values())
        # whoever fills a meta module calls reset_parameters on every part that has it
        module.to_empty(device="cpu")
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        assert all(value.isfinite().all() for value in module.state_dict().values())

    def test_config_round_trip(self, options) -> None:
        cls = attention_class(self.name)
        options = self.common | options
        own = {key: value for key, value in options.items() if key in {field.name for field in fields(cls.Config)}}
        config = cls.Config(**own)
        assert AttentionConfig.from_json(config.to_json()) == config
        assert config_from_dict({"attention": self.name, **own}) == config
        module = config.build(self.channels, **{key: value for key, value in options.items() if key not in own})
        assert type(module) is cls
        assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in self.make(**options).state_dict().items()}

    def test_it_is_registered(self) -> None:
        cls = attention_class(self.name)
        assert self.name in foveal.list_attentions(form="2d", family=cls.family)

    def test_undecayed_parameters_exist(self, options) -> None:
        module = self.build(**options)
        assert module.no_weight_decay() <= {name for name, _ in module.named_parameters()}

    def test_compiles_without_a_graph_break(self, options) -> None:
        module, x = self.build(torch.float32, **options), self.draw(5, 7, dtype=torch.float32, requires_grad=True)
        torch._dynamo.reset()
        got, want = torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x)
        assert_close(got, want, 1e-5, "compiled output")
        cotangent = torch.randn_like(want)
        want_grads = gradients(module, x, want, cotangent)
        largest = max(grad.abs().max().item() for grad in want_grads.values())
        for name, grad in gradients(module, x, got, cotangent).items():
            assert_close(grad, want_grads[name], 1e-5, f"compiled gradient of {name}", floor=0.1 * largest)

    def test_exports_with_a_dynamic_batch(self, options) -> None:
        module, x = self.build(torch.float32, **options), self.draw(5, 7, dtype=torch.float32)
        program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}})
        for batch in (1, 5):
            x = self.draw(5, 7, batch=batch, dtype=torch.float32)
            assert_close(program.module()(x), module(x), 1e-5, "exported output")

    def test_exports_with_any_size(self) -> None:
        module, x = self.build(torch.float32, **self.variants[0]), self.draw(5, 6, dtype=torch.float32)
        batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in ("batch", "height", "width"))
        shapes, given = {"x": {0: batch, 2: height, 3: width}}, {}
        if self.masks:
            shapes["mask"], given = {0: batch, 1: height, 2: width}, {"mask": torch.rand(2, 5, 6) > 0.3}
        program = torch.export.export(module, (x,), given, dynamic_shapes=shapes)
        for size in ((2, 5, 6), (1, 7, 3), (3, 1, 4)):
            x = self.draw(*size[1:], batch=size[0], dtype=torch.float32)
            given = {"mask": torch.rand(size) > 0.3} if self.masks else {}
            assert_close(program.module()(x, **given), module(x, **given), 1e-5, "exported output")

    # -- bad input --------------------------------------------------------------------------------------------------------------------------------

    def test_bad_input_is_explained(self) -> None:
        module = self.build(torch.float32)
        for shape in ((2, self.channels + 1, 5, 5), (self.channels, 5, 5), (2, 5, 5, self.channels)):
            with pytest.raises(ValueError, match=rf"\(B, C, H, W\) with C={self.channels} "):
                module(torch.randn(shape))
        with pytest.raises(ValueError, match=r"floating point, got .* of torch\.int64"):
            module(torch.randint(0, 9, (2, self.channels, 5, 5)))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_another_precision_is_explained(self, dtype) -> None:
        """Nothing is converted in silence. Autocast, which converts by consent, is tested above."""
        module = self.build(torch.float32)
        for call in (module, module.attention_map):
            with pytest.raises(ValueError, match=rf"torch\.float32, got {dtype}; .*\.to\("):
                call(self.draw(5, 7, dtype=dtype))

    @pytest.mark.parametrize("size", [(0, 7), (5, 0)])
    def test_maps_without_a_pixel_are_explained(self, size) -> None:
        module = self.build(torch.float32)
        for call in (module, module.attention_map):
            with pytest.raises(ValueError, match="at least one pixel"):
                call(self.draw(*size, dtype=torch.float32))

    def test_what_overflows_in_half_precision_is_no_nan(self, options) -> None:
        """Large, finite, and so are the products of two: their sum is beyond float16."""
        module = self.build(torch.float32, **options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.clamp_(-0.5, 0.5)
        out = module.half()(torch.full_like(self.draw(5, 7), 500).half() * self.draw(5, 7).sign().half())
        assert not out.isnan().any()

    def test_empty_batch(self, options) -> None:
        module = self.build(**options)
        assert module(self.draw(5, 7, batch=0)).shape == (0, *module(self.draw(5, 7)).shape[1:])


class MaskedMapContract(MapContract):
    """For those whose ``forward`` takes a mask of pixels, (B, H, W), True where a pixel takes part."""

    masks = True

    def seen(self, module: Any, present: Tensor) -> Tensor:
        """Where an output is made of present pixels alone: there what absent ones hold cannot matter."""
        return present

    def test_absent_pixels_get_no_weight(self, options) -> None:
        module, x = self.build(**options), self.draw(5, 7)
        present = torch.rand(2, 5, 7) > 0.3
        out, seen = module(x, mask=present), self.seen(module, present)
        assert_close(out, self.oracle(module, x, present), 1e-10, "masked output")
        noisy = torch.where(present[:, None], x, 1e3 * torch.randn_like(x))
        assert_close(pixels(module(noisy, mask=present), seen), pixels(out, seen), 1e-10, "output when absent pixels change")
        assert_close(module(x, mask=torch.ones_like(present)), module(x), 1e-10, "output when nothing is absent")

    def test_a_padded_map_with_a_mask_is_the_map(self, options) -> None:
        module, x = self.build(**options), self.draw(4, 6)
        padded, present = 100 * self.draw(7, 7), torch.zeros(2, 7, 7, dtype=torch.bool)
        padded[..., :4, :6], present[:, :4, :6] = x, True
        want = module(x)
        assert_close(module(padded, mask=present)[..., : want.shape[2], : want.shape[3]], want, 1e-10, "output of the padded map")

    def test_a_sample_without_any_pixel_is_finite(self, options) -> None:
        module, x = self.build(**options), self.draw(5, 7, requires_grad=True)
        out = module(x, mask=torch.tensor([True, False])[:, None, None].expand(2, 5, 7))
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()

    def test_bad_masks_are_explained(self) -> None:
        module, x = self.build(torch.float32), self.draw(5, 4, dtype=torch.float32)
        masks = [torch.ones(shape, dtype=torch.bool) for shape in ((2, 4, 5), (2, 1, 5, 4), (1, 5, 4), (5, 4), (2, 20))]
        for mask in (*masks, torch.ones(2, 5, 4), torch.ones(2, 5, 4, dtype=torch.long)):
            for call in (module, module.attention_map):
                with pytest.raises(ValueError, match=r"bool mask .*= \(2, 5, 4\), got"):
                    call(x, mask=mask)


class HeadsMapContract(MaskedMapContract):
    """Of a block whose projection ``qkv`` is divided among heads: the oracle is one head's formula, and what stands behind the heads."""

    def one_head(self, module: Any, q: Tensor, k: Tensor, v: Tensor, here: Tensor) -> Tensor:
        """What one head mixes of one sample's pixels, (N, D). ``here`` is (N), bool."""
        raise NotImplementedError

    def behind(self, module: Any, x: Tensor, mixed: Tensor) -> Tensor:
        """The output, from the input and what all heads mixed, (B, value_channels, H, W)."""
        raise NotImplementedError

    def oracle(self, module, x, present):
        parts = module.qkv(x).flatten(2).mT.split((module.key_channels, module.key_channels, module.value_channels), -1)
        rows = []
        for *sample, here in zip(*parts, present.flatten(1), strict=True):
            by_head = zip(*(part.chunk(module.num_heads, -1) for part in sample), strict=True)
            rows.append(torch.cat([self.one_head(module, q, k, v, here) for q, k, v in by_head], -1))
        return self.behind(module, x, torch.stack(rows).mT.unflatten(-1, x.shape[2:]))

    def from_map(self, module, x, maps):
        v = module.qkv(x)[:, -module.value_channels :].flatten(2).mT.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        return self.behind(module, x, (maps["combined"] @ v).transpose(1, 2).flatten(2).mT.unflatten(-1, x.shape[2:]))


def gradients(module: nn.Module, x: Tensor, out: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Of the input and of every parameter; one that the output does not depend on is an error."""
    inputs = {"x": x, **dict(module.named_parameters())}
    return dict(zip(inputs, torch.autograd.grad(out, tuple(inputs.values()), cotangent), strict=True))


def pixels(out: Tensor, where: Tensor) -> Tensor:
    """The pixels of ``(B, C, H, W)`` that ``where``, (B, H, W), points at, as rows."""
    return out.movedim(1, -1)[where]
