"""Attentions that reduce keys, cut windows, pool, or have norms behind their maps: what they do beside goes on, and the function is the host's own."""

import copy
import pickle
import re

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, InputError, SoftmaxAttention, convert, convert_
from foveal.attention import attention_class, list_attentions
from tests.convert.kept import CASES, Case, GridAttention, LatentAttention, One, PooledKeysAttention
from tests.convert.test_hosts import stirred

pytestmark = pytest.mark.filterwarnings("ignore")


SOME = ("PVT v2", "FastViT", "MaxViT, wider", "HaloNet", "windows of maps")
"""Of every kind one, for what takes long."""


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def converted(case: Case, config: foveal.AttentionConfig, **options: object) -> tuple[nn.Module, nn.Module, foveal.ConversionReport]:
    host = case.model()
    model, report = convert(host, config, case.where, inputs=case.images(), **options)  # type: ignore[arg-type]
    return host, model, report


@pytest.mark.parametrize("config", [SoftmaxAttention.Config(), DenoisingAttention.Config()], ids=lambda config: config.attention)
def test_the_function_is_kept_at_all_sizes(case, config) -> None:
    """Read from one batch; the oracle is the host on others."""
    host, model, report = converted(case, config, warm_start="exact")
    assert [(swap.name, swap.output) for swap in report.swaps] == [("attn", "identical")]
    for index in range(len(case.sizes)):
        images = case.images(index, seed=9)
        torch.testing.assert_close(model(images), host(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(images[:1]), host(images[:1]), rtol=1e-5, atol=1e-5)


def test_gradients_are_the_hosts_own(case) -> None:
    """Of what goes on beside the attention as of the stem before it; in training where nothing is drawn or counted."""
    host, model, _ = converted(case, SoftmaxAttention.Config())
    images = case.images(seed=9)
    for one in (host, model):
        one(images).square().sum().backward()
    for name in ("stem.weight", *(f"attn.{one}" for one in case.kept)):
        want = host.get_parameter(name).grad
        torch.testing.assert_close(model.get_parameter(name).grad, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_every_attention_runs_and_learns_or_is_refused_before(name) -> None:
    case = CASES[name]
    reasons = "reads no other tokens|has no pairs|changes the width|needs the grid|where its host|needs dim = heads|causal"
    ran: list[str] = []
    told: list[str] = []
    for attention in list_attentions(form="tokens"):
        host, images = case.model(), case.images()
        state, kinds = {key: value.clone() for key, value in host.state_dict().items()}, [type(module) for module in host.modules()]
        try:
            convert_(host, attention_class(attention).Config(), "attn", inputs=images)
        except InputError as error:
            told.append(str(error))
            assert all(torch.equal(value, state[key]) for key, value in host.state_dict().items())
            assert [type(module) for module in host.modules()] == kinds
            continue
        ran.append(attention)
        host(images).square().sum().backward()
        ours = next(module for module in host.modules() if type(module) is attention_class(attention))
        assert all(value.grad is not None for value in ours.parameters()), attention
        foveal.revert_(host)
        assert all(torch.equal(value, state[key]) for key, value in host.state_dict().items())
    assert {"softmax", "denoising"} <= set(ran)
    assert all(re.search(reasons, one) for one in told), told
    assert ("external" in ran) is not (case.reads_others or case.alone or case in (CASES["MaxViT, wider"], CASES["pooling by attention"]))


def test_the_way_back_is_exact(case) -> None:
    model, images = case.model(), case.images(seed=9)
    want, state = model(images), {key: value.clone() for key, value in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    convert_(model, SoftmaxAttention.Config(), case.where, inputs=case.images())
    assert type(model.attn) is not kinds["attn"]
    for one in case.kept:
        assert torch.equal(model.get_parameter(f"attn.{one}"), state[f"attn.{one}"])
    foveal.revert_(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert torch.equal(model(images), want)


def test_copies_dtypes_and_compilers_go_on(case) -> None:
    host, model, _ = converted(case, SoftmaxAttention.Config())
    images = case.images(seed=9)
    want = model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), want)
    torch.testing.assert_close(copy.deepcopy(model).double()(images.double()), copy.deepcopy(host).double()(images.double()), rtol=1e-10, atol=1e-10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, of_host = model(images), host(images)
    assert low.dtype == of_host.dtype
    torch.testing.assert_close(low.float(), want, rtol=0.1, atol=0.1 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["PVT v2", "Twins, windows", "HaloNet"])
def test_it_compiles_whole(name) -> None:
    _, model, _ = converted(CASES[name], SoftmaxAttention.Config())
    images = CASES[name].images(seed=9)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)


def test_training_goes_on_as_in_the_host() -> None:
    """Norms count, and dropout of maps is the host's."""
    host, model, _ = converted(CASES["keys pooled, explicit"], SoftmaxAttention.Config())
    assert model.attn.attn.attn_drop.p == 0.1
    host, model, _ = converted(CASES["windows of maps"], SoftmaxAttention.Config())
    images = CASES["windows of maps"].images(seed=9)
    torch.testing.assert_close(model.train()(images), host.train()(images), rtol=1e-4, atol=1e-4)
    counted = [(key, value) for key, value in model.named_buffers() if key.endswith("running_mean")]
    assert len(counted) == 1
    torch.testing.assert_close(counted[0][1], host.attn.bn.running_mean)


def test_learned_queries_are_left_by_default_and_it_is_said() -> None:
    torch.manual_seed(0)
    model = stirred(One(nn.Sequential(PooledKeysAttention(), nn.Flatten(1, 2), LatentAttention()), "rows"))
    report = convert_(model, SoftmaxAttention.Config(), inputs=torch.randn(2, 3, 32, 32))
    assert [swap.name for swap in report.swaps] == ["attn.0"]
    assert [(one.name, "converted only where it is named" in one.reason) for one in report.left] == [("attn.2", True)]


class ByModeAttention(PooledKeysAttention):
    """Something else in training."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if self.training else x)


class ByNumbersAttention(PooledKeysAttention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 1 else super().forward(x + 1)


class TwiceAttention(PooledKeysAttention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ByModeAttention, "something else in training"),
        (ByNumbersAttention, "cannot be traced"),
        (TwiceAttention, "computes 2 softmax attentions"),
    ],
)
def test_what_is_not_understood_is_refused(kind, reason) -> None:
    model, images = stirred(One(kind(), "rows")), torch.randn(2, 3, 32, 32)
    want = model(images)
    with pytest.raises(InputError, match=reason):
        convert_(model, SoftmaxAttention.Config(), inputs=images)
    assert torch.equal(model(images), want)


def test_a_norm_behind_a_map_is_called_as_the_host_calls_it() -> None:
    """A sibling with its norm in a sequence, over channels last."""
    model, images = stirred(One(NormedAttention(), "rows")), torch.randn(2, 3, 32, 32)
    want = model(images)
    report = convert_(model, SoftmaxAttention.Config(), inputs=images)
    assert [swap.output for swap in report.swaps] == ["identical"]
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)


class NormedAttention(PooledKeysAttention):
    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32))


def test_settings_and_sizes_cannot_change_unseen() -> None:
    model, images = stirred(One(OptionalAttention(), "rows")), torch.randn(2, 3, 32, 32)
    convert_(model, SoftmaxAttention.Config(), inputs=images)
    tokens = torch.randn(2, 4, 4, 16)
    model.attn(tokens)
    for given in ({"extra": tokens}, {"twice": True}):
        with pytest.raises(InputError, match=r"attn was read with (extra=None|twice=False) and is given"):
            model.attn(tokens, **given)
    with pytest.raises(InputError, match=r"set_pool would change it; call foveal\.revert_"):
        model.attn.set_pool(4)


class OptionalAttention(PooledKeysAttention):
    def forward(self, x: Tensor, extra: Tensor | None = None, twice: bool = False) -> Tensor:
        x = x if extra is None else x + extra
        return super().forward(2 * x if twice else x)

    def set_pool(self, pool: int) -> None:
        self.pool = pool


def test_hooks_and_adapters_of_what_goes_on_go_on() -> None:
    model, images = stirred(One(GridAttention(), "map")), torch.randn(2, 3, 32, 32)
    seen: list[str] = []
    for name in ("qkv", "bn", "proj", "last"):
        model.attn.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: seen.append(name))
    want = model(images)
    seen.clear()
    convert_(model, SoftmaxAttention.Config(), inputs=images)
    seen.clear()
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)
    assert seen == ["qkv", "bn", "proj", "last"]


@pytest.mark.parametrize("stride", [1, 2])
def test_halo_of_timm_is_what_foveal_loads(stride) -> None:
    """Two ways for the same weights: in softmax attention of windows, and in our own layer on maps."""
    halo = pytest.importorskip("timm.layers.halo_attn")
    torch.manual_seed(0)
    options = {"num_heads": 2, "block_size": 4, "halo_size": 1, "stride": stride}
    model = stirred(One(halo.HaloAttn(16, **options), "map"))
    layer = foveal.official.load("halo.timm", model.attn.state_dict(), dim=16, **options)
    images = torch.randn(2, 3, 32, 48)
    want = layer(model.stem(images))
    convert_(model, SoftmaxAttention.Config())
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)


def test_whole_models_are_read_at_a_size_that_is_theirs() -> None:
    """Their first guess of a size breaks off in an attention, and others are tried."""
    levit = pytest.importorskip("timm.models.levit")
    model = stirred(levit.Levit(img_size=128, embed_dim=(16, 16, 16), key_dim=8, depth=(1, 1, 1), num_heads=(2, 2, 2), attn_ratio=1.0, num_classes=5))
    images = torch.randn(2, 3, 128, 128)
    want = model(images)
    report = convert_(model, SoftmaxAttention.Config())
    assert not report.left
    torch.testing.assert_close(model(images), want, rtol=1e-4, atol=1e-4)
