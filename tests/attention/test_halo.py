import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import foveal
from foveal import HaloAttention, HaloAttention2d, official
from foveal.functional import halo, halo_attention, halo_attention_map, halo_attention_reference
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.maps_contract import MaskedMapContract
from tests.attention.test_softmax import heads

SMALL = {"block_size": 2, "halo_size": 1}


class GridContract(AttentionContract):
    """The contract for attentions whose tokens lie on a grid. On 9 tokens all variants have one: 3×3, 2×2 behind five, 1×8 behind one."""

    causal = False

    def place(self, options) -> dict:
        """The options of the halo core among those of the attention."""
        return options

    def moved(self, options) -> dict:
        """The options with those of the host left out."""
        return {key: value for key, value in options.items() if key not in ("num_prefix_tokens", "grid_size")}

    def fit(self, options, side: int) -> int:
        """A number of tokens that is a grid, of ``side`` × ``side`` where the variant does not fix it."""
        place = self.place(options)
        rows, columns = place.get("grid_size") or (side, side)
        return place["num_prefix_tokens"] + rows * columns

    def many(self, options) -> int:
        return self.fit(options, 10)

    # -- tests of the contract whose numbers of tokens make no grid: the same test with numbers that do -----------------------------------------

    @pytest.mark.parametrize("num_tokens", [1, 2, 5, 7])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_output_and_gradients_equal_the_oracle(self, options, num_tokens, dtype) -> None:
        """Here ``num_tokens`` is the side of the grid: 2, 7 and 50 tokens are no square."""
        super().test_output_and_gradients_equal_the_oracle(options, self.fit(options, num_tokens), dtype)

    def test_inference_equals_training_mode_mathematics(self, options) -> None:
        """640 tokens are no square."""
        module = foveal.create_attention(self.name, 192, 6, **options).eval()
        x = torch.randn(4, self.fit(options, 25), 192)
        with torch.no_grad():
            fast = module(x)
        assert_close(fast, module(x), 1e-5, "output without gradients")

    def test_absent_keys_get_no_weight(self, options) -> None:
        """The last clause of the contract cannot hold: without its padding a sample has another grid. Cut between rows of the grid it does, see below."""
        module, x = self.build(**options), torch.randn(3, 9, DIM, dtype=torch.float64)
        present = torch.ones(3, 9, dtype=torch.bool)
        present[0, 6:] = present[1, ::2] = False
        out = module(x, attn_mask=present[:, None, None])
        assert_close(out[present], self.oracle(module, x, present)[present], 1e-10, "masked output")
        noisy = torch.where(present[..., None], x, 1e3 * torch.randn_like(x))
        assert_close(module(noisy, attn_mask=present[:, None, None])[present], out[present], 1e-10, "output when absent tokens change")

    def test_a_sample_without_any_token_is_finite(self, options) -> None:
        """5 tokens are no grid."""
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64, requires_grad=True)
        present = torch.tensor([[True] * 9, [False] * 9])
        out = module(x, attn_mask=present[:, None, None])
        out.sum().backward()
        assert x.grad.isfinite().all()
        assert_close(out[1], module.proj.bias.expand(9, -1), 1e-12, "output of nothing")

    def test_gradcheck(self, options) -> None:
        """4 tokens are no grid behind five."""
        module = self.build(**options)
        assert torch.autograd.gradcheck(module, (torch.randn(1, self.fit(options, 2), DIM, dtype=torch.float64, requires_grad=True),))

    def test_tokens_have_no_order(self, options) -> None:
        """Cannot hold: a grid token's neighbors and offsets are its place. What does hold: prefix tokens have no order, and places matter."""
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        prefix = module.core.num_prefix_tokens
        order = torch.cat([torch.randperm(prefix), torch.arange(prefix, 9)])
        assert_close(module(x[:, order]), module(x)[:, order], 1e-10, "output with permuted prefix tokens")
        order = torch.cat([torch.arange(prefix), torch.arange(prefix, 9).flip(0)])
        assert (module(x[:, order]) - module(x)[:, order])[:, prefix:].abs().max() > 1e-3

    def test_samples_do_not_meet(self, options) -> None:
        """11 tokens are no grid."""
        module, x = self.build(**options), torch.randn(3, 9, DIM, dtype=torch.float64)
        assert_close(module(x)[1:2], module(x[1:2]), 1e-10, "one sample alone")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_finite_and_near(self, options, dtype) -> None:
        """33 tokens are no grid. Free relative logits of this size sharpen the softmax, so inputs are a quarter of the contract's."""
        module = self.build(torch.float32, **options)
        x = torch.randn(2, self.fit(options, 6), DIM)
        want, got = module(x), copy.deepcopy(module).to(dtype)(x.to(dtype))
        assert got.dtype == dtype
        assert got.isfinite().all()
        assert (got.float() - want).abs().max() < 0.1 * want.abs().max()

    @pytest.mark.parametrize("num_tokens", [1, 7, 20])
    def test_analytic_cost_is_the_counted_cost(self, options, num_tokens) -> None:
        """Here ``num_tokens`` is the side of the grid: 50 tokens are no square."""
        super().test_analytic_cost_is_the_counted_cost(options, self.fit(options, num_tokens))

    def test_attention_dropout_keeps_the_mean(self, options) -> None:
        """5 tokens are no grid."""
        module, x = self.build(attn_drop=0.3, **options), torch.randn(1, self.fit(options, 2), DIM, dtype=torch.float64)
        want = module(x)
        got = module.train()(x.expand(20000, -1, -1)).mean(0, keepdim=True)
        assert (got - want).abs().max() < 0.05 * want.abs().max()

    def test_lives_in_a_timm_vision_transformer(self, options) -> None:
        """This host has one prefix token and a grid of 10×10."""
        super().test_lives_in_a_timm_vision_transformer(self.moved(options))


def halo_map(core, q, k, here, scale):
    """One sample and head, token by token: softmax over whom it may see, with the tables' rows for the offset between two tokens of the grid."""
    prefix, (_, columns) = core.num_prefix_tokens, core._grid_of(len(q))
    block, halo = core.block_size, core.halo_size
    zero = block - 1 + halo
    rel_scale = scale if core.scale_pos_embed else 1.0
    rows = []
    for n in range(len(q)):
        logits = (q[n] @ k.T) * scale
        sees = here.clone()
        if n >= prefix:
            row, column = divmod(n - prefix, columns)
            bias = []
            for m in range(prefix, len(q)):
                y, x_ = divmod(m - prefix, columns)
                top, left = row // block * block - halo, column // block * block - halo
                inside = top <= y < top + block + 2 * halo and left <= x_ < left + block + 2 * halo
                sees[m] &= inside
                table = core.pos_embed
                bias.append(q[n] @ (table.height_rel[y - row + zero] + table.width_rel[x_ - column + zero]) if inside else q[n, 0] * 0)
            logits = logits + rel_scale * torch.cat([logits.new_zeros(prefix), torch.stack(bias)])
        rows.append(logits.masked_fill(~sees, float("-inf")).softmax(-1))
    return torch.stack(rows)


class TestHaloAttention(GridContract):
    name = "halo"
    variants = [
        {"num_prefix_tokens": 0} | SMALL,
        {"num_prefix_tokens": 5} | SMALL,
        {"num_prefix_tokens": 0, "scale_pos_embed": True, "attn_head_dim": 5},
        {"num_prefix_tokens": 1, "grid_size": (1, 8)} | SMALL,
    ]

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3) for part in range(3))
            mixed = [halo_map(module.core, q[h], k[h], here, module.head_dim**-0.5) @ v[h] for h in range(HEADS)]
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_block_larger_than_the_map(self) -> None:
        """A window that covers the map is the whole map, whatever its block."""
        module, x = self.build(num_prefix_tokens=0, block_size=8, halo_size=3), torch.randn(1, 4, DIM, dtype=torch.float64)
        assert_close(module(x), self.oracle(module, x, torch.ones(1, 4, dtype=torch.bool)), 1e-10, "output")
        assert (module.attention_map(x)["combined"] > 0).all()

    # -- its own --------------------------------------------------------------------------------------------------------------------------------

    def test_map_gives_the_output(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        present = torch.rand(2, 9) > 0.3
        for mask in (None, present[:, None, None]):
            v = module.qkv(x).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(1, 2)
            out = module.proj((module.attention_map(x, attn_mask=mask)["combined"] @ v).transpose(1, 2).flatten(2))
            assert_close(out, module(x, attn_mask=mask), 1e-10, "output from the map")

    def test_one_block_without_tables_is_softmax(self) -> None:
        ours = HaloAttention(DIM, HEADS, qkv_bias=True, block_size=4, halo_size=2).double().eval()
        softmax = foveal.SoftmaxAttention(DIM, HEADS, qkv_bias=True).double().eval()
        with torch.no_grad():
            ours.core.pos_embed.height_rel.zero_()
            ours.core.pos_embed.width_rel.zero_()
        softmax.load_state_dict({key: value for key, value in ours.state_dict().items() if not key.startswith("core.")})
        x = torch.randn(2, 17, DIM, dtype=torch.float64)
        assert_close(ours(x), softmax(x), 1e-10, "output")

    def test_far_tokens_meet_through_the_prefix_alone(self) -> None:
        module = self.build(num_prefix_tokens=1, grid_size=(1, 12), **SMALL)
        x = torch.randn(1, 13, DIM, dtype=torch.float64)
        combined = module.attention_map(x)["combined"][0, 0]
        assert (combined[0] > 0).all(), "a prefix token sees all"
        assert (combined[:, 0] > 0).all(), "all see a prefix token"
        assert (combined[1, 1:] > 0).tolist() == [True] * 3 + [False] * 9

    def test_rows_of_padding_change_nothing(self) -> None:
        """A grid padded with whole rows at the bottom and masked there equals the grid without."""
        padded, plain = (self.build(num_prefix_tokens=2, grid_size=(rows, 3), **SMALL) for rows in (5, 3))
        x = torch.randn(2, 17, DIM, dtype=torch.float64)
        present = torch.arange(17) < 11
        assert_close(padded(x, attn_mask=present[None, None, None])[:, :11], plain(x[:, :11]), 1e-10, "output with padding against without")

    @pytest.mark.parametrize(
        ("change", "num_tokens", "says"),
        [({}, 9, "square"), ({}, 1, "square"), ({"grid_size": (2, 3)}, 9, "2×3"), ({"num_prefix_tokens": 5}, 4, "5 prefix tokens")],
    )
    def test_tokens_that_are_no_grid_are_explained(self, change, num_tokens, says) -> None:
        with pytest.raises(ValueError, match=says):
            HaloAttention(DIM, HEADS, **change)(torch.randn(1, num_tokens, DIM))

    @pytest.mark.parametrize(
        ("change", "says"),
        [({"num_prefix_tokens": -1}, "at least 0"), ({"grid_size": (0, 3)}, "at least 1"), ({"block_size": 0}, "block_size"), ({"halo_size": -1}, "halo_size")],
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            HaloAttention(DIM, HEADS, **change)

    @pytest.mark.parametrize("mask", [torch.ones(9, 9, dtype=torch.bool), torch.ones(2, HEADS, 1, 9, dtype=torch.bool), torch.zeros(2, HEADS, 1, 9)])
    def test_masks_per_query_are_refused(self, mask) -> None:
        with pytest.raises(ValueError, match="leave out keys for all queries"):
            HaloAttention(DIM, HEADS, num_prefix_tokens=0)(torch.randn(2, 9, DIM), attn_mask=mask)

    def test_a_context_is_refused(self) -> None:
        x = torch.randn(2, 9, DIM)
        with pytest.raises(ValueError, match="context"):
            HaloAttention(DIM, HEADS, num_prefix_tokens=0)(x, context=x)


# height, width, block, halo, stride, global keys, mask_border
GEOMETRIES = [
    (8, 12, 4, 2, 1, 0, True),
    (5, 7, 2, 1, 1, 0, True),
    (5, 7, 4, 2, 2, 0, True),
    (9, 6, 4, 0, 2, 2, True),
    (3, 3, 8, 3, 1, 2, True),
    (6, 5, 3, 4, 1, 0, True),
    (7, 4, 1, 2, 1, 0, True),
    (1, 1, 8, 3, 1, 0, True),
    (1, 13, 4, 3, 2, 1, True),
    (8, 8, 4, 2, 2, 0, False),
    (7, 5, 4, 1, 1, 2, False),
]


class TestHaloCore:
    @staticmethod
    def inputs(geometry, dtype=torch.float64, mask=False):
        height, width, block, halo_size, stride, num_global, border = geometry
        rows = 2 * block + 2 * halo_size - stride

        def draw(*shape):
            return torch.randn(*shape, dtype=dtype, requires_grad=True)

        tensors = {
            "q": draw(2, 3, -(-height // stride), -(-width // stride), 4),
            "k": draw(2, 3, height, width, 4),
            "v": draw(2, 3, height, width, 6),
            "rel_height": draw(rows, 4),
            "rel_width": draw(rows, 4),
        }
        if num_global:
            tensors |= {"global_k": draw(2, 3, num_global, 4), "global_v": draw(2, 3, num_global, 6)}
        options = {"block_size": block, "halo_size": halo_size, "stride": stride, "mask_border": border}
        if mask:
            options["mask"] = torch.rand(2, num_global + height * width) > 0.5
            options["mask"][1] = False
        return tensors, options

    @pytest.mark.parametrize("mask", [False, True])
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_every_path_is_the_reference(self, geometry, mask) -> None:
        tensors, options = self.inputs(geometry, mask=mask)
        want = halo_attention_reference(**tensors, **options)
        cotangent = torch.randn_like(want)
        want_grads = torch.autograd.grad(want, tuple(tensors.values()), cotangent, allow_unused=True) if want.requires_grad else None
        for path in ("auto", "explicit", "folded", "tiled"):
            if path == "tiled" and (mask or geometry[5]):
                continue
            got = halo_attention(**tensors, **options, path=path)
            assert_close(got, want, 1e-10, f"output, {path}")
            grads = torch.autograd.grad(got, tuple(tensors.values()), cotangent, allow_unused=True)
            for name, ours, theirs in zip(tensors, grads, want_grads, strict=True):
                assert_close(ours, torch.zeros_like(tensors[name]) if theirs is None else theirs, 1e-10, f"gradient of {name}, {path}", floor=1.0)

    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_paths_agree_in_single_precision(self, geometry) -> None:
        tensors, options = self.inputs(geometry, torch.float32)
        slow = {name: value.detach().double().requires_grad_() for name, value in tensors.items()}
        want = halo_attention(**slow, **options, path="explicit")
        want_grads = torch.autograd.grad(want.sum(), tuple(slow.values()))
        for path in ("explicit", "folded", "tiled")[: 2 if geometry[5] else 3]:
            got = halo_attention(**tensors, **options, path=path)
            assert_close(got, want, 1e-5, f"output, {path}")
            for name, ours, theirs in zip(tensors, torch.autograd.grad(got.sum(), tuple(tensors.values())), want_grads, strict=True):
                assert_close(ours, theirs, 1e-5, f"gradient of {name}, {path}", floor=1.0)

    @pytest.mark.parametrize("tile", [1, 700, 3000])
    def test_any_tile_is_the_same(self, monkeypatch, tile) -> None:
        """Tiles that do not divide the blocks evenly, down to one block each."""
        tensors, options = self.inputs((9, 13, 4, 3, 1, 0, True))
        want = halo_attention(**tensors, **options, path="explicit")
        want_grads = torch.autograd.grad(want.square().sum(), tuple(tensors.values()))
        monkeypatch.setattr("foveal.functional._halo_tiled._TILE", tile)
        got = halo_attention(**tensors, **options, path="tiled")
        assert_close(got, want, 1e-10, "output")
        for ours, theirs in zip(torch.autograd.grad(got.square().sum(), tuple(tensors.values())), want_grads, strict=True):
            assert_close(ours, theirs, 1e-10, "gradient")

    def test_second_derivatives(self) -> None:
        tensors, options = self.inputs((3, 5, 2, 1, 1, 0, True))
        del options["mask_border"]

        def penalty(path):
            out = halo_attention(**tensors, **options, path=path)
            (slope,) = torch.autograd.grad(out.square().sum(), tensors["k"], create_graph=True)
            return torch.autograd.grad(slope.square().sum(), tuple(tensors.values()))

        for ours, theirs in zip(penalty("tiled"), penalty("explicit"), strict=True):
            assert_close(ours, theirs, 1e-10, "second derivative")

    def test_gradient_checkpointing(self) -> None:
        """It unpacks what was saved for the backward pass once and no more."""
        tensors, options = self.inputs((5, 7, 2, 1, 1, 0, True))

        def call(*values):
            return halo_attention(**dict(zip(tensors, values, strict=True)), **options, path="tiled")

        want = torch.autograd.grad(call(*tensors.values()).square().sum(), tuple(tensors.values()))
        got = torch.autograd.grad(checkpoint(call, *tensors.values(), use_reentrant=False).square().sum(), tuple(tensors.values()))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, want, strict=True))

    def test_some_inputs_without_gradient(self) -> None:
        tensors, options = self.inputs((5, 7, 2, 1, 1, 0, True))
        for frozen in ("q", "k", "v", "rel_height"):
            part = tensors | {frozen: tensors[frozen].detach()}
            wanted = [value for value in part.values() if value.requires_grad]
            for ours, theirs in zip(
                *(torch.autograd.grad(halo_attention(**part, **options, path=path).sin().sum(), wanted) for path in ("tiled", "explicit")), strict=True
            ):
                assert_close(ours, theirs, 1e-10, f"gradient with {frozen} frozen", floor=1.0)

    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_map(self, geometry) -> None:
        height, width, block, halo_size, stride, num_global, border = geometry
        tensors, options = self.inputs(geometry)
        v = tensors.pop("v").flatten(2, 3)
        values = torch.cat([tensors.pop("global_v"), v], 2) if num_global else v
        got = halo_attention_map(**tensors, **options)
        assert got.shape == (2, 3, -(-height // stride) * -(-width // stride), num_global + height * width)
        want = halo_attention_reference(**tensors, **options, v=v.unflatten(2, (height, width)), global_v=values[:, :, :num_global])
        assert_close((got @ values).unflatten(2, want.shape[2:4]), want, 1e-10, "output from the map")
        if border:
            assert_close(got.sum(-1), torch.ones(got.shape[:3]), 1e-10, "rows")
        grid = got[..., num_global:].unflatten(-1, (height, width)).unflatten(2, want.shape[2:4])
        for row in range(want.shape[2]):
            top = row * stride // block * block
            assert (grid[:, :, row, :, : max(top - halo_size, 0)] == 0).all()
            assert (grid[:, :, row, :, top + block + halo_size :] == 0).all()

    def test_large_maps_fold_on_an_accelerator_and_tile_on_the_cpu(self, monkeypatch) -> None:
        """The choice is made per sample, so that a traced module does not depend on its batch."""
        q = torch.randn(1, 8, 128, 128, 4)
        table = torch.randn(21, 4)
        seen = []
        monkeypatch.setattr("foveal.functional.halo._PATHS", {path: lambda *a, path=path: seen.append(path) or a[0] for path in halo_paths()})
        options = {"rel_height": table, "rel_width": table, "block_size": 8, "halo_size": 3}
        halo_attention(q, q, q, **options)
        halo_attention(q.bfloat16(), q.bfloat16(), q.bfloat16(), **options)
        monkeypatch.setattr("torch.jit.is_tracing", lambda: True)
        halo_attention(q, q, q, **options)
        small = q[:, :, :16, :16]
        halo_attention(small, small, small, **options, dropout_p=0.1)
        assert seen == ["tiled", "tiled", "folded", "explicit"]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"block_size": 3}, "divides block_size"),
            ({"halo_size": -1}, "halo_size"),
            ({"halo_size": 9}, "rows"),
            ({"path": "fold"}, "did you mean folded"),
            ({"stride": 4}, "queries"),
            ({"path": "tiled", "dropout_p": 0.5}, "tiled"),
        ],
    )
    def test_bad_input_is_explained(self, change, says) -> None:
        tensors, options = self.inputs((8, 8, 4, 2, 2, 0, True))
        with pytest.raises(ValueError, match=says):
            halo_attention(**tensors, **options | change)


def halo_paths() -> list[str]:
    return ["explicit", "folded", "tiled"]


class TestHaloAttention2d(MaskedMapContract):
    name = "halo_2d"
    channels = DIM
    common = {"num_heads": 2, "block_size": 4, "halo_size": 2}
    variants = [
        {},
        {"stride": 2},
        {"stride": 2, "avg_down": True},
        {"stride": 2, "block_size": 3},
        {"value_ratio": 2.0, "qkv_bias": True, "out_channels": 16},
        {"dim_head": 5, "out_proj": True, "scale_pos_embed": True},
        {"qk_ratio": 0.5, "mask_border": False, "tight_tables": False, "strided_offsets": False, "stride": 2},
    ]

    def oracle(self, module, x, present):
        q, kv = (conv(x).unflatten(1, (module.num_heads, -1)).movedim(2, -1) for conv in (module.q, module.kv))
        out = halo_attention_reference(
            q,
            kv[..., : module.dim_head],
            kv[..., module.dim_head :],
            rel_height=module.pos_embed.height_rel,
            rel_width=module.pos_embed.width_rel,
            block_size=module.block_size,
            halo_size=module.halo_size,
            stride=module.query_stride,
            mask=present.flatten(1),
            scale_rel=module.scale_pos_embed,
            mask_border=module.mask_border,
            rel_stride=None if module.strided_offsets else 1,
        )
        out = out.movedim(-1, 2).flatten(1, 2)
        return module.proj(pooled(out) if module.pools else out)

    def from_map(self, module, x, maps):
        out_size = [-(-side // module.stride) for side in x.shape[2:]]
        v = module._read(x)[2]
        return module.proj((maps["combined"] @ v.flatten(2, 3)).transpose(2, 3).flatten(1, 2).unflatten(-1, out_size))

    def seen(self, module, present):
        if module.pools:
            return pooled(present[:, None].double())[:, 0] == 1
        return present[:, :: module.stride, :: module.stride]

    def rows_sum_to_one(self, options):
        return options.get("mask_border", True)

    def test_a_padded_map_with_a_mask_is_the_map(self, options) -> None:
        """Pixels outside the map are not masked ones where the border is not masked."""
        if options.get("mask_border", True):
            super().test_a_padded_map_with_a_mask_is_the_map(options)
            return
        with pytest.raises(AssertionError, match="padded map: off by"):
            super().test_a_padded_map_with_a_mask_is_the_map(options)

    @pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated", "ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize("mask_border", [True, False])
    def test_can_be_traced(self, mask_border) -> None:
        """The path that is fastest on the CPU writes into memory of its own, which torch.jit.trace cannot follow."""
        attention = foveal.HaloAttention2d(16, num_heads=2, block_size=4, halo_size=1, mask_border=mask_border).eval()
        with torch.no_grad():
            traced = torch.jit.trace(attention, torch.randn(1, 16, 8, 8))
            images = torch.randn(3, 16, 8, 8)
            assert traced(images).allclose(attention(images), atol=1e-6)

    def test_exports_with_any_size(self) -> None:
        """Cannot hold: the size decides how many blocks there are and what of them lies outside the map. A program made for one size refuses others."""
        module, x = self.build(torch.float32), self.draw(5, 7, dtype=torch.float32)
        program = torch.export.export(module, (x,)).module()
        with pytest.raises(AssertionError, match="Guard failed"):
            program(self.draw(6, 7, dtype=torch.float32))

    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4), (16, 16), (3, 18)])
    def test_any_size(self, options, size) -> None:
        module, stride = self.build(**options), options.get("stride", 1)
        out = module(self.draw(*size))
        assert out.shape == (2, module.out_channels, -(-size[0] // stride), -(-size[1] // stride))
        assert out.is_contiguous()

    # -- the geometry (specification 1f, 1h) ---------------------------------------------------------------------------------------------------

    def test_stride_leaves_out_queries(self) -> None:
        """With offsets counted in pixels, stride 2 is stride 1 with every second row and column taken. timm's counting is not."""
        plain, x = self.build(tight_tables=False), torch.randn(2, DIM, 8, 12, dtype=torch.float64)
        strided, quirk = (self.build(tight_tables=False, stride=2, strided_offsets=right) for right in (True, False))
        for module in (strided, quirk):
            module.load_state_dict(plain.state_dict())
        assert_close(strided(x), plain(x)[..., ::2, ::2], 1e-12, "strided output")
        assert (quirk(x) - plain(x)[..., ::2, ::2]).abs().max() > 1e-2

    def test_shifts_by_blocks(self) -> None:
        """The paper's relaxed equivariance: exact for a block, broken for a pixel."""
        module, x = self.build(), torch.randn(1, DIM, 16, 16, dtype=torch.float64)
        out = module(x)
        assert_close(module(x.roll(4, -1))[..., 8:12], out.roll(4, -1)[..., 8:12], 1e-12, "inner output of a map shifted by a block")
        assert (module(x.roll(1, -1)) - out.roll(1, -1))[..., 8:12].abs().max() > 1e-2

    def test_a_constant_map_has_a_constant_output(self) -> None:
        """Weights sum to one at the border; in timm zero keys take nearly half of a corner's."""
        x = torch.randn(1, DIM, 1, 1, dtype=torch.float64).expand(-1, -1, 16, 16)
        out = self.build()(x)
        assert_close(out, out[..., 8:9, 8:9].expand_as(out), 1e-10, "output")
        out = self.build(mask_border=False)(x)
        assert out[..., 0, 0].norm() < 0.7 * out[..., 8, 8].norm()

    def test_what_sees_nothing_gets_nothing(self) -> None:
        present = torch.zeros(1, 16, 16, dtype=torch.bool)
        present[:, :8, :8] = True
        assert (self.build()(self.draw(16, 16, batch=1), mask=present)[..., 12:, 12:] == 0).all()

    @pytest.mark.parametrize(("block", "halo_size", "stride"), [(4, 2, 1), (4, 2, 2), (8, 3, 1), (1, 2, 1), (2, 0, 2)])
    def test_tight_tables_have_no_dead_row(self, block, halo_size, stride) -> None:
        module = self.build(block_size=block, halo_size=halo_size, stride=stride)
        assert module.pos_embed.height_rel.shape[0] == 2 * block + 2 * halo_size - stride
        module(torch.randn(2, DIM, 32, 32, dtype=torch.float64)).square().sum().backward()
        for table in module.pos_embed.parameters():
            assert (table.grad.abs().sum(-1) > 0).all()
        loose = self.build(block_size=block, halo_size=halo_size, stride=stride, tight_tables=False)
        loose(torch.randn(2, DIM, 32, 32, dtype=torch.float64)).square().sum().backward()
        for table in loose.pos_embed.parameters():
            assert table.shape[0] == 2 * (block + 2 * halo_size) - 1
            assert (table.grad.abs().sum(-1) == 0).sum() == 2 * halo_size + stride - 1

    def test_published_counts_of_a_block(self) -> None:
        """Specification 1c: w·(2w + r_v·w) + 2·(2·win − 1)·(w / heads); no projection behind."""
        module = HaloAttention2d(128, num_heads=8, block_size=14, halo_size=2, value_ratio=2.5, tight_tables=False, device="meta")
        assert module.cost(1, 1).parameters == 128 * (2 * 128 + 320) + 2 * (2 * 18 - 1) * 16
        assert module.out_channels == 320

    def test_a_bottom_layer_sees_no_nan(self) -> None:
        """Large logits, half precision and a border block of one pixel."""
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            module, x = self.build(torch.float32, qkv_bias=True).to(dtype), 30 * torch.randn(2, DIM, 9, 5).to(dtype)
            x.requires_grad_()
            out = module(x)
            out.float().sum().backward()
            assert out.dtype == dtype
            assert out.isfinite().all()
            assert x.grad.isfinite().all()

    # -- a good citizen --------------------------------------------------------------------------------------------------------------------------

    def test_large_maps_compile_too(self) -> None:
        """The folded path, forward and backward."""
        module, x = self.build(torch.float32, block_size=8, halo_size=3), torch.randn(1, DIM, 96, 96)
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        want = torch.autograd.grad(module(x).square().sum(), tuple(module.parameters()))
        for ours, theirs in zip(torch.autograd.grad(compiled(x).square().sum(), tuple(module.parameters())), want, strict=True):
            assert_close(ours, theirs, 1e-4, "gradient")

    def test_adapters_are_not_passed_by(self) -> None:
        module, x = self.build(torch.float32, stride=2), torch.randn(2, DIM, 6, 9)
        want, seen = module(x), []
        for conv in (module.q, module.kv):
            conv.register_forward_hook(lambda layer, args, out: seen.append(out.shape[-2:]))
        assert_close(module(x), want, 1e-5, "output")
        assert seen == [(3, 5), (6, 9)]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"stride": 3}, "1 or 2"),
            ({"num_heads": 5}, "must divide"),
            ({"num_heads": 0}, "at least 1"),
            ({"value_ratio": 0.3}, "value_ratio"),
            ({"block_size": 0}, "block_size"),
            ({"halo_size": -1}, "halo_size"),
        ],
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            self.build(**change)

    def test_options_and_place(self) -> None:
        module = HaloAttention2d.Config(block_size=4, value_ratio=2.0).build(DIM, num_heads=HEADS, stride=2)
        assert (module.block_size, module.out_channels, module.stride) == (4, 2 * DIM, 2)


def pooled(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


class TestAgainstTimm:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"stride": 2},
            {"stride": 2, "avg_down": True},
            {"block_size": 7, "halo_size": 2, "stride": 2, "dim_out": 36, "num_heads": 6, "qk_ratio": 0.33},
            {"dim_head": 12, "qkv_bias": True, "scale_pos_embed": True},
        ],
        ids=str,
    )
    def test_equals_timm(self, options) -> None:
        layers = pytest.importorskip("timm.layers.halo_attn")
        settings = {"dim": DIM, "num_heads": HEADS, "block_size": 4, "halo_size": 3} | options
        theirs = layers.HaloAttn(**settings).double().eval()
        ours = official.load("halo.timm", theirs.state_dict(), **settings)
        side = 4 * settings["block_size"]
        x = torch.randn(2, DIM, side, 2 * side, dtype=torch.float64)
        assert_close(ours(x), theirs(x), 1e-10, "output")

    def test_foreign_keys_are_explained(self) -> None:
        with pytest.raises(ValueError, match="halonet-pytorch"):
            official.load("halo.masked", {"qkv.weight": torch.randn(3, 3)}, dim=24, block_size=4, halo_size=2, dim_head=8, heads=3)


def test_functional_names() -> None:
    assert foveal.functional.halo_attention is halo.halo_attention
