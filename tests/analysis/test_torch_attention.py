"""PyTorch's own attention on all its paths: the run is to the bit the unwatched one, and the map is the one that it was made with."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.analysis import attention_maps


def watched(model: nn.Module, given: object) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """The output of the watched run, and its maps."""
    seen: list[Tensor] = []

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, *args, **kwargs):
            out = self.inner(*args, **kwargs)
            seen.append(out[0] if isinstance(out, tuple) else out)
            return out

    maps = attention_maps(Root().train(model.training), given)
    assert maps.missing == {}
    return seen[0], {name.removeprefix("inner").strip("."): value for name, value in maps.items()}


def heads_of(module: nn.MultiheadAttention, x: Tensor, part: int) -> Tensor:
    """Queries, keys or values ``(B, H, N, D)`` of tokens ``(B, N, E)``, by the definition."""
    weight, bias = (value.chunk(3)[part] for value in (module.in_proj_weight, module.in_proj_bias))
    return F.linear(x, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)


def by_hand(module: nn.MultiheadAttention, x: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor:
    """The map, row by row in float64; zero where there is no key."""
    q, k = (heads_of(module, x.double(), part) for part in (0, 1))
    out = torch.zeros(*q.shape[:3], k.shape[2], dtype=torch.float64)
    for b in range(len(x)):
        for h in range(module.num_heads):
            for i in range(x.shape[1]):
                keys = [
                    j
                    for j in range(x.shape[1])
                    if not (padding is not None and padding[b, j]) and not (mask is not None and mask.dtype == torch.bool and mask[i, j])
                ]
                logits = {
                    j: (q[b, h, i] @ k[b, h, j] / q.shape[-1] ** 0.5 + (mask[i, j] if mask is not None and mask.is_floating_point() else 0)) for j in keys
                }
                total = sum(value.exp() for value in logits.values())
                for j, value in logits.items():
                    out[b, h, i, j] = value.exp() / total
    return out


PADDING = torch.tensor([[False] * 5, [True] * 5, [False, False, True, True, True]])
CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)


def layer(**options: object) -> nn.TransformerEncoderLayer:
    made = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.3, batch_first=True, **options)
    for name, value in made.named_parameters():
        if "bias" in name:
            nn.init.normal_(value, std=0.5)
    return made.eval()


def same_bits(got: Tensor, want: Tensor) -> bool:
    return torch.equal(got.nan_to_num(nan=7.0), want.nan_to_num(nan=7.0))


@pytest.mark.case("C19", "C12")
@pytest.mark.parametrize("grad", [True, False], ids=["gradients", "fast path"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masked", ["", "padding", "mask", "bias", "both"])
def test_a_layer_and_the_map_its_output_was_made_with(norm_first, masked, grad) -> None:
    """One sample is wholly padded. Where gradients are wanted its output is finite, and so is its map; on the fast path of PyTorch both are NaN."""
    model, x = layer(norm_first=norm_first), torch.randn(3, 5, 16)
    given: dict[str, Tensor] = {"src": x}
    if masked in ("padding", "both"):
        given["src_key_padding_mask"] = PADDING
    if masked in ("mask", "both"):
        given["src_mask"] = CAUSAL
    if masked == "bias":
        if not grad:
            pytest.skip("PyTorch's fast path takes any float mask for one of zeros and -inf: its output is NaN")
        given["src_mask"] = torch.linspace(-2, 2, 25).view(5, 5)
    with torch.set_grad_enabled(grad):
        want = model(**given).detach()
        got, maps = watched(model, given)
    assert same_bits(got, want)
    assert list(maps) == ["self_attn"], "one call is one map, whoever computed it"
    weights, there = maps["self_attn"]["combined"].double(), want.isfinite().all(-1)
    assert torch.equal(weights.isfinite().all(-1), there[:, None].expand(-1, 4, -1))
    assert there.all() or not grad
    model.double()
    with torch.no_grad():
        tokens = model.norm1(x.double()) if norm_first else x.double()
        by_rows = by_hand(model.self_attn, tokens, given.get("src_key_padding_mask"), given.get("src_mask"))
        torch.testing.assert_close(weights.transpose(1, 2)[there], by_rows.transpose(1, 2)[there], rtol=1e-4, atol=1e-5)
        # and the output is made with it
        mixed = (by_rows @ heads_of(model.self_attn, tokens, 2)).transpose(1, 2).flatten(2)
        mixed = x.double() + model.self_attn.out_proj(mixed)
        mixed = mixed if norm_first else model.norm1(mixed)
        fed = model.linear2(model.linear1(model.norm2(mixed) if norm_first else mixed).relu())
        out = mixed + fed if norm_first else model.norm2(mixed + fed)
    torch.testing.assert_close(want.double()[there], out[there], rtol=1e-4, atol=1e-4)


@pytest.mark.case("C19")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("train", [True, False])
@torch.no_grad()
def test_an_encoder_packs_samples_of_different_lengths(nested, train) -> None:
    model = nn.TransformerEncoder(layer(), 2, enable_nested_tensor=nested)
    x, padding = torch.randn(3, 5, 16), torch.tensor([[False] * 5, [False] * 4 + [True], [False, False, True, True, True]])
    want = model.eval()(x, src_key_padding_mask=padding)
    got, maps = watched(model.train(train), {"src": x, "src_key_padding_mask": padding})
    assert torch.equal(got, want)
    assert list(maps) == ["layers.0.self_attn", "layers.1.self_attn"]
    first = maps["layers.0.self_attn"]["combined"].double()
    weights = by_hand(model.layers[0].double().self_attn, x.double(), padding, None)
    there = ~padding[:, None, :, None].expand_as(weights)
    torch.testing.assert_close(first[there], weights[there], rtol=1e-4, atol=1e-5)
    # where samples are packed, a token that is not there asks nothing
    assert (first[~there].abs().max() == 0) == nested


@pytest.mark.case("C19")
@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_the_module_alone_is_not_asked_for_more_than_its_caller_asked(need, batch_first) -> None:
    """Of a caller who asks for weights the output of a wholly masked query is NaN, and so is its map."""
    model, x = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval(), torch.randn(3, 5, 16)
    nn.init.normal_(model.in_proj_bias)
    tokens = x if batch_first else x.transpose(0, 1)
    given = {"query": tokens, "key": tokens, "value": tokens, "key_padding_mask": PADDING, "need_weights": need}
    want = model(**given)[0]
    got, maps = watched(model, given)
    assert same_bits(got, want)
    finite = (want if batch_first else want.transpose(0, 1)).isfinite().all(-1)
    there = maps[""]["combined"].isfinite().all(-1)
    assert torch.equal(there, finite[:, None].expand(-1, 4, -1))
    weights = by_hand(model.double(), x.double(), PADDING, None)
    torch.testing.assert_close(maps[""]["combined"].double()[there], weights[there], rtol=1e-4, atol=1e-5)


@pytest.mark.case("C19")
@pytest.mark.parametrize("mask", ["bool", "float"])
@torch.no_grad()
def test_a_kernel_whose_queries_may_look_at_nothing(mask) -> None:
    class Kernel(nn.Module):
        def forward(self, q, k, v, m):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=m)

    q, k, v = torch.randn(3, 2, 2, 5, 8)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril(-1)
    m = allowed if mask == "bool" else torch.zeros(5, 5).masked_fill(~allowed, float("-inf"))
    want = Kernel()(q, k, v, m)
    got, maps = watched(Kernel(), {"q": q, "k": k, "v": v, "m": m})
    assert torch.equal(got, want)
    assert want.isfinite().all()
    torch.testing.assert_close(maps[""]["combined"] @ v, want)
    assert (maps[""]["combined"][:, :, 0] == 0).all()
    k[0, 0, 3] = float("nan")
    got, maps = watched(Kernel(), {"q": q, "k": k, "v": v, "m": m})
    # what is NaN in the output is NaN in the map
    assert torch.equal(maps[""]["combined"].isnan().any(-1), got.isnan().any(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_maps_of_kernels_in_half_precision_are_rounded_once(dtype) -> None:
    model = nn.MultiheadAttention(32, 4, batch_first=True).eval().to(dtype)
    x = (3 * torch.randn(2, 9, 32)).to(dtype)

    class Kernel(nn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v)

    q, k, v = (heads_of(model, x, part) for part in range(3))
    maps = attention_maps(Kernel(), {"q": q, "k": k, "v": v})[""]["combined"]
    assert maps.dtype == dtype
    want = (q.double() @ k.double().mT / 8**0.5).softmax(-1)
    # one rounding of numbers up to 1
    torch.testing.assert_close(maps.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.case("C12")
@torch.no_grad()
def test_decoders_show_both_attentions_of_a_layer() -> None:
    model = nn.Transformer(16, 4, 1, 2, 32, dropout=0.0, batch_first=True).eval()
    source, target = torch.randn(2, 6, 16), torch.randn(2, 3, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    want = model(source, target, tgt_mask=mask)
    got, maps = watched(model, {"src": source, "tgt": target, "tgt_mask": mask})
    assert torch.equal(got, want)
    shapes = {name: tuple(value["combined"].shape[-2:]) for name, value in maps.items()}
    parts = {f"decoder.layers.{n}.{name}": (3, keys) for n in (0, 1) for name, keys in (("self_attn", 3), ("multihead_attn", 6))}
    assert shapes == {"encoder.layers.0.self_attn": (6, 6)} | parts
    assert maps["decoder.layers.0.self_attn"]["combined"].triu(1).abs().max() == 0
