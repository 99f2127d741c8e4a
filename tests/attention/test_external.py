import pytest
import timm
import torch

import foveal
import foveal.timm  # enters the published networks
from foveal import ExternalAttention, ExternalAttention2d
from foveal.functional import external_attention, external_attention_map, external_attention_reference
from foveal.models import VisionTransformer
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.maps_contract import MapContract
from tests.attention.test_softmax import heads


class TestExternalAttention(AttentionContract):
    name = "external"
    variants = [
        {},
        {"normalization": "token"},
        {"normalization": "slot"},
        {"tie": "hard"},
        {"tie": "none", "expand": 2, "bias": True},
        {"slots": 1},
        {"eps": 1e-3},
    ]
    causal = False

    def oracle(self, module, x, present):
        memory = module.memory
        memory_v = memory.memory_k if memory.memory_v is None else memory.memory_v
        out = []
        for sample, here in zip(x, present, strict=True):
            mixed = []
            for q in heads(module.q, sample, num_heads=module.num_heads):
                logits = q @ memory.memory_k.T + (0 if memory.bias_k is None else memory.bias_k)
                weights = logits.exp() * here[:, None]
                if memory.normalization != "slot":
                    weights = weights / weights.sum(0, keepdim=True)
                if memory.normalization != "token":
                    weights = weights / (weights.sum(1, keepdim=True) + memory.eps + ~here[:, None])
                mixed.append((weights @ memory_v + (0 if memory.bias_v is None else memory.bias_v)) * here[:, None])
            out.append(torch.cat(mixed, -1) @ module.proj.weight.T + module.proj.bias)
        return torch.stack(out)

    def test_slots_give_the_output(self) -> None:
        module, x = self.build(tie="none"), torch.randn(2, 9, DIM, dtype=torch.float64)
        mixed = module.attention_map(x)["slots"] @ module.memory.memory_v
        assert_close(module.proj(mixed.transpose(1, 2).flatten(2)), module(x), 1e-10, "output from the slots")

    def test_the_implied_map_tells_who_shapes_whom(self) -> None:
        """Exactly what the derivative says: d log A_ns / d L_ms = −Â_ms for another token m, so weight flows token → slot → token."""
        module, x = self.build(slots=5), torch.randn(1, 6, DIM, dtype=torch.float64)
        maps = module.attention_map(x)
        q = module.q(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        fills = (q @ module.memory.memory_k.T).softmax(-2)
        for h in range(HEADS):
            for n in range(6):
                for m in range(6):
                    want = sum(maps["slots"][0, h, n, s] * fills[0, h, m, s] for s in range(5))
                    assert abs(maps["combined"][0, h, n, m] - want) < 1e-12

    # -- the core (specification 2.8, 0) -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("norm", ["double", "token", "slot"])
    def test_stable_form_is_algorithm_1(self, norm) -> None:
        q, memory_k, memory_v = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 17, 8), (16, 8), (16, 8)))
        mask = torch.rand(2, 17) > 0.3
        for present in (None, mask):
            fast = external_attention(q, memory_k, memory_v, normalization=norm, mask=present)
            slow = external_attention_reference(q, memory_k, memory_v, normalization=norm, mask=present)
            assert_close(fast, slow, 1e-10, "output")
            cotangent = torch.randn_like(fast)
            inputs = (q, memory_k, memory_v)
            for got, want in zip(torch.autograd.grad(fast, inputs, cotangent, retain_graph=True), torch.autograd.grad(slow, inputs, cotangent), strict=True):
                assert_close(got, want, 1e-10, "gradient")

    def test_axes(self) -> None:
        """Before the division over slots every slot shares out 1 among the tokens; after it every token holds 1."""
        q, memory_k = torch.randn(2, 3, 17, 8, dtype=torch.float64), torch.randn(16, 8, dtype=torch.float64)
        assert_close(external_attention_map(q, memory_k, normalization="token").sum(-2), torch.ones(2, 3, 16), 1e-12, "sum over tokens")
        assert_close(external_attention_map(q, memory_k).sum(-1), torch.ones(2, 3, 17), 1e-12, "sum over slots")
        assert (external_attention_map(q, memory_k).sum(-2) - 1).abs().max() > 0.05, "the double norm is not doubly stochastic"

    def test_one_token_gets_a_constant(self) -> None:
        module = self.build()
        assert_close(module(torch.randn(1, 1, DIM, dtype=torch.float64)), module(torch.randn(1, 1, DIM, dtype=torch.float64)), 1e-10, "output at N=1")
        assert_close(module.attention_map(torch.randn(1, 1, DIM, dtype=torch.float64))["slots"], torch.full((1, HEADS, 1, 64), 1 / 64), 1e-10, "slots at N=1")

    def test_slot_norm_does_not_mix_tokens(self) -> None:
        module, x = self.build(normalization="slot"), torch.randn(1, 9, DIM, dtype=torch.float64)
        other = x.clone()
        other[:, 3] = torch.randn(DIM)
        same = torch.arange(9) != 3
        assert torch.equal(module(other)[:, same], module(x)[:, same])
        mixing = self.build()
        assert (mixing(other)[:, same] - mixing(x)[:, same]).abs().min() > 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("std", [20.0, 200.0])
    def test_large_logits_stay_stochastic(self, dtype, std) -> None:
        """Where the two divisions are 0/0: the official order gives rows below 1, and NaN in half precision."""
        q = (std**0.5 * torch.randn(1, 1, 256, 16)).to(dtype)
        memory_k = (std**0.5 / 4 * torch.randn(32, 16)).to(dtype)
        rows = external_attention_map(q, memory_k).float().sum(-1)
        assert (rows - 1).abs().max() < 2e-2
        official = (q @ memory_k.T).float().softmax(-2)
        official = official / (1e-9 + official.sum(-1, keepdim=True))
        if std == 200:
            assert (official.sum(-1) < 0.99).float().mean() > 0.1, "the test would show nothing if the official order survived"

    @pytest.mark.parametrize("tie", ["none", "init", "hard"])
    def test_ties_survive_moves(self, tie) -> None:
        """The official code ties by storage, which a change of dtype or device unties in silence."""
        memory = ExternalAttention(DIM, HEADS, tie=tie).double().float().memory
        if tie == "hard":
            assert memory.memory_v is None
            assert "memory_v" not in memory.state_dict()
        else:
            assert torch.equal(memory.memory_k, memory.memory_v) == (tie == "init")
            assert memory.memory_k.data_ptr() != memory.memory_v.data_ptr()

    def test_a_bias_on_the_keys_cancels(self) -> None:
        module, x = self.build(bias=True), torch.randn(2, 9, DIM, dtype=torch.float64)
        out = module(x)
        with torch.no_grad():
            module.memory.bias_k.add_(torch.randn(64))
        assert_close(module(x), out, 1e-10, "output")

    @pytest.mark.parametrize(("dim", "depth_heads", "parameters"), [(256, 4, 533_888), (384, 6, 1_189_888), (448, 7, 1_616_192)])
    def test_parameters_of_the_eamlp_blocks(self, dim, depth_heads, parameters) -> None:
        module = ExternalAttention(dim, depth_heads, qkv_bias=True, expand=4, bias=True, device="meta")
        assert module.cost(196).parameters == parameters

    @pytest.mark.parametrize(
        ("change", "says"), [({"slots": 0}, "slots"), ({"expand": 0}, "expand"), ({"tie": "soft"}, "tie"), ({"normalization": "doubel"}, "did you mean double")]
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            ExternalAttention(DIM, HEADS, **change)

    @pytest.mark.parametrize("mask", [torch.ones(9, 9, dtype=torch.bool), torch.ones(2, HEADS, 1, 9, dtype=torch.bool), torch.zeros(2, HEADS, 1, 9)])
    def test_masks_without_meaning_are_refused(self, mask) -> None:
        with pytest.raises(ValueError, match="leave out tokens for all queries"):
            self.build(torch.float32)(torch.randn(2, 9, DIM), attn_mask=mask)


class TestExternalAttention2d(MapContract):
    name = "external_2d"
    variants = [{"slots": 8}, {"slots": 5, "tie": "none", "normalization": "token"}, {"slots": 8, "normalization": "slot", "tie": "hard"}, {"eps": 1e-3}]

    def oracle(self, module, x, present):
        memory = module.memory
        memory_v = memory.memory_k if memory.memory_v is None else memory.memory_v
        out = []
        for sample in x:
            q = torch.einsum("oc,cyx->yxo", module.conv1.weight[:, :, 0, 0], sample).flatten(0, 1) + module.conv1.bias
            weights = (q @ memory.memory_k.T).exp()
            if memory.normalization != "slot":
                weights = weights / weights.sum(0, keepdim=True)
            if memory.normalization != "token":
                weights = weights / (weights.sum(1, keepdim=True) + memory.eps)
            mixed = module.conv2.weight[:, :, 0, 0] @ (weights @ memory_v).T
            normed = (mixed.T - module.bn.running_mean) / (module.bn.running_var + module.bn.eps).sqrt() * module.bn.weight + module.bn.bias
            out.append((normed.T.unflatten(-1, sample.shape[1:]) + sample).clamp_min(0))
        return torch.stack(out)

    def from_map(self, module, x, maps):
        memory_v = module.memory.memory_k if module.memory.memory_v is None else module.memory.memory_v
        mixed = (maps["slots"] @ memory_v)[:, 0].mT.unflatten(-1, x.shape[2:])
        return torch.relu(module.bn(module.conv2(mixed)) + x)

    def test_published_cost(self) -> None:
        """512 channels on 128×128: 0.591 M parameters and 9.66 G multiply-adds with two memories, 0.559 M with one, as the paper counts."""
        two, one = (ExternalAttention2d(512, tie=tie, device="meta").cost(128, 128) for tie in ("init", "hard"))
        assert round(two.parameters / 1e6, 3) == 0.591
        assert round(one.parameters / 1e6, 3) == 0.559
        assert round(two.macs / 1e9, 2) == 9.66


@pytest.mark.parametrize("host", ["alone", "timm", "ours"])
def test_logits_begin_with_unit_spread_whatever_the_host_starts_its_maps_at(host: str) -> None:
    torch.manual_seed(0)
    if host == "alone":
        attention = ExternalAttention(192, num_heads=3)
    elif host == "timm":
        attention = timm.create_model("vit_tiny_patch16_224", attn_layer=ExternalAttention.Config().layer()).blocks[1].attn
    else:
        attention = VisionTransformer(attention="external", img_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=3).blocks[1].attn
    q = attention.q(torch.randn(4, 500, 192)).unflatten(-1, (3, 64))
    logits = torch.einsum("bnhd,sd->bhns", q, attention.memory.memory_k)
    assert 0.9 < logits.std() < 1.1


def test_published_networks_start_their_queries_as_their_authors() -> None:
    torch.manual_seed(0)
    attention = timm.create_model("fov_eamlp_7").blocks[0].attn
    assert attention.q.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_conversion_says_what_a_class_token_costs() -> None:
    for pool, said in (("token", True), ("avg", False)):
        model = timm.create_model("test_vit", global_pool=pool, class_token=pool == "token")
        report = foveal.convert_(model, ExternalAttention.Config())
        assert any("class token" in note for note in report.swaps[0].notes) == said
        assert not any(
            "class token" in note for swap in foveal.convert_(timm.create_model("test_vit"), foveal.DenoisingAttention.Config()).swaps for note in swap.notes
        )
