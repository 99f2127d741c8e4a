"""Halo attention through ``flex_attention``.

These tests need no GPU: PyTorch's plain form stands for the kernel, and where gradients are not wanted the kernel of the CPU.
"""

import shutil
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

import foveal
from foveal import HaloAttention, HaloAttention2d
from foveal.attention._halo_timm import halo_as_timm
from foveal.functional import _halo_flex, halo_attention, halo_attention_reference
from foveal.functional._halo_blocks import cut_axis
from tests.attention import test_halo
from tests.attention.contract import DIM, HEADS, assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    # the compiler looks at it, and hides the warning where warnings are no errors
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture
def gradients_on_the_cpu(monkeypatch) -> None:
    """PyTorch's plain form has them, behind a check that has not."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(_halo_flex, "_check", lambda *given: None)


@pytest.fixture
def kernel(monkeypatch) -> Iterator[None]:
    """What runs on a GPU runs on the CPU."""

    def attend(q, k, v, score_mod, tiles, scale):
        with torch._dynamo.config.patch(recompile_limit=_halo_flex._PROGRAMS):
            return _halo_flex._fused()(q, k, v, score_mod=score_mod, block_mask=tiles, scale=scale)

    monkeypatch.setattr(_halo_flex, "_attend", attend)
    torch._dynamo.reset()
    _halo_flex._fused.cache_clear()
    yield
    _halo_flex._fused.cache_clear()


@pytest.mark.usefixtures("gradients_on_the_cpu")
class TestGradients:
    # height, width, block, halo, stride, global keys, mask_border
    @pytest.mark.parametrize(
        ("geometry", "mask"),
        [((5, 7, 4, 2, 2, 0, True), True), ((9, 6, 4, 0, 2, 2, True), False), ((3, 3, 8, 3, 1, 2, True), False), ((7, 5, 4, 1, 1, 2, False), True)],
    )
    def test_output_and_gradients_equal_the_reference(self, geometry, mask) -> None:
        tensors, options = test_halo.TestHaloCore.inputs(geometry, mask=mask)
        options |= {"scale": 0.7, "scale_rel": mask}
        want, got = halo_attention_reference(**tensors, **options), halo_attention(**tensors, **options, path="flex")
        assert_close(got, want, 1e-10, "output")
        cotangent = torch.randn_like(want)
        want_grads, grads = (torch.autograd.grad(out, tuple(tensors.values()), cotangent, materialize_grads=True) for out in (want, got))
        for name, ours, theirs in zip(tensors, grads, want_grads, strict=True):
            assert_close(ours, theirs, 1e-10, f"gradient of {name}", floor=1.0)

    def test_places_found_in_inference_serve_in_training(self) -> None:
        tensors, options = test_halo.TestHaloCore.inputs((5, 7, 4, 2, 2, 0, True))
        _halo_flex._kept_places.cache_clear()
        with torch.inference_mode():
            halo_attention(**tensors, **options, path="flex")
        halo_attention(**tensors, **options, path="flex").sum().backward()
        assert _halo_flex._kept_places.cache_info().hits == 1
        assert all(tensor.grad is not None for tensor in tensors.values())


class TestTiles:
    # blocks, queries a block, keys a window, keys that all see
    @pytest.mark.parametrize(
        "sizes", [(1, 4, 16, 0), (9, 64, 196, 0), (9, 64, 196, 5), (40, 16, 196, 1), (30, 49, 121, 300), (3, 400, 484, 0), (500, 1, 25, 2)]
    )
    def test_they_are_those_of_all_pairs(self, sizes) -> None:
        num_blocks, num_queries, num_keys, num_global = sizes

        def sees(b, h, query, key):
            return (query // num_queries == key // num_keys) | (key >= num_blocks * num_keys)

        num_l, num_s = num_blocks * num_queries, num_blocks * num_keys + num_global
        want = torch_flex.create_block_mask(sees, None, None, num_l, num_s, device="cpu", separate_full_blocks=False)
        got = _halo_flex._tiles(*sizes, torch.device("cpu"))
        assert got.shape == want.shape
        for name in ("kv_num_blocks", "q_num_blocks"):
            assert torch.equal(getattr(got, name), getattr(want, name)), name
        assert torch.equal(got.to_dense(), want.to_dense())

    def test_border_and_mask_are_left_to_the_owners(self) -> None:
        """A key is seen by the one block in whose window it lies, if it lies on the map and is not masked."""
        rows, columns = (cut_axis(size, 4, 2, 1, True, 1, 11) for size in (7, 9))
        mask = torch.rand(2, 3 + 63) > 0.5
        places = _halo_flex._places(rows, columns, 3, torch.device("cpu"))
        owners = _halo_flex._owners(places.owner, mask, 3, rows, columns)
        for b, block, y, x in [(b, n, y, x) for b in range(2) for n in range(6) for y in range(8) for x in range(8)]:
            at = block * 64 + y * 8 + x
            row, column = block // 3 * 4 - 2 + y, block % 3 * 4 - 2 + x
            seen = 0 <= row < 7 and 0 <= column < 9 and mask[b, 3 + row * 9 + column]
            assert owners[b, at] == (block if seen else -2)
            assert (places.y[at], places.x[at]) == (y, x)
        assert torch.equal(owners[:, 6 * 64 :] == -1, mask[:, :3])
        assert places.y[-3:].tolist() == places.x[-3:].tolist() == [8] * 3, "keys without a place read behind the window"


class TestLayers:
    @pytest.mark.parametrize(
        "options", [{"num_prefix_tokens": 0}, {"num_prefix_tokens": 5, "attn_head_dim": 5}, {"grid_size": (1, 8), "scale_pos_embed": True}]
    )
    def test_tokens(self, options) -> None:
        auto, flex = (HaloAttention.Config(**test_halo.SMALL, **options, path=path).build(DIM, num_heads=HEADS).double().eval() for path in ("auto", "flex"))
        flex.load_state_dict(auto.state_dict())
        x, present = torch.randn(2, 9, DIM, dtype=torch.float64), torch.rand(2, 1, 1, 9) > 0.3
        with torch.no_grad():
            for mask in (None, present):
                assert_close(flex(x, attn_mask=mask), auto(x, attn_mask=mask), 1e-10, "output")

    @pytest.mark.parametrize("build", [HaloAttention2d, halo_as_timm])
    def test_maps(self, build) -> None:
        auto, flex = (build(DIM, num_heads=HEADS, stride=2, block_size=4, halo_size=3, path=path).double().eval() for path in ("auto", "flex"))
        flex.load_state_dict(auto.state_dict())
        x = torch.randn(2, DIM, 9, 5, dtype=torch.float64)
        with torch.no_grad():
            assert_close(flex(x), auto(x), 1e-10, "output")

    def test_as_a_core_of_denoising(self) -> None:
        auto, flex = (foveal.DenoisingAttention(DIM, HEADS, core="halo", core_options={"path": path, **test_halo.SMALL}) for path in ("auto", "flex"))
        auto, flex = auto.double().eval(), flex.double().eval()
        flex.load_state_dict(auto.state_dict())
        x = torch.randn(2, 10, DIM, dtype=torch.float64)
        with torch.no_grad():
            assert_close(flex(x), auto(x), 1e-10, "output")

    @pytest.mark.slow
    def test_a_compiled_layer(self) -> None:
        module, x = HaloAttention2d(DIM, num_heads=HEADS, block_size=4, halo_size=2, path="flex").eval(), torch.randn(2, DIM, 13, 6)
        torch._dynamo.reset()
        with torch.no_grad():
            assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x), 1e-5, "compiled output")

    def test_large_logits_in_half_precision(self) -> None:
        tensors, options = test_halo.TestHaloCore.inputs((5, 7, 4, 2, 1, 0, True), torch.float16)
        tensors = {name: 60 * tensor.detach() for name, tensor in tensors.items()} | {"rel_height": 3e4 * torch.ones_like(tensors["rel_height"])}
        assert halo_attention(**tensors, **options, path="flex").isfinite().all()

    def test_it_is_never_chosen(self, monkeypatch) -> None:
        monkeypatch.setitem(foveal.functional.halo._PATHS, "flex", lambda *args: pytest.fail("flex was not asked for"))
        with torch.no_grad():
            HaloAttention2d(8, num_heads=1, block_size=4, halo_size=2)(torch.randn(1, 8, 64, 64))

    @pytest.mark.parametrize("build", [HaloAttention, HaloAttention2d, halo_as_timm])
    def test_unknown_paths_are_explained(self, build) -> None:
        with pytest.raises(ValueError, match="did you mean flex"):
            build(DIM, num_heads=HEADS, path="flexx")

    def test_what_it_cannot_is_explained(self) -> None:
        x = torch.randn(1, DIM, 8, 8)
        with pytest.raises(ValueError, match='no gradients on the CPU; use path="auto"'):
            HaloAttention2d(DIM, num_heads=HEADS, path="flex")(x)
        with pytest.raises(ValueError, match="meta device"):
            HaloAttention2d(DIM, num_heads=HEADS, path="flex", device="meta")(x.to("meta"))
        with pytest.raises(ValueError, match="no dropout on the map"):
            HaloAttention(DIM, HEADS, attn_drop=0.5, num_prefix_tokens=0, path="flex")(torch.randn(1, 16, DIM))
        with pytest.raises(ValueError, match="no kernel for float64"):
            _halo_flex._check("cuda", torch.float64, False)
        _halo_flex._check("cuda", torch.bfloat16, True)


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
@pytest.mark.skipif(shutil.which("g++") is None, reason="the kernel of the CPU needs a compiler")
class TestKernel:
    """Unlike the plain form it leaves out tiles, and so shows that none is missing."""

    @pytest.mark.parametrize(("geometry", "mask"), [((30, 41, 7, 2, 1, 3, True), True), ((40, 33, 8, 3, 2, 0, False), False)])
    def test_it_computes_the_same(self, geometry, mask) -> None:
        tensors, options = test_halo.TestHaloCore.inputs(geometry, torch.float32, mask=mask)
        with torch.no_grad():
            assert_close(halo_attention(**tensors, **options, path="flex"), halo_attention(**tensors, **options, path="explicit"), 1e-5, "output")

    def test_a_network_has_more_sizes_than_are_compiled_by_default(self, monkeypatch) -> None:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        with torch.no_grad():
            for height in range(4, 44, 4):
                tensors, options = test_halo.TestHaloCore.inputs((height, 4, 4, 1, 1, 0, True), torch.float32)
                got = halo_attention(**tensors, **options, path="flex")
                assert_close(got, halo_attention(**tensors, **options, path="explicit"), 1e-5, f"output of {height} rows")
