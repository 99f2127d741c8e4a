"""Denoising over every core that a configuration can name: the whole contract, against the two branches written out."""

import pytest
import torch

from foveal import DenoisingAttention, create_attention
from foveal.attention import CORES
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.test_efficient import one_head as efficient_head
from tests.attention.test_halo import SMALL, GridContract, halo_map
from tests.attention.test_linear import one_head as linear_head
from tests.attention.test_softmax import heads


class TwoBranches(AttentionContract):
    name = "denoising"
    causal = False

    def head(self, core, q, k, v, here):
        """One head of one sample through the core, token by token."""
        raise NotImplementedError

    def oracle(self, module, x, present):
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3) for part in range(3))
            q_neg = heads(module.q_neg, sample)
            v_neg = v if module.v_neg is None else heads(module.v_neg, sample)
            mixed = []
            for h in range(HEADS):
                negative = self.head(module.core, -q_neg[h], k[h], v_neg[h], here)
                mixed.append(self.head(module.core, q[h], k[h], v[h], here) - module.lambdas[h] * negative)
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_maps(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        maps = module.attention_map(x)
        assert set(maps) == {"positive", "negative", "combined"}
        if (options.get("core_options") or {}).get("normalization") != "scaling":
            for name in ("positive", "negative"):
                assert (maps[name] >= 0).all()
                assert_close(maps[name].sum(-1), torch.ones(2, HEADS, 9), 1e-10, f"rows of {name}")

    def test_maps_give_the_output(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        present = torch.rand(2, 1, 1, 9) > 0.3
        split = lambda value: value.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
        v = split(module.qkv(x).chunk(3, -1)[2])
        v_neg = v if module.v_neg is None else split(module.v_neg(x))
        for mask in (None, present):
            maps = module.attention_map(x, attn_mask=mask)
            mixed = maps["positive"] @ v - module.lambdas.view(-1, 1, 1) * (maps["negative"] @ v_neg)
            assert_close(module.proj(mixed.transpose(1, 2).flatten(2)), module(x, attn_mask=mask), 1e-10, "output from the maps")

    def test_at_lambda_zero_it_is_its_core(self, options) -> None:
        """The attention of the core's name, with the same weights under the same names."""
        module = self.build(**options)
        core_options = (options.get("core_options") or {}) | ({"attn_head_dim": options["attn_head_dim"]} if "attn_head_dim" in options else {})
        single = create_attention(options["core"], DIM, HEADS, qkv_bias=True, **core_options).double()
        single.load_state_dict({key: value for key, value in module.state_dict().items() if key in single.state_dict()})
        with torch.no_grad():
            module.lambdas.zero_()
        x = torch.randn(2, 9, DIM, dtype=torch.float64)
        assert_close(module(x), single(x), 1e-12, "output")


class TestOverEfficient(TwoBranches):
    variants = [
        {"core": "efficient"},
        {"core": "efficient", "core_options": {"normalization": "scaling", "chunk": 4}, "shared_values": True},
    ]

    def head(self, core, q, k, v, here):
        return efficient_head(q, k, v, here, core.normalization)


class TestOverLinear(TwoBranches):
    variants = [{"core": "linear", "attn_head_dim": 5}]

    def head(self, core, q, k, v, here):
        return linear_head(q, k, v, here)


class TestOverHalo(TwoBranches, GridContract):
    variants = [
        {"core": "halo", "core_options": {"num_prefix_tokens": 0} | SMALL},
        {"core": "halo", "core_options": {"num_prefix_tokens": 1, "grid_size": (1, 8)} | SMALL, "shared_values": True},
    ]

    def place(self, options) -> dict:
        return options["core_options"]

    def moved(self, options) -> dict:
        return options | {"core_options": super().moved(options["core_options"])}

    def head(self, core, q, k, v, here):
        return halo_map(core, q, k, here, q.shape[-1] ** -0.5) @ v


def test_every_core_is_tested() -> None:
    tested = {options["core"] for cls in (TestOverEfficient, TestOverLinear, TestOverHalo) for options in cls.variants}
    assert tested | {"softmax"} == set(CORES)


def test_linear_costs_stay_linear() -> None:
    """Twice the tokens, twice the cost, where the core is linear; nearly four times with softmax."""
    for core in ("efficient", "linear"):
        module = DenoisingAttention(DIM, HEADS, core=core)
        assert module.cost(200).macs == 2 * module.cost(100).macs
    module = DenoisingAttention(DIM, HEADS)
    assert module.cost(20000).macs > 3.9 * module.cost(10000).macs


def test_the_positions_of_halo_do_not_decay() -> None:
    module = DenoisingAttention(DIM, HEADS, core="halo")
    assert module.no_weight_decay() == {"lambdas", "core.pos_embed.height_rel", "core.pos_embed.width_rel"}


def test_what_a_core_cannot_do_is_refused() -> None:
    x = torch.randn(2, 9, DIM)
    for core in ("efficient", "linear", "halo"):
        module = DenoisingAttention(DIM, HEADS, core=core, core_options={"num_prefix_tokens": 0} if core == "halo" else None)
        with pytest.raises(ValueError, match="cannot be causal"):
            module(x, is_causal=True)
        with pytest.raises(ValueError, match="for all queries"):
            module(x, attn_mask=torch.ones(9, 9, dtype=torch.bool))
