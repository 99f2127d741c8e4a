"""Hosts whose settings or parts somebody changed, so that they are softmax attention no more: refused by name, left alone with all others, and said.

The oracle is the host itself: it computes something else than it did, so that a conversion that called its function kept would be wrong.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention, calibrate_, convert_, revert_
from foveal.attention import AttentionConfig, _registry, register
from tests.convert.test_carried import assert_same, built, everything
from tests.convert.test_hosts import run, stirred, timm_vit, transformers_tower

SOFTMAX = SoftmaxAttention.Config()
SCALED = {
    "timm Swin": "scale",
    "timm BEiT": "scale",
    "transformers CLIP": "scale",
    "transformers ViT": "scaling",
    "transformers VideoMAE": "attention.scaling",
}


def left_and_refused(model: nn.Module, name: str, says: str, images: torch.Tensor, want: torch.Tensor) -> None:
    """By name refused, with nothing changed; among all left as it is, so that the function is kept."""
    before = everything(model)
    with pytest.raises(InputError, match=says) as error:
        convert_(model, SOFTMAX, name)
    assert name in str(error.value)
    assert_same(before, everything(model))
    assert name in [one.name for one in convert_(model, SOFTMAX).left]
    torch.testing.assert_close(run(model, images), want, rtol=1e-5, atol=1e-5)
    revert_(model)
    assert torch.equal(run(model, images), want)


@pytest.mark.case("C10")
@pytest.mark.parametrize("host", SCALED)
def test_another_scale_of_logits_is_not_lost(host) -> None:
    model, name, images = built(host)
    plain = run(model, images)
    path, _, key = SCALED[host].rpartition(".")
    part = model.get_submodule(f"{name}.{path}".strip("."))
    setattr(part, key, 3 * getattr(part, key))
    want = run(model, images)
    if host != "timm BEiT":
        # timm's fused attention does not read it, and is asked not to be trusted
        assert not torch.allclose(want, plain, atol=1e-3)
    left_and_refused(model, name, r"scal\w+ is .*scale the queries' weights", images, want)


@pytest.mark.case("C10")
@pytest.mark.parametrize("host", ["transformers ViT", "transformers CLIP", "transformers VideoMAE"])
def test_another_function_of_transformers_interface_is_not_lost(host) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("test_doubled", lambda module, q, k, v, mask, **options: sdpa_attention_forward(module, 2 * q, k, v, mask, **options))
    model, _, images = built(host)
    plain = run(model, images)
    model.set_attn_implementation("test_doubled")
    before, want = everything(model), run(model, images)
    assert not torch.allclose(want, plain, atol=1e-3)
    with pytest.raises(InputError, match=r"computed by 'test_doubled'.*set_attn_implementation\('sdpa'\)"):
        convert_(model, SOFTMAX)
    assert_same(before, everything(model))
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        convert_(model, SOFTMAX)
        torch.testing.assert_close(run(model, images), plain, rtol=1e-5, atol=1e-5)
        revert_(model)


@pytest.mark.case("C10")
def test_a_causal_tower_is_not_lost() -> None:
    model, images = stirred(transformers_tower("ViT")), torch.randn(2, 3, 32, 32)
    plain = run(model, images)
    model.layers[1].attention.is_causal = True
    want = run(model, images)
    assert not torch.allclose(want, plain, atol=1e-3)
    left_and_refused(model, "layers.1.attention", "is_causal is True", images, want)


class Twice(nn.Module):
    """No weights, and no class of a library: as a gate, or a quiet softmax."""

    p = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


PARTS = [
    ("timm ViT", "proj_drop", Twice),
    ("timm EVA02", "proj_drop", lambda: nn.Sequential(nn.GELU())),
    ("timm Swin", "softmax", nn.Sigmoid),
    ("timm Swin V2", "softmax", Twice),
    ("timm Swin V2", "softmax", lambda: nn.Softmax(dim=-2)),
    ("timm Swin", "attn_drop", Twice),
    ("transformers VideoMAE", "output.dropout", Twice),
]


@pytest.mark.case("C10")
@pytest.mark.parametrize(("host", "part", "other"), PARTS)
def test_a_part_that_was_exchanged_is_not_lost(host, part, other) -> None:
    model, name, images = built(host)
    plain = run(model, images)
    parent, _, key = part.rpartition(".")
    made = other()
    made.p = 0.0
    setattr(model.get_submodule(f"{name}.{parent}".strip(".")), key, made.eval())
    want = run(model, images)
    assert not torch.allclose(want, plain, atol=1e-5)
    before = everything(model)
    with pytest.raises(InputError, match="a function of its own") as error:
        convert_(model, SOFTMAX)
    assert f"{name}.{part}" in str(error.value)
    assert_same(before, everything(model))
    assert torch.equal(run(model, images), want)


@pytest.mark.case("C10")
@pytest.mark.parametrize("host", ["timm Swin V2", "torchvision Swin V2"])
def test_a_network_of_positions_that_is_dropped_is_the_hosts_own(host) -> None:
    model, name, images = built(host)
    want = run(model, images)
    report = convert_(model, ExternalAttention.Config(slots=4))
    assert name in [swap.name for swap in report.swaps]
    revert_(model)
    assert torch.equal(run(model, images), want)


@pytest.mark.case("C10")
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("host", ["timm ViT", "transformers ViT", "torchvision Swin"])
def test_a_buffer_that_somebody_added_is_said(host, persistent) -> None:
    model, name, _ = built(host)
    model.get_submodule(name).register_buffer("mine", torch.ones(3), persistent=persistent)
    dropped = {swap.name: swap.dropped for swap in convert_(model, SOFTMAX).swaps}
    assert {at for at, what in dropped.items() if "buffer mine" in what} == {name}
    revert_(model)
    assert torch.equal(model.get_submodule(name).mine, torch.ones(3))


class Halved(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


@pytest.mark.case("C10", "H8")
@pytest.mark.parametrize("how", ["subclass", "parametrized"])
@pytest.mark.parametrize("host", ["timm ViT", "timm BEiT", "torchvision ViT", "transformers CLIP", "nn.MultiheadAttention"])
def test_a_subclass_of_a_known_host_is_left_and_said(host, how) -> None:
    model, name, images = built(host)
    attention = model.get_submodule(name)
    if how == "subclass":
        kind = type(attention)
        attention.__class__ = type(f"My{kind.__name__}", (kind,), {"forward": lambda self, *args, **options: kind.forward(self, *args, **options)})
    else:
        own = next((key for key, _ in attention.named_parameters(recurse=False)), None)
        if own is None:
            attention.register_parameter(own := "mine", nn.Parameter(torch.ones(1)))
        parametrize.register_parametrization(attention, own, Halved())
    want, before = run(model, images), everything(model)
    with pytest.raises(InputError, match="none is an attention that is known"):
        convert_(model, SOFTMAX, name)
    assert_same(before, everything(model))
    if host == "nn.MultiheadAttention":
        with pytest.raises(InputError, match=f"{type(attention).__name__}"):
            convert_(model, SOFTMAX)
        return
    assert [one.name for one in convert_(model, SOFTMAX).left] == [name]
    torch.testing.assert_close(run(model, images), want, rtol=1e-5, atol=1e-5)


@pytest.mark.case("C17")
@pytest.mark.parametrize("where", ["head", "blocks.1.attn.qkv"])
def test_lazy_layers_have_no_weights_yet(where) -> None:
    model = timm_vit()
    parent, _, key = where.rpartition(".")
    setattr(model.get_submodule(parent), key, nn.LazyLinear(72 if parent else 5))
    with pytest.raises(InputError, match=rf"{where}.weight belongs to a lazy layer.*run the model"):
        convert_(model, SOFTMAX)
    model.eval()(images := torch.randn(2, 3, 32, 32))
    want = model(images)
    convert_(model, SOFTMAX)
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)


@pytest.mark.case("C8")
@pytest.mark.parametrize("host", ["transformers ViT", "transformers DINOv2"])
def test_nothing_is_put_back_without_values(host) -> None:
    model, _, images = built(host)
    convert_(model, SOFTMAX)
    model.to("meta")
    before = [(name, id(module)) for name, module in model.named_modules()]
    with pytest.raises(InputError, match="meta"):
        revert_(model)
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.load_state_dict({key: torch.randn_like(value) for key, value in model.state_dict().items()})
    want = run(model, images)
    revert_(model)
    torch.testing.assert_close(run(model, images), want, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.case("C3", "R8")
def test_an_attention_of_ones_own_in_pytorchs_encoder() -> None:
    before = dict(_registry._REGISTRY)
    try:

        @register("test plain", family="summary")
        class Plain(nn.Module):
            class Config(AttentionConfig):
                pass

            def __init__(self, dim: int, num_heads: int) -> None:
                super().__init__()
                self.map = nn.Linear(dim, dim)

            def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
                x = self.map(x)
                return x if attn_mask is None else x * (attn_mask[:, 0].mT == (attn_mask.dtype == torch.bool))

        @register("test pair", family="summary")
        class Pair(Plain):
            class Config(AttentionConfig):
                pass

            def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
                return x, None  # type: ignore[return-value]

        with pytest.raises(InputError, match="two attentions are called"):
            register("test pair", family="summary")(Plain)
        nothing = type("Nothing", (Plain,), {"__init__": lambda self, dim, num_heads, **options: None})
        with pytest.raises(InputError, match=r"further ones as \*\*options; nest a class Config"):
            register("test nothing", family="summary")(nothing)
        with pytest.raises(InputError, match="nests a Config that is no frozen dataclass derived from AttentionConfig"):
            register("test nothing", family="summary")(type("Nothing", (Plain,), {"Config": dict}))
        encoder = stirred(nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 4, 32, dropout=0.0, batch_first=True), 2))
        convert_(encoder, Plain.Config())
        x, padding = torch.randn(2, 5, 24), torch.zeros(2, 5, dtype=torch.bool)
        padding[0, 3:] = True
        for mask in (None, padding):
            outs = []
            for training, grads in ((True, True), (False, True), (False, False)):
                with torch.set_grad_enabled(grads):
                    outs.append(encoder.train(training)(x, src_key_padding_mask=mask))
            for out in outs[1:]:
                there = slice(None) if mask is None else ~mask
                torch.testing.assert_close(out[there], outs[0][there], rtol=1e-5, atol=1e-5)
        revert_(encoder)
        convert_(encoder, Pair.Config())
        with pytest.raises(InputError, match=r"Pair is to give a tensor .* and gave a tuple"):
            encoder(x)
    finally:
        _registry._REGISTRY.clear()
        _registry._REGISTRY.update(before)


class Reads(nn.Module):
    """A block that asks its attention for its values as well, in a method that its ``forward`` calls."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = SoftmaxAttention(24, 4)

    def set_up(self) -> None:
        self.attn.fuse_()  # type: ignore[operator]

    def more(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn.values(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x) + self.more(x)


@pytest.mark.case("R15", "H4")
def test_a_block_that_calls_more_of_its_attention_keeps_it() -> None:
    models = pytest.importorskip("foveal.models")
    pytest.importorskip("timm")
    from foveal.models.caam import CausalBlock

    assert issubclass(models.CausalBlock, CausalBlock)
    block, plain = nn.ModuleList([CausalBlock(24, 4)]), timm_vit()
    with pytest.raises(InputError, match=r"0\.attn: its block calls pair of it, which softmax attention does not have"):
        convert_(block, SOFTMAX, "0.attn")
    # in a model with others they alone are left
    both = nn.ModuleDict({"plain": plain, "causal": block})
    report = convert_(both, SOFTMAX)
    assert [one.name for one in report.left] == ["causal.0.attn"]
    assert len(report.swaps) == 3
    assert block[0](torch.randn(2, 5, 24)).causal.shape == (2, 5, 24)
    asking, x = nn.ModuleList([Reads()]), torch.randn(2, 5, 24)
    with pytest.raises(InputError, match="calls values of it, which external attention does not have"):
        convert_(asking, ExternalAttention.Config(slots=4), "0.attn")
    want = asking[0](x)
    convert_(asking, DenoisingAttention.Config(), warm_start="exact")
    torch.testing.assert_close(asking[0](x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.case("C8")
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("host", ["timm ViT", "torchvision ViT", "transformers ViT", "timm BEiT", "torchvision Swin V2"])
def test_calibration_aims_at_the_weights_that_are_there_now(host, assign) -> None:
    """With other weights loaded softmax attention is still the module that it replaced, so there is nothing to fit."""
    model, _, images = built(host)
    report = convert_(model, SOFTMAX)
    torch.manual_seed(2)
    own = model.state_dict()
    # a bias of keys that torchvision's Swin V2 does not have stays at nothing
    other = [key for key in own if ("qkv" in key or "proj" in key) and not (host == "torchvision Swin V2" and "qkv.bias" in key)]
    state = {key: value + 0.1 * torch.randn_like(value) if key in other else value.clone() for key, value in own.items()}
    model.load_state_dict(state, assign=assign)
    before = everything(model)
    fits = calibrate_(model, report, [images, images.flip(0)], steps=0)
    assert all(fit.by == "unchanged" and fit.before < 1e-4 for fit in fits.layers), fits
    assert_same(before, everything(model))
