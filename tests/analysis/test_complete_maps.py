"""Maps are complete or say what is missing, and each is the one that its output was made with."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal import InputError
from foveal.analysis import attention_maps, rollout
from tests.convert.test_hosts import SIDE, stirred

timm = pytest.importorskip("timm")
IMAGES = (2, 3, SIDE, SIDE)


def fused(model: nn.Module, on: bool) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = on
    return model


def shown(model: nn.Module, given: object) -> dict[str, dict[str, Tensor]]:
    """All maps of a run that has to be the unwatched one to the bit."""
    with torch.no_grad():
        want = model(**given) if isinstance(given, dict) else model(given)
        outputs: list[object] = []
        handle = model.register_forward_hook(lambda _, args, output: outputs.append(output))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps = attention_maps(model, given)
        handle.remove()
    for got, before in zip(tensors(outputs[0]), tensors(want), strict=True):
        assert torch.equal(got, before)
    return maps


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if hasattr(value, "values") else value if isinstance(value, (tuple, list)) else ()
    return [x for part in parts for x in tensors(part)]


def eager_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What enters the dropout of maps with timm's fused path off."""
    seen, handles = {}, []
    for name, module in fused(model, False).named_modules():
        if isinstance(drop := getattr(module, "attn_drop", None), nn.Module):
            handles.append(drop.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0])))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def in_windows(x: Tensor, heads: int) -> Tensor:
    """``(…, H, N, N)`` by its size, windows into the batch."""
    place = next(axis for axis in (1, x.ndim - 3) if x.shape[axis] == heads)
    return x.movedim(place, -3).reshape(-1, heads, *x.shape[-2:])


TIMM = {
    "pvt": (lambda: timm.models.PyramidVisionTransformerV2(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4), num_classes=5), 64, 4),
    "twins": (lambda: timm.models.Twins(SIDE, depths=(1, 2), embed_dims=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(2, 1), wss=(4, 4)), SIDE, 3),
    "hiera": (lambda: timm.models.Hiera(img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), num_classes=5), 64, 4),
    "mvitv2": (lambda: timm.create_model("mvitv2_tiny", img_size=64, num_classes=5), 64, 10),
    "levit": (lambda: timm.create_model("levit_128s", num_classes=5), 224, 11),
    "swinv2": (lambda: timm.models.SwinTransformerV2(img_size=64, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5), 64, 4),
    "tiny_vit": (lambda: timm.create_model("tiny_vit_5m_224", num_classes=5), 64, 10),
    "halo": (lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), timm.layers.halo_attn.HaloAttn(16, 16, num_heads=2, block_size=4, halo_size=1)), 64, 1),
    "mobilevit": (lambda: timm.create_model("mobilevit_xxs", num_classes=5), 64, 9),
    "volo": (
        lambda: timm.models.VOLO((1, 1, 0, 0), SIDE, num_classes=5, patch_size=8, stem_hidden_dim=8, embed_dims=(12, 24, 24, 24), num_heads=(2, 4, 4, 4)),
        SIDE,
        4,
    ),
    "shvit": (lambda: timm.create_model("shvit_s1", num_classes=5), 64, 9),
    "coatnet": (lambda: timm.create_model("test_coatnet", img_size=64, num_classes=5) if timm.is_model("test_coatnet") else None, 64, 3),
}


@pytest.mark.case("C12", "H6")
@pytest.mark.parametrize("name", TIMM)
def test_timm_shows_every_attention_fused_or_not(name) -> None:
    make, side, count = TIMM[name]
    torch.manual_seed(0)
    model, images = stirred(make()).eval(), torch.randn(2, 3, side, side)
    maps, open_maps = (shown(fused(model, on), images) for on in (True, False))
    assert list(maps) == list(open_maps)
    assert len(maps) == count
    assert maps.missing == open_maps.missing == {}
    for layer, named in maps.items():
        assert list(named) == ["combined"]
        torch.testing.assert_close(named["combined"], open_maps[layer]["combined"], rtol=1e-3, atol=1e-5)
        attn = model.get_submodule(layer)
        assert named["combined"].shape[1] == getattr(attn, "num_heads", getattr(attn, "heads", 1))
        torch.testing.assert_close(named["combined"].sum(-1), torch.ones(named["combined"].shape[:-1]), rtol=1e-4, atol=1e-5)
    for layer, want in eager_maps(model, images).items():
        if want.ndim > 3:
            torch.testing.assert_close(open_maps[layer]["combined"], in_windows(want, open_maps[layer]["combined"].shape[1]))


@pytest.mark.case("H5")
def test_the_map_of_talking_heads_is_the_mixed_one() -> None:
    torch.manual_seed(0)
    model = stirred(timm.models.Cait(img_size=SIDE, patch_size=8, embed_dim=24, depth=2, num_heads=4, num_classes=5)).eval()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("blocks.0.attn", "blocks.1.attn"):
        model.get_submodule(name).register_forward_hook(lambda _, args, output, name=name: seen.update({name: (args[0], output)}))
    maps = shown(model, torch.randn(IMAGES))
    assert list(maps)[:2] == list(seen)
    assert len(maps) == 4
    assert maps.missing == {}
    for name, (x, y) in seen.items():
        attn, got = model.get_submodule(name), maps[name]["combined"]
        values = attn.qkv(x).unflatten(-1, (3, 4, 6))[:, :, 2].transpose(1, 2)
        torch.testing.assert_close(attn.proj((got @ values).transpose(1, 2).flatten(2)), y, rtol=1e-4, atol=1e-5)
        assert (got.sum(-1) - 1).abs().max() > 0.1, "mixed heads are no distribution any more"


@pytest.mark.case("H5")
def test_the_map_of_a_gate_is_the_gated_sum() -> None:
    torch.manual_seed(0)
    model = stirred(timm.models.ConVit(img_size=SIDE, patch_size=8, embed_dim=24, depth=2, num_heads=4, num_classes=5, local_up_to_layer=1)).eval()
    seen: dict[str, Tensor] = {}
    attn = model.blocks[0].attn
    attn.register_forward_hook(lambda _, args, output: seen.update(x=args[0], y=output))
    maps = shown(model, torch.randn(IMAGES))
    assert list(maps) == ["blocks.0.attn", "blocks.1.attn"]
    assert list(maps["blocks.0.attn"]) == ["combined"]
    values = attn.v(seen["x"]).unflatten(-1, (4, 24)).transpose(1, 2)
    out = attn.proj((maps["blocks.0.attn"]["combined"] @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, seen["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.case("H5")
@pytest.mark.parametrize("on", [True, False])
def test_a_differential_pair_is_one_signed_map(on) -> None:
    from timm.layers.diff_attention import DiffAttention

    torch.manual_seed(0)
    model = fused(stirred(nn.Sequential(DiffAttention(24, num_heads=3, depth=2))).eval(), on)
    x = torch.randn(2, 7, 24)
    maps = shown(model, x)
    assert list(maps) == ["0"]
    assert maps.missing == {}
    got, attn = maps["0"], model[0]
    with torch.no_grad():
        q, k = (part.unflatten(-1, (6, 4)).transpose(1, 2).double() for part in attn.qkv(x).chunk(3, -1)[:2])
        halves = (q @ k.mT / 2).softmax(-1)
        one, other = halves[:, 0::2], halves[:, 1::2]
        strength = attn._compute_lambda().double()
    torch.testing.assert_close(got["positive"].double(), one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["negative"].double(), other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["combined"].double(), one - strength * other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rollout(model, x, signed="negative"), (0.5 * (torch.eye(7) + other.mean(1))).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.case("C12")
def test_what_has_no_map_is_named_with_the_reason() -> None:
    torch.manual_seed(0)
    # tokens as many as channels of a head: sizes do not tell what attends
    model = timm.models.Xcit(img_size=SIDE, patch_size=8, embed_dim=32, depth=2, cls_attn_layers=1, num_heads=2, num_classes=5).eval()
    images = torch.randn(IMAGES)
    with pytest.warns(UserWarning, match=r"maps of 2 attentions that ran are missing: blocks.0.attn, blocks.1.attn: it attends between channels"):
        maps = attention_maps(model, images)
    assert list(maps) == ["cls_attn_blocks.0.attn"]
    assert list(maps.missing) == ["blocks.0.attn", "blocks.1.attn"]
    assert list(attention_maps(model, images, where="cls_attn_blocks.*")) == list(maps)
    with pytest.raises(InputError, match=r"leave them out of `where`: blocks\.1\.attn: it attends between channels"):
        attention_maps(model, images, where="*blocks.1.*")
    with pytest.raises(InputError, match=r"rollout has no map of 2 attentions"):
        rollout(model, images)


class Linear(nn.Module):
    """Linear attention: keys are summed up before queries come."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = num_heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)
        return self.proj(out.transpose(1, 2).flatten(2))


class DeformedAttention(Linear):
    """Weights over sampled points, not multiplied as matrices."""

    def forward(self, x):
        weights = self.qkv(x)[..., :4].softmax(-1)
        sampled = torch.stack([x.roll(n, 1) for n in range(4)], -1)
        return self.proj((sampled * weights[:, :, None]).sum(-1))


@pytest.mark.case("C12")
@pytest.mark.parametrize(("kind", "reason"), [(Linear, "it sums tokens up by channel"), (DeformedAttention, "rows were normalized in it, and no product")])
def test_attention_without_a_map_beside_one_with(kind, reason) -> None:
    torch.manual_seed(0)
    # as many tokens as a head has channels
    model, x = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), kind(16, 2)).eval(), torch.randn(2, 8, 16)
    with pytest.warns(UserWarning, match=reason):
        maps = attention_maps(model, x)
    assert list(maps) == ["0.self_attn"]
    assert list(maps.missing) == ["1"]
    with pytest.raises(InputError, match=f"no attention whose maps could be seen; those that ran: 1: {reason}"):
        attention_maps(nn.Sequential(nn.Linear(16, 16), kind(16, 2)).eval(), x)


# -- by hand, as people write it --------------------------------------------------------------------------------------------------------------------


class Hand(nn.Module):
    """Attention written by hand; ``write`` says how."""

    def __init__(self, write: str, dim: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.write, self.heads = write, heads
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(dim, dim) for _ in range(4))
        self.attend, self.mix = nn.Softmax(dim=-1), nn.Parameter(torch.randn(heads, heads))

    def forward(self, hidden_states):
        q, k, v = (layer(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        return self.to_out(getattr(self, self.write)(q, k, v).transpose(1, 2).flatten(2))

    def einops(self, q, k, v):
        attn = self.attend(torch.einsum("b h i d, b h j d -> b h i j", q, k) / q.shape[-1] ** 0.5)
        return torch.einsum("bhij,bhjd->bhid", attn, v)

    def batched(self, q, k, v):
        b, h, n, d = q.shape
        q, k, v = (x.reshape(b * h, n, d) for x in (q, k, v))
        attn = torch.bmm(q * d**-0.5, k.transpose(1, 2)).softmax(dim=2)
        return torch.bmm(F.dropout(attn, 0.4, training=self.training), v).view(b, h, n, d)

    def turned(self, q, k, v):
        """Keys ask along the last axis but one, and values stand on the left, as in C2PSA."""
        attn = torch.softmax(k @ q.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-2)
        return (v.transpose(-2, -1) @ attn).transpose(-2, -1)

    def exponents(self, q, k, v):
        logits = q @ k.mT / q.shape[-1] ** 0.5
        attn = torch.exp(logits - logits.amax(-1, keepdim=True))
        return (attn / (attn.sum(dim=-1, keepdim=True) + 1e-9)).matmul(v)

    def renormed(self, q, k, v):
        attn = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        attn = torch.where(attn > attn.mean(-1, keepdim=True), attn, torch.zeros_like(attn))
        return (attn / attn.sum(-1, keepdim=True)) @ v

    def mixed(self, q, k, v):
        attn = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return torch.einsum("bhij,hg->bgij", attn, self.mix) @ v

    def convolved(self, q, k, v):
        attn = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return F.conv2d(attn, self.mix[:, :, None, None]) @ v

    def squared(self, q, k, v):
        return ((q @ k.mT / q.shape[-1] ** 0.5).relu() ** 2 / q.shape[-2]) @ v

    def half(self, q, k, v):
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1, dtype=torch.float64).to(v.dtype) @ v

    def subtracted(self, q, k, v):
        one, other = ((part[0] @ part[1].mT).softmax(-1) for part in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True))
        return (one - 0.3 * other) @ v

    def subtracted_late(self, q, k, v):
        one, other = (F.scaled_dot_product_attention(*part, v) for part in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True))
        return one - other * 0.3


HANDS = [name for name in vars(Hand) if name not in vars(nn.Module) and not name.startswith("_") and name != "forward"]


@pytest.mark.case("C12", "H6", "H5")
@pytest.mark.parametrize("write", HANDS)
@pytest.mark.parametrize("tokens", [6, 9])
def test_attention_by_hand_is_seen_however_it_is_written(write, tokens) -> None:
    """Applied to the values, the map gives what the module gives: with as many tokens as channels of a head, too, and by keyword."""
    torch.manual_seed(0)
    model, x = stirred(nn.Sequential(Hand(write))).eval(), torch.randn(2, tokens, 24)
    maps = shown(model, x)
    assert list(maps) == ["0"]
    assert maps.missing == {}
    got, attn = maps["0"]["combined"], model[0]
    assert got.shape == (2, 4, tokens, tokens)
    with torch.no_grad():
        values = attn.to_v(x).unflatten(-1, (4, 6)).transpose(1, 2)
        torch.testing.assert_close(attn.to_out((got @ values).transpose(1, 2).flatten(2)), model(x), rtol=1e-4, atol=1e-5)
    signed = write.startswith("subtracted")
    assert set(maps["0"]) == ({"positive", "negative", "combined"} if signed else {"combined"})
    if signed:
        torch.testing.assert_close(maps["0"]["positive"] - 0.3 * maps["0"]["negative"], got)
        torch.testing.assert_close(maps["0"]["negative"].sum(-1), torch.ones(2, 4, tokens))
    by_name = attention_maps(attn, {"hidden_states": x})
    torch.testing.assert_close(by_name[""]["combined"], got)
    assert torch.equal(attention_maps(model.train(), x)["0"]["combined"], got), "dropout is off"


@pytest.mark.case("C12")
def test_modules_in_modules_and_twice() -> None:
    """An attention in an attention, one that runs twice, and one over another input."""

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.inner, self.kv = 4, Hand("einops"), nn.Linear(24, 48)

        def forward(self, x, context):
            x = self.inner(self.inner(x))
            k, v = self.kv(context).chunk(2, -1)
            q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in (x, k, v))
            return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)

    model = Cross().eval()
    x, context = torch.randn(2, 5, 24), torch.randn(2, 3, 24)
    maps = attention_maps(model, {"x": x, "context": context})
    assert {name: tuple(value["combined"].shape) for name, value in maps.items()} == {"inner": (2, 4, 5, 5), "inner:2": (2, 4, 5, 5), "": (2, 4, 5, 3)}
    assert maps.missing == {}
    with torch.no_grad():
        again = attention_maps(model.inner, model.inner(x))[""]["combined"]
    torch.testing.assert_close(maps["inner:2"]["combined"], again)


@pytest.mark.case("C12")
def test_no_softmax_elsewhere_is_taken_for_attention() -> None:
    """A gate over channels, classes by pixel, an expectation over fixed places."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.attn = nn.Conv2d(3, 8, 4, 4), Hand("einops", 8, 2)
            self.register_buffer("places", torch.linspace(-1, 1, 64)[:, None])

        def forward(self, x):
            x = self.conv(x)
            x = x * x.softmax(1)
            center = x.flatten(2).softmax(-1) @ self.places
            tokens = x.flatten(2).transpose(1, 2)
            return self.attn(tokens + tokens * tokens.softmax(1)), center

    maps = attention_maps(Other().eval(), torch.randn(IMAGES))
    assert list(maps) == ["attn"]
    assert maps.missing == {}
    torch.testing.assert_close(maps["attn"]["combined"].sum(-1), torch.ones(2, 2, 64))


class SilentAttention(nn.Module):
    """Heads in the batch, and nobody says how many."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (part.view(b, n, 4, 6).transpose(1, 2).reshape(b * 4, n, 6) for part in self.qkv(x).chunk(3, -1))
        out = torch.bmm((torch.bmm(q, k.transpose(1, 2)) / 6**0.5).softmax(-1), v)
        return self.proj(out.view(b, 4, n, 6).transpose(1, 2).flatten(2))


@pytest.mark.case("C12", "H6")
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_heads_in_the_batch_are_told_by_the_number_of_samples(batch) -> None:
    torch.manual_seed(0)
    model, x = SilentAttention().eval(), torch.randn(batch, 5, 24)
    maps = shown(model, x)[""]["combined"]
    assert maps.shape == (batch, 4, 5, 5)
    values = model.qkv(x)[..., 48:].unflatten(-1, (4, 6)).transpose(1, 2)
    torch.testing.assert_close(model.proj((maps @ values).transpose(1, 2).flatten(2)), model(x), rtol=1e-4, atol=1e-5)


class Linformer(Hand):
    """Keys and values are summed up along the tokens by a linear map: as many as a head has channels."""

    def __init__(self, write: str = "einops") -> None:
        super().__init__(write)
        self.fewer = nn.Linear(9, 6)

    def forward(self, x):
        fewer = self.fewer(x.transpose(1, 2)).transpose(1, 2)
        q, k, v = (layer(of).unflatten(-1, (4, 6)).transpose(1, 2) for layer, of in ((self.to_q, x), (self.to_k, fewer), (self.to_v, fewer)))
        return self.to_out(getattr(self, self.write)(q, k, v).transpose(1, 2).flatten(2))


class LinformerBehind(Linformer):
    """The linear map behind those to keys and values."""

    def forward(self, x):
        q, k, v = (layer(x) for layer in (self.to_q, self.to_k, self.to_v))
        k, v = (self.fewer(part.transpose(1, 2)).transpose(1, 2) for part in (k, v))
        q, k, v = (part.unflatten(-1, (4, 6)).transpose(1, 2) for part in (q, k, v))
        return self.to_out(getattr(self, self.write)(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.case("C12")
@pytest.mark.parametrize("kind", [Linformer, LinformerBehind])
@pytest.mark.parametrize("stem", [True, False], ids=["patches", "features"])
def test_tokens_mixed_by_a_linear_map_are_no_channels(kind, stem) -> None:
    torch.manual_seed(0)
    attn = kind()
    cut = nn.Sequential(nn.Conv2d(3, 24, 8, 8), nn.Flatten(2)) if stem else nn.Linear(5, 24)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.attn = cut, attn

        def forward(self, x):
            return self.attn(self.cut(x).transpose(1, 2) if stem else self.cut(x))

    maps = shown(Model().eval(), torch.randn(2, 3, 24, 24) if stem else torch.randn(2, 9, 5))
    assert maps.missing == {}
    assert {name: tuple(value["combined"].shape) for name, value in maps.items()} == {"attn": (2, 4, 9, 6)}
