"""``nn.MultiheadAttention`` converted inside PyTorch's own transformers, in every mode, and where positions are added to queries and keys alone."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, ExternalAttention, HaloAttention, InputError, SoftmaxAttention, convert, convert_
from foveal.attention import attention_class, list_attentions
from tests.convert.test_hosts import stirred

WIDTH, HEADS, TOKENS = 16, 4, 7
EXACT = [SoftmaxAttention.Config(), DenoisingAttention.Config()]


def encoder(layers: int = 2, **options: object) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    nested = options.pop("enable_nested_tensor", True)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, **({"batch_first": True, "dropout": 0.0} | options))
    return stirred(nn.TransformerEncoder(layer, layers, enable_nested_tensor=nested))


def padded(kind: str) -> Tensor:
    """True where a key is left out: two samples of 7 and 4 tokens, and one whose padding is in the middle."""
    mask = torch.zeros(3, TOKENS, dtype=torch.bool)
    mask[1, 4:] = True
    if kind == "scattered":
        mask[2, 2:4] = True
    return mask


@pytest.mark.case("C3", "C5")
@pytest.mark.filterwarnings("ignore:.*nested tensor.*:UserWarning", "ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("config", EXACT, ids=lambda config: config.attention)
@pytest.mark.parametrize("mode", ["train", "eval", "no_grad", "inference_mode", "frozen"])
@pytest.mark.parametrize("padding", ["none", "left aligned", "scattered"])
@pytest.mark.parametrize("where", ["*", "layers.0.*", "layers.1.*"])
def test_pytorchs_encoder_works_in_every_mode(config, mode, padding, where) -> None:
    """Its fast path makes nested tensors, calls kernels of its own and leaves zeros where there is padding; all of the output is compared."""
    for batch_first in (True, False):
        for norm_first in (False, True):
            for floats in (False, True):
                host = encoder(batch_first=batch_first, norm_first=norm_first)
                model, report = convert(host, config, where, warm_start="exact")
                assert {swap.output for swap in report.swaps} == {"identical"}
                x, mask = torch.randn(3, TOKENS, WIDTH), None if padding == "none" else padded(padding)
                if floats and mask is not None:
                    mask = torch.zeros(mask.shape).masked_fill(mask, -math.inf)
                results = []
                for one in (host, model):
                    one.train(mode == "train")
                    if mode == "frozen":
                        one.requires_grad_(False)
                    with torch.inference_mode(mode == "inference_mode"), torch.set_grad_enabled(mode != "no_grad"):
                        results.append(one(x if batch_first else x.transpose(0, 1), src_key_padding_mask=mask))
                torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.case("C3")
@pytest.mark.filterwarnings("ignore:.*nested tensor.*:UserWarning")
@pytest.mark.parametrize("masks", ["pairs", "float pairs", "causal", "hinted", "pairs and keys", "float pairs and keys"])
def test_pytorchs_encoder_takes_its_masks(masks) -> None:
    host = encoder()
    model, _ = convert(host, SoftmaxAttention.Config())
    pairs = torch.rand(TOKENS, TOKENS) > 0.7
    pairs.fill_diagonal_(False)
    pairs[:, 0] = False
    options = {"mask": torch.randn(TOKENS, TOKENS) if "float" in masks else pairs}
    if masks in ("causal", "hinted"):
        options = {"mask": nn.Transformer.generate_square_subsequent_mask(TOKENS), "is_causal": masks == "hinted"}
    if "keys" in masks:
        keys = padded("left aligned")
        options["src_key_padding_mask"] = torch.zeros(keys.shape).masked_fill(keys, -math.inf) if "float" in masks else keys
    x = torch.randn(3, TOKENS, WIDTH)
    # without dropout; PyTorch's fast path gives NaN for masks of floats that are no -inf
    want = host.train()(x, **options)
    for train in (True, False):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(model.train(train)(x, **options), want, rtol=1e-4, atol=1e-5)


@pytest.mark.case("C3")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning", "ignore:.*nested tensor.*:UserWarning")
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_all_of_pytorchs_transformer_works(batch_first, norm_first) -> None:
    """Encoder and decoder, the decoder's second attention left alone, with padding on all sides; and one sample without a batch."""
    torch.manual_seed(0)
    host = stirred(nn.Transformer(WIDTH, HEADS, 2, 2, 32, 0.0, batch_first=batch_first, norm_first=norm_first))
    model, report = convert(host, SoftmaxAttention.Config())
    assert len(report.swaps) == 4
    assert [(one.name, "converted only where it is named" in one.reason) for one in report.left] == [
        (f"decoder.layers.{n}.multihead_attn", True) for n in range(2)
    ]
    source, target = torch.randn(3, TOKENS, WIDTH), torch.randn(3, 5, WIDTH)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    keys = padded("left aligned")
    options = {"tgt_mask": causal, "src_key_padding_mask": keys, "memory_key_padding_mask": keys, "tgt_key_padding_mask": torch.zeros(3, 5)}
    turned = (source, target) if batch_first else (source.transpose(0, 1), target.transpose(0, 1))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model(*turned, **options), host(*turned, **options), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model(source[0], target[0], tgt_mask=causal), host(source[0], target[0], tgt_mask=causal), rtol=1e-4, atol=1e-5)


@pytest.mark.case("C5")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning", "ignore:.*nested tensor.*:UserWarning")
@pytest.mark.parametrize("name", list_attentions(form="tokens"))
@pytest.mark.parametrize("batch_first", [True, False])
def test_padding_means_that_the_tokens_are_not_there(name, batch_first) -> None:
    """In every mechanism, with masks that PyTorch has made float before: a padded sample gives what it gives alone."""
    options = {"block_size": 2, "halo_size": 1, "num_prefix_tokens": 1, "grid_size": (2, 3)} if name == "halo" else {}
    model = encoder(1, batch_first=batch_first)
    convert_(model, attention_class(name).Config(**options))
    x, mask = torch.randn(2, TOKENS, WIDTH), torch.zeros(2, TOKENS, dtype=torch.bool)
    mask[1, 4:] = True
    noisy = torch.where(mask[..., None], 1e2 * torch.randn_like(x), x)
    for grad in (True, False):
        for float_mask in (False, True):
            given = torch.zeros(mask.shape).masked_fill(mask, -math.inf) if float_mask else mask
            with torch.set_grad_enabled(grad):
                got, other = (model(one if batch_first else one.transpose(0, 1), src_key_padding_mask=given) for one in (x, noisy))
            got, other = (out if batch_first else out.transpose(0, 1) for out in (got, other))
            torch.testing.assert_close(got[~mask], other[~mask], rtol=1e-4, atol=1e-5)
            if name != "halo":
                alone = model(x[1:, :4] if batch_first else x[1:, :4].transpose(0, 1))
                torch.testing.assert_close(got[1:, :4], alone if batch_first else alone.transpose(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.case("C3")
@pytest.mark.parametrize("batch_first", [True, False])
def test_weights_are_those_of_the_formula(batch_first) -> None:
    """Averaged or by head, with a batch and without, masked by keys and by pairs of each head."""
    torch.manual_seed(0)
    host = stirred(nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first))
    model, _ = convert(nn.ModuleDict({"a": host}), SoftmaxAttention.Config())
    x, keys = torch.randn(3, TOKENS, WIDTH), padded("scattered")
    heads = torch.rand(3 * HEADS, TOKENS, TOKENS) > 0.8
    heads[..., 0] = False
    q, k, _ = F.linear(x, host.in_proj_weight, host.in_proj_bias).view(3, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT / math.sqrt(WIDTH // HEADS)
    logits = logits.masked_fill(keys[:, None, None] | heads.view(3, HEADS, TOKENS, TOKENS), -math.inf)
    want = logits.softmax(-1)
    given = x if batch_first else x.transpose(0, 1)
    got = model["a"](given, given, given, key_padding_mask=keys, attn_mask=heads, average_attn_weights=False)[1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model["a"](given, given, given, key_padding_mask=keys, attn_mask=heads)[1], want.mean(1), rtol=1e-4, atol=1e-6)
    alone = x[1]
    for average in (True, False):
        options = {"key_padding_mask": keys[1], "attn_mask": heads[HEADS : 2 * HEADS], "average_attn_weights": average}
        out, weights = model["a"](alone, alone, alone, **options)
        want_out, want_weights = host(alone, alone, alone, **options)
        torch.testing.assert_close(out, want_out, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights, want_weights, rtol=1e-4, atol=1e-6)
    assert model["a"](alone, alone, alone, need_weights=False)[1] is None


@pytest.mark.case("C3")
def test_nested_tensors_that_are_not_pytorchs_are_refused() -> None:
    model, _ = convert(nn.ModuleDict({"a": stirred(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))}), SoftmaxAttention.Config())
    jagged = torch.nested.nested_tensor([torch.randn(3, WIDTH), torch.randn(5, WIDTH)], layout=torch.jagged)
    with pytest.raises(InputError, match="a takes a nested tensor as PyTorch's encoder gives it"):
        model["a"](jagged, jagged, jagged, need_weights=False)


# -- positions on queries and keys alone ----------------------------------------------------------------------------------------------------------


class DetrLayer(nn.Module):
    """As DETR's encoder layer: q = k = x + pos, v = x."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.norm = nn.LayerNorm(WIDTH)

    def with_pos(self, x: Tensor, pos: Tensor | None) -> Tensor:
        return x if pos is None else x + pos

    def forward(self, x: Tensor, pos: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q = k = self.with_pos(x, pos)
        return self.norm(x + self.self_attn(q, k, value=x, key_padding_mask=mask)[0])


class InlineLayer(DetrLayer):
    def forward(self, x: Tensor, pos: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x2 = self.norm(x)
        x2 = self.self_attn(query=x2 + pos, key=x2 + pos, value=x2, key_padding_mask=mask, need_weights=False)[0]
        return x + x2


class DetrDecoderLayer(DetrLayer):
    def __init__(self, batch_first: bool = False) -> None:
        super().__init__(batch_first)
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)

    def forward(self, x: Tensor, pos: Tensor | None = None, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        q = k = self.with_pos(x, pos)
        x = x + self.self_attn(q, k, value=x)[0]
        memory = x.flip(0) * 2 if memory is None else memory
        return x + self.cross(query=self.with_pos(x, pos), key=self.with_pos(memory, pos), value=memory)[0]


@pytest.mark.case("H3")
@pytest.mark.parametrize("kind", [DetrLayer, InlineLayer, DetrDecoderLayer])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("config", [*EXACT, DenoisingAttention.Config(shared_values=True), foveal.CrossSampleAttention.Config(dictionary_size=3)])
def test_positions_are_on_queries_and_keys_alone(kind, batch_first, config) -> None:
    torch.manual_seed(0)
    host = stirred(nn.ModuleList([kind(batch_first), kind(batch_first)]))
    model, report = convert(host, config, warm_start="exact")
    assert {swap.output for swap in report.swaps} == {"identical"}
    assert len(report.swaps) == len([module for module in host.modules() if isinstance(module, nn.MultiheadAttention)])
    x, pos, keys = torch.randn(3, TOKENS, WIDTH), torch.randn(3, TOKENS, WIDTH), padded("left aligned")
    x, pos = (x, pos) if batch_first else (x.transpose(0, 1), pos.transpose(0, 1))
    for one, other in zip(model, host, strict=True):
        torch.testing.assert_close(one(x, pos, keys), other(x, pos, keys), rtol=1e-4, atol=1e-5)
        # and positions are not among the values
        assert (one(x, pos, keys) - one(x + pos, torch.zeros_like(pos), keys)).abs().max() > 1e-2


@pytest.mark.case("H3")
def test_both_branches_read_values_without_positions() -> None:
    """Of denoising attention once it is trained, by the formula; folded for inference as well."""
    torch.manual_seed(0)
    model, _ = convert(nn.Sequential(DetrLayer(batch_first=True)), DenoisingAttention.Config())
    stirred(model)
    attn = model[0].self_attn.attn.double()
    x, pos = torch.randn(2, 2, TOKENS, WIDTH, dtype=torch.float64)
    got, _ = model[0].self_attn(x + pos, x + pos, x, need_weights=False)

    def heads(layer: nn.Module, rows: slice, of: Tensor) -> Tensor:
        return F.linear(of, layer.weight[rows], layer.bias[rows]).view(2, TOKENS, HEADS, -1).transpose(1, 2)

    every = slice(None)
    q, k, v = (heads(attn.qkv, slice(n * WIDTH, (n + 1) * WIDTH), of) for n, of in enumerate((x + pos, x + pos, x)))
    q_neg, v_neg = heads(attn.q_neg, every, x + pos), heads(attn.v_neg, every, x)
    scale = math.sqrt(WIDTH // HEADS)
    out = (q @ k.mT / scale).softmax(-1) @ v - attn.lambdas.view(-1, 1, 1) * ((-q_neg @ k.mT / scale).softmax(-1) @ v_neg)
    want = attn.proj(out.transpose(1, 2).flatten(2))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    fused = copy.deepcopy(model[0].self_attn).eval()
    fused.attn.fuse_()
    torch.testing.assert_close(fused(x + pos, x + pos, x, need_weights=False)[0], want, rtol=1e-9, atol=1e-9)


@pytest.mark.case("H3")
@pytest.mark.parametrize("config", [ExternalAttention.Config(), HaloAttention.Config(grid_size=(2, 3))], ids=lambda config: config.attention)
@pytest.mark.parametrize("kind", [DetrLayer, InlineLayer, DetrDecoderLayer])
def test_what_cannot_have_values_apart_is_refused_at_conversion(config, kind) -> None:
    host = nn.ModuleList([kind(), nn.TransformerEncoderLayer(WIDTH, HEADS, 32)])
    before = {name: id(module) for name, module in host.named_modules()}
    with pytest.raises(InputError, match=r"0\.self_attn: its values are made of other tokens than its keys"):
        convert_(host, config, where="*self_attn")
    assert {name: id(module) for name, module in host.named_modules()} == before
    report = convert_(host, config)
    assert [swap.name for swap in report.swaps] == ["1.self_attn"]
    assert report.left[0].name == "0.self_attn"
    assert "values are made of other tokens" in report.left[0].reason


@pytest.mark.case("H3")
def test_a_caller_whom_nobody_could_read_is_told_the_name_of_the_module() -> None:
    layers = nn.ModuleList([nn.ModuleList([nn.MultiheadAttention(WIDTH, HEADS)])])
    convert_(layers, ExternalAttention.Config())
    x = torch.randn(TOKENS, 2, WIDTH)
    with pytest.raises(InputError, match=r"0\.0 is asked for values of other tokens .* use softmax or denoising"):
        layers[0][0](x, x, x + 1)
