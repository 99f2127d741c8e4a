"""Attentions whose host makes queries, keys and values in ways of its own: those go on, and where queries meet keys ours takes over."""

import copy
import pickle
from math import inf

import pytest
import torch
from torch import nn

import foveal
from foveal import DenoisingAttention, EfficientAttention, ExternalAttention, InputError, SoftmaxAttention, convert, convert_, load_delta, save_delta
from foveal.convert.structure._between import gain_of
from tests.convert.cored import CASES, REFUSED
from tests.convert.kept import Case, One
from tests.convert.test_hosts import stirred

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize("config", [SoftmaxAttention.Config(), DenoisingAttention.Config()], ids=lambda config: config.attention)
def test_the_function_is_kept_at_all_sizes_and_so_is_the_way_back(case, config) -> None:
    host, images = case.model(), case.images()
    state = {key: value.clone() for key, value in host.state_dict().items()}
    model, report = convert(host, config, case.where, warm_start="exact", inputs=images)
    assert [(swap.name, swap.output, swap.dropped) for swap in report.swaps] == [("attn", "identical", [])]
    for index in range(len(case.sizes)):
        given = case.images(index, seed=9)
        torch.testing.assert_close(model(given), host(given), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(given[:1]), host(given[:1]), rtol=1e-5, atol=1e-5)
    foveal.revert_(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images), host(images))


def test_gradients_are_the_hosts_own(case) -> None:
    host = case.model()
    model, _ = convert(host, SoftmaxAttention.Config(), case.where, inputs=case.images())
    images = case.images(seed=9)
    for one in (host, model):
        one(images).square().sum().backward()
    for name in ("stem.weight", *(f"attn.{one}" for one in case.kept)):
        want = host.get_parameter(name).grad
        torch.testing.assert_close(model.get_parameter(name).grad, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert {key for key, value in model.named_parameters() if value.grad is None} == {key for key, value in host.named_parameters() if value.grad is None}


@pytest.mark.parametrize("name", ["MViT v2", "a factor and a bias that are learned", "rows of a map"])
def test_copies_dtypes_compilers_and_files_go_on(name, tmp_path) -> None:
    case = CASES[name]
    host, images = case.model(), case.images(seed=9)
    model, _ = convert(host, DenoisingAttention.Config(), inputs=case.images())
    want = model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), want)
    exact = convert(host, SoftmaxAttention.Config(), inputs=case.images())[0].double()
    torch.testing.assert_close(exact(images.double()), copy.deepcopy(host).double()(images.double()), rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()
    if name == "rows of a map":
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), want, rtol=1e-5, atol=1e-5)
    model = case.model()
    convert_(model, DenoisingAttention.Config(), inputs=case.images())
    with torch.no_grad():
        model.attn.attn.q_neg.weight.add_(0.1)
    save_delta(model, tmp_path / "delta.safetensors")
    other = case.model()
    load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(other(images), model(images))


def test_dropout_and_training_are_the_hosts() -> None:
    case = CASES["a factor and a bias that are learned"]
    model, _ = convert(case.model(), SoftmaxAttention.Config(), inputs=case.images())
    assert model.attn.attn.attn_drop.p == 0.1
    assert model.attn.attn.num_heads == 2
    images = case.images(seed=9)
    assert not torch.equal(model.train()(images), model(images))


def test_a_factor_that_is_a_parameter_stays_one() -> None:
    """Trained later, it counts."""
    case = CASES["a factor and a bias that are learned"]
    host = case.model()
    model, _ = convert(host, SoftmaxAttention.Config(), inputs=case.images())
    with torch.no_grad():
        for one in (host, model):
            one.attn.tau.mul_(-3)
    torch.testing.assert_close(model(case.images()), host(case.images()), rtol=1e-5, atol=1e-5)


def test_heads_are_found_and_maps_are_shown() -> None:
    """Of windows with two heads, of a mean of rows: every map has rows of one, and as many heads as the host."""
    for name, heads in {"Hiera, pooled": 2, "MViT v2": 2, "iFormer": 1, "rows of a map": 1, "Swin V2, CR": 2}.items():
        case = CASES[name]
        model, _ = convert(case.model(), SoftmaxAttention.Config(), inputs=case.images())
        maps = foveal.analysis.attention_maps(model, case.images())["attn"]["combined"]
        assert maps.shape[1] == heads, name
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))


@pytest.mark.parametrize("kind", list(REFUSED), ids=lambda kind: kind.__name__)
def test_what_is_no_softmax_over_tokens_is_refused_in_words(kind) -> None:
    how = "tokens" if kind.__name__ == "MixedAttention" else "rows"
    model, images = stirred(One(kind(), how)), torch.randn(2, 3, 32, 32)
    want = model(images)
    with pytest.raises(InputError, match=REFUSED[kind]):
        convert_(model, SoftmaxAttention.Config(), "attn", inputs=images)
    assert torch.equal(model(images), want)


@pytest.mark.parametrize("factor", [40.0, 0.3, -2.0])
def test_a_factor_is_seen_beside_numbers_that_close_pairs(factor) -> None:
    """In float32 neighbors of 1e9 are 64 apart."""
    closed = torch.where(torch.tensor([False, True, False]), -1e9, 0.0).expand(2, 3, 3)
    assert gain_of(closed + factor, closed).flatten().tolist() == pytest.approx([factor] * 2)


def test_others_take_the_heads_or_are_refused() -> None:
    """Efficient attention reads a context; external attention makes its keys itself, and the host's would be lost."""
    model, images = CASES["gated"].model(), CASES["gated"].images()
    with pytest.raises(InputError, match="its queries, keys and values are made by its host; external attention reads no other tokens"):
        convert_(model, ExternalAttention.Config(), "attn", inputs=images)
    report = convert_(model, EfficientAttention.Config(), "attn", inputs=images)
    assert report.swaps[0].output == "changed"
    model(images).sum().backward()
    assert all(value.grad is not None for value in model.parameters())


class MaskedAttention(CASES["gated"].make):  # type: ignore[misc]
    """A mask that some of its logits are closed by, before a factor."""

    def __init__(self) -> None:
        super().__init__()
        del self.smaller, self.even

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k, v = self.answer(x).chunk(2, dim=-1)
        q, k, v = (part.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.ask(x), k, v))
        logits = q.relu() @ k.transpose(-2, -1)
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -inf) * 0.4
        return self.out((logits.softmax(-1) @ v.relu()).transpose(1, 2).reshape(x.shape)) * self.ask(x).sigmoid()


def test_closed_pairs_stay_closed() -> None:
    model, images = stirred(One(MaskedAttention(), "rows")), torch.randn(2, 3, 32, 32)
    want = model(images)
    assert convert_(model, SoftmaxAttention.Config(), inputs=images).swaps[0].output == "identical"
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)


def test_networks_of_torchvision() -> None:
    """MViT v1 and v2: pooled queries, keys and values, positions of time and space, and queries that are added behind."""
    mvit = pytest.importorskip("torchvision.models.video.mvit")
    for second in (False, True):
        width = 32 if second else 16
        blocks = [
            mvit.MSBlockConfig(1, 16, width, [3, 3, 3] if second else [], [3, 3, 3], [1, 1, 1] if second else [], [1, 2, 2]),
            mvit.MSBlockConfig(2, width, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        ]
        options = {"residual_pool": second, "residual_with_cls_embed": False, "rel_pos_embed": second, "proj_after_attn": second}
        torch.manual_seed(0)
        model: nn.Module = stirred(mvit.MViT((32, 32), 4, blocks, **options, num_classes=5, stochastic_depth_prob=0.0))
        videos = torch.randn(2, 3, 4, 32, 32)
        want = model(videos)
        report = convert_(model, SoftmaxAttention.Config(), inputs=videos)
        assert [swap.output for swap in report.swaps] == ["identical"] * 2
        torch.testing.assert_close(model(videos), want, rtol=1e-5, atol=1e-5)
        model(videos).sum().backward()
        assert all(value.grad is not None for value in model.parameters())
