"""Folding for inference: every way through the layer gives what it gave, and what cannot be folded is refused."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import foveal
import foveal.timm
from foveal import DenoisingAttention, InputError, fuse_
from foveal.functional import softmax_attention
from tests.models.timm_contract import stir

CORES = {
    "softmax": {},
    "halo": {"core": "halo", "core_options": {"block_size": 2, "halo_size": 1, "num_prefix_tokens": 0}},
    "efficient": {"core": "efficient"},
    "linear": {"core": "linear"},
}
# what a core that is a function may be: not linear in its values
CORES["function"] = {"core": lambda q, k, v, **options: softmax_attention(q, k, v, **options).relu()}


class AffineTanh(nn.Module):
    """A norm that ends with weights, and is neither odd nor made so by negating them."""

    def __init__(self, dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight + 0.3).tanh() + 0.1


NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "timm": timm.layers.LayerNorm, "other": AffineTanh}


def build(**options) -> DenoisingAttention:
    return stir(DenoisingAttention(24, 4, qkv_bias=True, **options), 0.3).double().eval()


def tokens(count: int = 16) -> Tensor:
    return torch.randn(2, count, 24, dtype=torch.float64)


def assert_same(got: Tensor, want: Tensor) -> None:
    assert (got - want).abs().max() < 1e-12 * want.abs().max()


@pytest.mark.parametrize("shared_values", [False, True])
@pytest.mark.parametrize("core", CORES)
def test_outputs_are_equal_over_every_core(core, shared_values) -> None:
    module, x = build(**CORES[core], shared_values=shared_values), tokens()
    fused = copy.deepcopy(module).fuse_()
    assert fused.fuses_lambdas == (core != "function" and not shared_values)
    assert_same(fused(x), module(x))
    assert_same(fused.values(x), module.values(x))


@pytest.mark.parametrize("shared_values", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_the_sign_goes_where_the_norm_lets_it(norm, shared_values) -> None:
    module, x = build(qk_norm=True, scale_norm=norm == "layer", norm_layer=NORMS[norm], shared_values=shared_values), tokens()
    fused = copy.deepcopy(module).fuse_()
    assert fused.negates == (norm == "other")
    # odd norms leave it to the projection
    q_neg, folded = module.q_neg.weight, fused.projections.weight[:24]
    assert torch.equal(folded, -q_neg if norm == "rms" else q_neg)
    assert_same(fused(x), module(x))


@pytest.mark.parametrize("shared_values", [False, True])
def test_masks_causality_context_and_rotary_positions(shared_values) -> None:
    module = build(shared_values=shared_values)
    fused, x = copy.deepcopy(module).fuse_(), tokens()
    keys, pairs = torch.rand(2, 1, 1, 16) > 0.4, torch.randn(16, 16, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    for options in (
        {"attn_mask": keys},
        {"attn_mask": pairs},
        {"is_causal": True},
        {"is_causal": True, "attn_mask": keys},
        {"context": tokens(5)},
        {"context": tokens(5), "rope": lambda heads: heads @ turn},
        {"rope": lambda heads: heads @ turn},
    ):
        assert_same(fused(x, **options), module(x, **options))


@pytest.mark.parametrize("shared_values", [False, True])
def test_without_biases_with_wide_heads_and_in_float32(shared_values) -> None:
    module = stir(DenoisingAttention(24, 3, attn_head_dim=10, shared_values=shared_values)).eval()
    fused, x = copy.deepcopy(module).fuse_(), torch.randn(2, 9, 24)
    assert fused.projections.bias is None
    torch.testing.assert_close(fused(x), module(x), rtol=1e-5, atol=1e-6)


def test_maps_and_cost_are_those_of_the_original() -> None:
    module, x = build(qk_norm=True), tokens()
    fused = copy.deepcopy(module).fuse_()
    for name, want in module.attention_map(x).items():
        assert_same(fused.attention_map(x)[name], want)
    assert fused.cost(16) == module.cost(16)
    assert "fused=True" in repr(fused)


def test_one_matrix_multiplication_brings_the_tokens_in() -> None:
    module = DenoisingAttention(24, 4, qkv_bias=True, device="meta").eval()
    fused = build().fuse_().float().to("meta")
    counts = {}
    for name, attention in (("plain", module), ("fused", fused)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            attention(torch.empty(2, 16, 24, device="meta"))
        calls = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
        counts[name] = calls
    assert counts["plain"] == counts["fused"], "the same multiply-adds"
    assert [name for name, _ in fused.named_children() if isinstance(getattr(fused, name), nn.Linear)] == ["proj", "projections"]


def test_fusing_twice_is_fusing_once() -> None:
    fused = build().fuse_()
    state = copy.deepcopy(fused.state_dict())
    assert fuse_(fused) is fused
    assert all(torch.equal(value, state[key]) for key, value in fused.state_dict().items())


def test_a_gradient_still_reaches_the_input() -> None:
    """Maps by gradient, of a fused model."""
    module = build()
    fused, x = copy.deepcopy(module).fuse_(), tokens()
    gradients = [torch.autograd.grad(attention(y := x.clone().requires_grad_()).square().sum(), y)[0] for attention in (module, fused)]
    assert_same(*gradients)


@pytest.mark.parametrize("name", ["test_fov_dna_vit", "test_fov_dna_shared_vit", "test_fov_dna_timesformer"])
def test_whole_models(name) -> None:
    model = stir(timm.create_model(name)).double().eval()
    x = torch.randn(2, 3, *((3,) if "timesformer" in name else ()), 32, 32, dtype=torch.float64)
    want = model(x)
    assert fuse_(model) is model
    assert all(module.fused for module in model.modules() if isinstance(module, DenoisingAttention))
    assert_same(model(x), want)


def test_the_token_blocks_of_t2t_vit_carry_the_same_values() -> None:
    model = stir(timm.create_model("test_fov_t2t_vit", attention="denoising", token_attention="denoising")).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    want = model(x)
    assert_same(fuse_(model)(x), want)


@pytest.mark.case("C8")
@pytest.mark.parametrize("how", ["timm", "transformers", "torchvision"])
def test_what_was_loaded_into_a_fused_model_comes_back(how) -> None:
    """Fused, then given other weights, as from a file: the way back has those and not the ones of before."""
    model = {
        "timm": lambda: timm.create_model("test_vit"),
        "transformers": tower,
        "torchvision": lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 24, 48),
    }[how]().eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    flags = [parameter.requires_grad_(n % 3 > 0).requires_grad for n, parameter in enumerate(model.parameters())] if how == "timm" else None
    for one in (model, other):
        foveal.convert_(one, DenoisingAttention.Config())
    fuse_(model).load_state_dict(fuse_(copy.deepcopy(other)).state_dict())
    foveal.revert_(model)
    foveal.revert_(other)
    got, want = (dict(one.named_parameters()) for one in (model, other))
    assert list(got) == list(want)
    assert all(torch.equal(got[name], want[name]) for name in want)
    if flags is not None:
        assert [parameter.requires_grad for parameter in model.parameters()] == flags


def tower() -> torch.nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32))


def test_a_converted_model_can_still_be_reverted() -> None:
    model, x = timm.create_model("test_vit").eval(), torch.randn(1, 3, 160, 160)
    want = model(x)
    foveal.convert_(model, DenoisingAttention.Config())
    converted = model(x)
    torch.testing.assert_close(fuse_(model)(x), converted, rtol=1e-4, atol=1e-5)
    foveal.revert_(model)
    assert torch.equal(model(x), want)


def test_compiles_and_exports() -> None:
    module, x = build().fuse_(), tokens()
    torch._dynamo.reset()
    assert_same(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    assert_same(program.module()(x[:1]), module(x[:1]))


def test_what_cannot_be_fused_is_refused_and_left_alone() -> None:
    with pytest.raises(InputError, match="found no denoising attention"):
        fuse_(nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"for inference; call \.eval\(\) first"):
        DenoisingAttention(24, 4).fuse_()
    model = nn.ModuleList([build(), build()])
    model[1].q_neg.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="merge adapters and remove hooks first"):
        fuse_(model)
    assert not model[0].fused, "all or nothing"


def test_a_fused_module_does_not_train_and_takes_no_other_state() -> None:
    module = build()
    fused = copy.deepcopy(module).fuse_()
    with pytest.raises(InputError, match="fused for inference and cannot train"):
        fused.train()(tokens())
    with pytest.raises(RuntimeError, match="Missing key"):
        fused.load_state_dict(module.state_dict())
    with pytest.raises(InputError, match=r"take the angles before foveal\.fuse_"):
        foveal.analysis.value_angles(fused)
