"""Choosing places, keeping what is the host's, and failing without a trace."""

import copy
import json
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import foveal
from foveal import (
    ConversionReport,
    DenoisingAttention,
    ExternalAttention,
    HaloAttention,
    InputError,
    SoftmaxAttention,
    convert_,
    every_nth,
    last_stage,
    revert_,
)
from foveal.convert import Place, host_key, known_hosts, register_host
from foveal.convert._host import HOSTS
from tests.convert.test_hosts import SIDE, stirred, timm_vit, torchvision_vit

DENOISING = DenoisingAttention.Config()


def names(report: ConversionReport) -> list[str]:
    return [swap.name for swap in report.swaps]


@pytest.mark.parametrize(
    ("where", "want"),
    [
        ("*", [0, 1, 2]),
        ("blocks.*.attn", [0, 1, 2]),
        ("blocks.[12].attn", [1, 2]),
        ("blocks.1*", [1]),
        (re.compile(r"blocks\.(0|2)\.attn"), [0, 2]),
        (lambda name, module: name.endswith("2.attn"), [2]),
        (every_nth(2), [0, 2]),
        (every_nth(2, offset=1), [1]),
    ],
)
def test_where(where, want) -> None:
    assert names(convert_(timm_vit(), DENOISING, where)) == [f"blocks.{n}.attn" for n in want]


def test_last_stage() -> None:
    model = timm_vit(depth=8)
    assert names(convert_(model, DENOISING, last_stage(model))) == ["blocks.6.attn", "blocks.7.attn"]
    model = timm_vit()
    assert names(convert_(model, DENOISING, last_stage(model))) == ["blocks.2.attn"]
    with pytest.raises(ValueError, match="no attention that is known"):
        last_stage(nn.Linear(2, 2))


def test_a_mapping_puts_different_attentions_in_different_places() -> None:
    model = timm_vit()
    report = convert_(model, {"blocks.0.attn": None, "blocks.1.attn": ExternalAttention.Config(slots=3), "blocks.*.attn": DENOISING})
    assert [(swap.name, swap.to["attention"]) for swap in report.swaps] == [("blocks.1.attn", "external"), ("blocks.2.attn", "denoising")]
    assert model.blocks[1].attn.memory.slots == 3
    with pytest.raises(ValueError, match="give one of the two"):
        convert_(timm_vit(), {"*": DENOISING}, where="blocks.*")


def test_halo_is_told_its_grid() -> None:
    model = timm_vit(reg_tokens=2)
    convert_(model, HaloAttention.Config(block_size=2, halo_size=1))
    assert model.blocks[0].attn.core.num_prefix_tokens == 3
    model = timm_vit(img_size=(16, 40))
    convert_(model, DenoisingAttention.Config(core="halo", core_options={"block_size": 2, "halo_size": 1}))
    assert model.blocks[0].attn.core.grid_size == (2, 5)
    assert model(torch.randn(1, 3, 16, 40)).shape == (1, 5)
    with pytest.raises(ValueError, match="not the grid of this model"):
        convert_(timm_vit(), HaloAttention.Config(grid_size=(2, 8)))


def test_what_is_the_hosts_stays_the_hosts() -> None:
    """Parameters, hooks of its layers, parametrizations, dtype, mode and ``requires_grad``."""
    model = timm_vit().double().train()
    attn = model.blocks[1].attn
    attn.qkv.weight.requires_grad_(False)
    qkv, proj = attn.qkv, attn.proj
    model.blocks[0].attn.eval()
    parametrizations.weight_norm(model.blocks[2].attn.qkv)
    seen = []
    qkv.register_forward_hook(lambda *_: seen.append(1))
    handle = attn.register_forward_hook(lambda *_: seen.append(2))
    report = convert_(model, DENOISING)
    new = model.blocks[1].attn
    assert new.qkv is qkv
    assert new.proj is proj
    assert not new.qkv.weight.requires_grad
    assert new.q_neg.weight.requires_grad
    assert {p.dtype for p in new.parameters()} == {torch.float64}
    assert [model.blocks[n].attn.training for n in range(3)] == [False, True, True]
    model(torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)).sum().backward()
    assert seen == [1, 2], "hooks of its layers and of the module itself"
    assert "1 hooks of the module go on" in report.swaps[1].notes[0]
    handle.remove()
    model(torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64))
    assert seen == [1, 2, 1], "a handle from before still removes its hook"
    assert not report.swaps[0].notes
    assert "qkv.parametrizations.weight.original0" in report.swaps[2].kept


def test_dropout_is_taken_over() -> None:
    model = timm_vit(attn_drop_rate=0.3, proj_drop_rate=0.2)
    convert_(model, DENOISING)
    assert (model.blocks[0].attn.attn_drop.p, model.blocks[0].attn.proj_drop.p) == (0.3, 0.2)


def test_shared_modules_are_replaced_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.MultiheadAttention(24, 4, batch_first=True)
            self.again = self.first

    model = Twice()
    report = convert_(model, DENOISING, where="again")
    assert model.first is model.again
    assert names(report) == ["first"]
    assert report.swaps[0].notes == ["shared, also as again"]
    assert revert_(model) == ["first", "again"]
    assert isinstance(model.first, nn.MultiheadAttention)
    assert model.first is model.again


def test_the_same_again_is_nothing_to_do() -> None:
    model = timm_vit()
    convert_(model, DENOISING, where="blocks.0.attn")
    first = model.blocks[0].attn
    assert names(convert_(model, DENOISING)) == ["blocks.1.attn", "blocks.2.attn"]
    assert model.blocks[0].attn is first
    assert names(convert_(model, DENOISING)) == []
    with pytest.raises(ValueError, match="revert_"):
        convert_(model, ExternalAttention.Config())
    assert revert_(model) == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
    with pytest.raises(ValueError, match="not converted"):
        revert_(model)


def test_training_goes_on_after_reverting() -> None:
    """What both had in common comes back as it was trained."""
    model = stirred(timm_vit())
    before = model.blocks[0].attn.qkv.weight.detach().clone()
    convert_(model, DENOISING)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(2)
    revert_(model.half())
    assert model.blocks[0].attn.qkv.weight.dtype == torch.float16
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.float(), 2 * before, rtol=1e-3, atol=1e-3)


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = timm_vit()
    model.blocks[2].attn.gate = nn.Linear(24, 24)
    before = {name: id(module) for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"blocks\.2\.attn gates its output"):
        convert_(model, DENOISING, where="blocks.*.attn")
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    with pytest.raises(ValueError, match="not converted"):
        revert_(model)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("block.*.attn", r"no module is chosen; the model's attentions are blocks\.0\.attn"),
        ("blocks.*.mlp", r"none is an attention that is known: timm\.layers\.mlp\.Mlp; known: .*torch\.nn\.modules\.activation\.MultiheadAttention"),
    ],
)
def test_places_that_are_none_are_explained(where, says) -> None:
    with pytest.raises(ValueError, match=says):
        convert_(timm_vit(), DENOISING, where)


def test_attentions_that_are_not_known_are_named() -> None:
    timm = pytest.importorskip("timm")
    model = nn.ModuleDict({"attn": timm.models.nest.Attention(24, 4)})
    says = r"timm\.models\.nest\.Attention; attn \(Attention\) cannot be read by its structure: no run reached it"
    with pytest.raises(ValueError, match=rf"{says}.*; known: .*timm\.models\.eva\.EvaAttention.*foveal\.register_host"):
        convert_(model, DENOISING, where="attn")


def test_compiled_and_quantized_models_are_refused() -> None:
    model = timm_vit()
    model.blocks[1] = torch.compile(model.blocks[1])
    with pytest.raises(ValueError, match=r"blocks\.1 is compiled"):
        convert_(model, DENOISING)
    model = timm_vit()
    model.blocks[1].attn.proj.weight = nn.Parameter(torch.zeros(24, 24, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn: proj\.weight is Tensor of torch\.int8"):
        convert_(model, DENOISING)


def test_weights_that_are_not_there_are_not_kept() -> None:
    with torch.device("meta"):
        model = timm_vit()
    with pytest.raises(InputError, match=r"are on the meta device, as .* load the model's weights first"):
        convert_(model, DENOISING)
    assert type(model.blocks[0].attn).__module__.startswith("timm.")


def test_an_attention_alone_has_no_place() -> None:
    with pytest.raises(ValueError, match="put it into a module"):
        convert_(nn.MultiheadAttention(24, 4), DENOISING)


@pytest.mark.parametrize("config", ["denoising", {"*": "denoising"}, DenoisingAttention])
def test_what_is_no_configuration_is_refused(config) -> None:
    with pytest.raises(InputError, match="expected a configuration"):
        convert_(timm_vit(), config)


def test_a_host_can_be_taught() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_qkv, self.to_out = nn.Linear(24, 72), nn.Linear(24, 24)

        def forward(self, x: torch.Tensor, flag: bool) -> torch.Tensor:
            q, k, v = self.to_qkv(x).unflatten(-1, (3, 4, 6)).transpose(1, 3).unbind(2)
            return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    class Called(nn.Module):
        def __init__(self, attn: nn.Module) -> None:
            super().__init__()
            self.attn = attn

        def forward(self, x: torch.Tensor, flag: bool) -> torch.Tensor:
            return self.attn(x)

    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        return Place(dim=24, num_heads=4, head_dim=6, qkv=module.to_qkv, proj=module.to_out)

    model, x = nn.ModuleDict({"mine": Mine()}), torch.randn(2, 7, 24)
    want = model["mine"](x, flag=True)
    with pytest.raises(ValueError, match="Mine"):
        convert_(model, SoftmaxAttention.Config())
    register_host(host_key(model["mine"]), read, lambda module, ours: Called(ours))
    try:
        assert host_key(Mine()) in known_hosts()
        with pytest.raises(ValueError, match="already registered"):
            register_host(host_key(Mine()), read)
        convert_(model, SoftmaxAttention.Config())
        torch.testing.assert_close(model["mine"](x, flag=True), want)
    finally:
        HOSTS.remove(host_key(Mine()))


def test_the_report() -> None:
    report = convert_(timm_vit(), DENOISING)
    swap = report.swaps[0]
    assert swap.kept == ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    assert swap.derived == ["q_neg.weight", "q_neg.bias", "v_neg.weight", "v_neg.bias"]
    assert (swap.new, swap.dropped) == (["lambdas"], [])
    assert swap.parameters == (4 * 24**2 + 4 * 24, 6 * 24**2 + 6 * 24 + 4)
    tokens = 1 + 4 * 4
    assert swap.macs == (4 * tokens * 24**2 + 2 * tokens**2 * 24, 6 * tokens * 24**2 + 4 * tokens**2 * 24)
    assert ConversionReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["swaps"][0]["to"]["attention"] == "denoising"
    lines = report.table().splitlines()
    assert lines[0].split() == ["module", "was", "is", "output", "kept", "derived", "new", "dropped", "parameters", "MACs"]
    assert lines[1].split()[:5] == ["blocks.0.attn", "Attention", "denoising", "within", "warm"]
    assert lines[-1].startswith("3 modules, 7,200 → ")


def test_every_parameter_is_accounted_for() -> None:
    """Kept, mapped and new together are all that the new module has, once each."""
    for make in (lambda: timm_vit(qk_norm=True, scale_attn_norm=True), torchvision_vit):
        for name in foveal.list_attentions(form="tokens"):
            model = make()
            for swap in convert_(model, foveal.attention.attention_class(name).Config()).swaps:
                module = model.get_submodule(swap.name)
                module = getattr(module, "attn", module)
                assert sorted(swap.kept + swap.derived + swap.new) == sorted(key for key, _ in module.named_parameters()), name


def test_attentions_over_other_tokens_are_left_alone() -> None:
    """The second attention of a decoder reads the encoder: windows or memories over those who ask would be another thing."""
    model = nn.TransformerDecoderLayer(24, 4, 48, batch_first=True)
    assert names(convert_(model, HaloAttention.Config(num_prefix_tokens=0, grid_size=(3, 3)))) == ["self_attn"]
    with pytest.raises(ValueError, match="multihead_attn: is cross-attention or a pooling head"):
        convert_(nn.TransformerDecoderLayer(24, 4, 48), foveal.ExternalAttention.Config(), where="multihead_attn")


def test_attentions_over_other_tokens_convert_where_they_are_named() -> None:
    torch.manual_seed(0)
    model = nn.TransformerDecoderLayer(24, 4, 48, batch_first=True).eval()
    asks, memory, padded = torch.randn(2, 5, 24), torch.randn(2, 9, 24), torch.arange(9).expand(2, 9) > 6
    want = model(asks, memory, memory_key_padding_mask=padded)
    assert names(convert_(model, SoftmaxAttention.Config(), where="multihead_attn")) == ["multihead_attn"]
    torch.testing.assert_close(model(asks, memory, memory_key_padding_mask=padded), want, rtol=1e-4, atol=1e-5)
    # what is read is the memory: other numbers behind the padding change nothing, before it they do
    for place, same in ((8, True), (2, False)):
        other = memory.clone()
        other[:, place] += 1
        assert torch.allclose(model(asks, other, memory_key_padding_mask=padded), want, rtol=1e-4, atol=1e-5) is same
