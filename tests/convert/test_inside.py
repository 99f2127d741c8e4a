"""What is done between maps and the softmax goes on in the place of the host: turned, pooled, cut, capped, added; or it is refused and said."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention
from foveal.functional import softmax_attention, softmax_attention_map
from tests.convert.inside import (
    CASES,
    CappedAttention,
    Case,
    One,
    OwningAttention,
    PlacedAttention,
    StarredAttention,
    TurningAttention,
    UnitAttention,
    heads_of,
)
from tests.convert.test_hosts import stirred

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = ((16, 16), (32, 16))


def images(index: int = 0, seed: int = 5, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZES[index], generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_the_function_is_kept_and_given_back(case) -> None:
    """Read at one size; the oracle is the host at two. Denoising starts there, learns, and what goes on beside it has the host's gradients."""
    host = case.model()
    state = {name: value.clone() for name, value in host.state_dict().items()}
    for config in (SoftmaxAttention.Config(), DenoisingAttention.Config()):
        model = copy.deepcopy(host)
        report = foveal.convert_(model, config, warm_start="exact", inputs=images())
        assert [(swap.name, swap.output) for swap in report.swaps] == [(case.place, "identical")]
        assert not any("stay its host's" in note for note in report.swaps[0].notes)
        for index in range(2):
            given = images(index, seed=9)
            torch.testing.assert_close(model(given), host(given), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model(given[:1]), host(given[:1]), rtol=1e-5, atol=1e-5)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images(1)), model(images(1)))
        for one in (host, model):
            one.zero_grad()
            one(images()).square().sum().backward()
        assert all(value.grad is not None for value in model.parameters())
        for name in ("stem.weight", *([f"attn.{case.kept}"] if case.kept else [])):
            want = host.get_parameter(name).grad
            torch.testing.assert_close(model.get_parameter(name).grad, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        foveal.revert_(model)
        assert torch.equal(model(images()), host(images()))
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_it_is_kept_in_deltas_and_folders(case, tmp_path) -> None:
    """Read anew without a batch, proven on the shapes that were kept, to the last bit."""
    pytest.importorskip("safetensors")
    model = case.model()
    foveal.convert_(model, DenoisingAttention.Config(), warm_start=0.1, inputs=images())
    want = model(images(1))
    foveal.save_delta(model, tmp_path / "delta.safetensors")
    foveal.save_pretrained(model, tmp_path / "model")
    other = case.model()
    foveal.load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(other(images(1)), want)
    assert torch.equal(foveal.from_pretrained(tmp_path / "model", build=case.model)(images(1)), want)


def test_maps_are_those_of_the_host(case) -> None:
    """Rows sum to one; and there are as many as queries that ask."""
    model = case.model()
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images())
    (maps,) = foveal.attention_maps(model, images()).values()
    torch.testing.assert_close(maps["combined"].sum(-1), torch.ones_like(maps["combined"][..., 0]))
    assert maps["combined"].shape[-2] == {"queries pooled": 4, "windows behind the map": 2}.get(next(name for name, one in CASES.items() if one is case), 16)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alone])
def test_an_attention_that_cannot_stand_there_is_refused_before(name) -> None:
    model = CASES[name].model()
    want = model(images())
    with pytest.raises(InputError, match=CASES[name].alone):
        foveal.convert_(model, ExternalAttention.Config(), inputs=images())
    assert torch.equal(model(images()), want)


@pytest.mark.parametrize("name", ["queries pooled", *(pytest.param(name, marks=pytest.mark.slow) for name in ("turned", "windows behind the map"))])
def test_it_compiles_whole(name) -> None:
    model = CASES[name].model()
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images())
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images()), model(images()), rtol=1e-5, atol=1e-5)


def test_pooled_queries_are_pooled_with_their_own_sign_once_fused() -> None:
    """The negative query's sign is folded into its weights, and the largest of what is turned over is not the largest."""
    model = CASES["queries pooled"].model()
    foveal.convert_(model, DenoisingAttention.Config(), warm_start=0.7, inputs=images())
    want = model(images(seed=9))
    foveal.fuse_(model.eval())
    torch.testing.assert_close(model(images(seed=9)), want, rtol=1e-4, atol=1e-5)


def test_heads_that_its_own_code_turns_cannot_become_more() -> None:
    model = CASES["turned"].model()
    with pytest.raises(InputError, match="turns or pools its heads"):
        foveal.convert_(model, SoftmaxAttention.Config(extra_heads=1), inputs=images())


def test_dropout_that_is_a_function_follows_the_mode() -> None:
    """Of the map it is ours, and behind the output map the host's own goes on."""
    model = CASES["maps of the owner"].model()
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images())
    assert model.attn.attn.attn_drop.p == 0.2
    model.attn.attn.attn_drop.p = 0.0
    still = model.eval()(images())
    assert torch.equal(model(images()), still)
    torch.manual_seed(1)
    first = model.train()(images())
    assert not torch.allclose(first, still)


def test_a_mask_is_added_outside_of_the_cap() -> None:
    host = stirred(CappedAttention())
    tokens, mask = torch.randn(2, 5, 16), 4 * torch.randn(2, 1, 5, 5)
    want, weights = host(tokens, mask)
    model = nn.ModuleDict({"attn": copy.deepcopy(host)})
    model.forward = lambda x: model.attn(x)[0]  # type: ignore[method-assign]
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=tokens)
    have, maps = model.attn(tokens, mask)
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps, weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_capped_logits_by_the_formula(causal) -> None:
    """In float64, pair by pair."""
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5) > 0.2
    mask[..., 0] = True
    logits = 1.5 * torch.tanh(torch.einsum("bhnd,bhmd->bhnm", q, k) * 2 / 1.5)
    open_ = mask & torch.ones(5, 5, dtype=torch.bool).tril() if causal else mask
    want = logits.masked_fill(~open_, -torch.inf).softmax(-1)
    options = {"mask": mask, "is_causal": causal, "scale": 2.0, "softcap": 1.5}
    torch.testing.assert_close(softmax_attention_map(q, k, **options), want)
    torch.testing.assert_close(softmax_attention(q, k, v, **options), want @ v)
    ours = DenoisingAttention(16, 2, core_options={"softcap": 1.5})
    assert ours.core.softcap == 1.5
    with pytest.raises(InputError, match="above 0"):
        DenoisingAttention(16, 2, core_options={"softcap": 0.0})


def test_centered_attention_has_no_cap() -> None:
    model = CASES["capped"].model()
    with pytest.raises(InputError, match="hyperbolic tangent"):
        foveal.convert_(model, SoftmaxAttention.Config(center=True), inputs=images())


class BentAttention(CappedAttention):
    def bent(self, logits: Tensor) -> Tensor:
        return F.softsign(logits) * self.cap


class GatedAttention(TurningAttention):
    """What queries are multiplied with is made of tokens by a further map."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 16)
        del self.even

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        gate = self.gate(x).sigmoid().unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.o(F.scaled_dot_product_attention(q * gate, k, v).transpose(1, 2).flatten(2))


class TimesAttention(PlacedAttention):
    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.qc(x) * self.qp(where), self.kc(x) + self.kp(where), self.v(x)))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MeanKeysAttention(UnitAttention):
    """Keys are means over tokens behind their map, and so are values."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        k, v = (part.unflatten(2, (2, -1)).mean(2) for part in (k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OfNumbersAttention(StarredAttention):
    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return super().forward(x if x.abs().max() > 2 else 2 * x, height, width)


class WeighingAttention(OwningAttention):
    """Makes more of its map than to hand it on."""

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        out, weights = super().forward(x, where)
        return out * weights.amax((1, 2)).mean(-1)[:, None, None]


class AssigningAttention(nn.Module):
    """Tokens go to groups: the softmax is over those who ask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(layer, x, 2) for layer in (self.q, self.k, self.v))
        weights = (q[:, :, :4] @ k.mT).softmax(-2)
        return self.o((weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("make", "how"),
    [(GatedAttention, "tokens"), (TimesAttention, "positions"), (MeanKeysAttention, "tokens")],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_maps_that_cannot_be_ours_stay_the_hosts(make, how) -> None:
    """What makes queries and keys goes on as its code, and ours takes over where they meet."""
    host = stirred(One(make(), how))
    model = copy.deepcopy(host)
    report = foveal.convert_(model, SoftmaxAttention.Config(), "attn", inputs=images())
    assert [(swap.name, swap.output) for swap in report.swaps] == [("attn", "identical")]
    assert any("stay its host's" in note for note in report.swaps[0].notes)
    assert set(dict(host.named_parameters())) <= set(dict(model.named_parameters()))
    given = images(1, seed=9)
    torch.testing.assert_close(model(given), host(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "how", "why"),
    [
        (BentAttention, "tokens", "softsign|do not make its logits"),
        (OfNumbersAttention, "counted", "symbolically traced variables cannot be used as inputs to control flow"),
        (WeighingAttention, "positions", "no linear map takes its tokens"),
        (AssigningAttention, "tokens", "its softmax is over something else than keys"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_is_not_that_is_refused(make, how, why) -> None:
    model = stirred(One(make(), how))
    want = model(images())
    with pytest.raises(InputError, match=why):
        foveal.convert_(model, SoftmaxAttention.Config(), inputs=images())
    assert torch.equal(model(images()), want)


class SmallerAttention(StarredAttention):
    """Another path where there is much."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return super().forward(x * 3 if height * width == 32 else x, height, width)


class LargestAttention(StarredAttention):
    """A path of its own at a width that is known behind a convolution alone."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        out = super().forward(x, height, width)
        return out if self.less(x.mT.unflatten(2, (height, width))).shape[-1] != 6 else out * 2


@pytest.mark.parametrize(("make", "other"), [(SmallerAttention, (32, 16)), (LargestAttention, (16, 48))])
def test_other_sizes_at_which_it_goes_another_way_are_an_error_and_no_guess(make, other) -> None:
    model = stirred(One(make(), "counted"))
    host = copy.deepcopy(model)
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images())
    given = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(model(given), host(given), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="does something else than where it was read"):
        model(torch.randn(2, 3, *other))
