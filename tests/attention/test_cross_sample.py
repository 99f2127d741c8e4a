"""Cross-sample attention: the contract, the facts of its algebra, and dictionaries that are fitted."""

import copy
import itertools

import pytest
import torch
from torch import nn

import foveal
from foveal import CrossSampleAttention, CrossSampleDictionary, InputError, SoftmaxAttention, fit_dictionaries_
from foveal.functional import cross_sample_attention, cross_sample_attention_reference
from tests.attention.contract import DIM, HEADS, AttentionContract, assert_close
from tests.attention.test_softmax import heads, one_map

ENTRIES = 7


class TestCrossSampleAttention(AttentionContract):
    name = "cross_sample"
    variants = [{"dictionary_size": ENTRIES}, {"dictionary_size": ENTRIES, "share": False}, {"dictionary_size": 1, "attn_head_dim": 5}]

    def oracle(self, module, x, present):
        entries = module.dictionary.entries
        everyone = torch.ones(len(entries), dtype=torch.bool)
        cross_qkv, cross_proj = module.cross_qkv or module.qkv, module.cross_proj or module.proj
        out = []
        for sample, here in zip(x, present, strict=True):
            q, k, v = (heads(module.qkv, sample, part, 3) for part in range(3))
            q_cross = heads(cross_qkv, sample, 0, 3)
            entries_k, entries_v = (heads(cross_qkv, entries, part, 3) for part in (1, 2))
            own = torch.cat([one_map(q[h], k[h], here) @ v[h] for h in range(HEADS)], -1)
            cross = torch.cat([one_map(q_cross[h], entries_k[h], everyone) @ entries_v[h] for h in range(HEADS)], -1)
            streams = [own @ module.proj.weight.T + module.proj.bias, cross @ cross_proj.weight.T + cross_proj.bias]
            out.append(torch.cat(streams, -1) @ module.fuse.weight.T + module.fuse.bias)
        return torch.stack(out)

    def test_maps_give_the_streams(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        maps = module.attention_map(x)
        q, _, v = module._qkv(x, None)
        _, _, entries_v = module._entries(x, q, module.dictionary(x))
        own, cross = ((maps[name] @ values).transpose(1, 2).flatten(2) for name, values in (("combined", v), ("dictionary", entries_v)))
        streams = module.proj(own), (module.cross_proj or module.proj)(cross)
        for got, want in zip(streams, module.pair(x, module.dictionary(x)), strict=True):
            assert_close(got, want, 1e-10, "stream from its map")

    # -- specification 1g -----------------------------------------------------------------------------------------------------------------------

    def test_the_cross_stream_of_a_token_depends_on_that_token_alone(self, options) -> None:
        module, x = self.build(**options), torch.randn(3, 9, DIM, dtype=torch.float64)
        changed = torch.randn_like(x)
        changed[1, 4] = x[1, 4]
        before, after = (module.pair(tokens, module.dictionary(tokens))[1] for tokens in (x, changed))
        assert_close(after[1, 4], before[1, 4], 1e-12, "its own")
        if options["dictionary_size"] > 1:
            assert (after[1, 3] - before[1, 3]).abs().max() > 1e-3

    def test_entries_have_no_order(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        out = module(x)
        with torch.no_grad():
            module.dictionary.entries.copy_(module.dictionary.entries[torch.randperm(options["dictionary_size"])])
        assert_close(module(x), out, 1e-12, "output")

    def test_one_entry_is_a_constant(self) -> None:
        module = self.build(dictionary_size=1)
        cross = module.pair(torch.randn(2, 9, DIM, dtype=torch.float64), module.dictionary(torch.empty(0)))[1]
        value = module.qkv(module.dictionary.entries)[0, 2 * module.inner_dim :]
        assert_close(cross, module.proj(value).expand(2, 9, -1), 1e-12, "W_v D for every query")

    def test_the_sample_as_its_own_dictionary(self) -> None:
        """With shared weights the two streams are one."""
        module, x = self.build(dictionary_size=3), torch.randn(1, 9, DIM, dtype=torch.float64)
        own, cross = module.pair(x, x)
        assert_close(cross, own, 1e-12, "cross-sample")

    def test_fused_by_identity_and_zero_it_is_softmax_attention(self, options) -> None:
        module, x = self.build(**options), torch.randn(2, 9, DIM, dtype=torch.float64)
        softmax = SoftmaxAttention(DIM, HEADS, qkv_bias=True, attn_head_dim=options.get("attn_head_dim")).double()
        softmax.load_state_dict({key: value for key, value in module.state_dict().items() if key in softmax.state_dict()})
        with torch.no_grad():
            module.fuse.weight.copy_(torch.eye(DIM, 2 * DIM))
            module.fuse.bias.zero_()
        assert_close(module(x), softmax(x), 1e-12, "output")

    def test_every_parameter_gets_a_gradient(self, options) -> None:
        module = foveal.create_attention("cross_sample", DIM, HEADS, qkv_bias=True, qk_norm=True, scale_norm=True, **options)
        module(torch.randn(4, 9, DIM)).square().sum().backward()
        # one entry has nothing to choose: a softmax over one
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            alone = options["dictionary_size"] == 1 and name.startswith(("cross_q_norm", "cross_k_norm"))
            assert alone or parameter.grad.abs().max() > 0, name

    def test_context(self) -> None:
        module = self.build(dictionary_size=3)
        x, context = torch.randn(2, 3, DIM, dtype=torch.float64), torch.randn(2, 7, DIM, dtype=torch.float64)
        mask = torch.ones(10, 10, dtype=torch.bool)
        mask[:, :3] = False
        assert_close(module(x, context=context), module(torch.cat([x, context], 1), attn_mask=mask)[:, :3], 1e-10, "output")

    def test_prior_counts_entries_as_often_as_they_occurred(self) -> None:
        """An entry that occurred three times weighs as three equal entries would."""
        tokens = torch.tensor([[0.0], [0.0], [0.0], [9.0]]) + torch.randn(1, DIM)
        module = foveal.create_attention("cross_sample", DIM, HEADS, dictionary_size=2, init="kmeans", prior=True)
        module.dictionary.fit(tokens)
        plain = foveal.create_attention("cross_sample", DIM, HEADS, dictionary_size=4)
        state = module.state_dict() | {"dictionary.entries": tokens}
        plain.load_state_dict({key: value for key, value in state.items() if key in plain.state_dict()})
        x = torch.randn(2, 9, DIM)
        assert_close(module(x), plain(x), 1e-4, "output")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"dictionary_size": 0}, "at least one entry"),
            ({"init": "kmean"}, "did you mean kmeans"),
            ({"prior": True}, 'needs init="kmeans"'),
        ],
    )
    def test_bad_options_are_explained(self, change, says) -> None:
        with pytest.raises(ValueError, match=says):
            CrossSampleAttention(DIM, HEADS, **change)

    @pytest.mark.parametrize("shape", [(3, 5, DIM), (1, 0, DIM), (1, 5, DIM + 1)])
    def test_bad_dictionaries_are_explained(self, shape) -> None:
        with pytest.raises(ValueError, match="dictionary"):
            self.build(torch.float32, dictionary_size=3).pair(torch.randn(2, 9, DIM), torch.randn(shape))


@pytest.mark.parametrize("dictionaries", [1, 2])
def test_fast_path_equals_the_reference(dictionaries) -> None:
    inputs = [torch.randn(2, 3, 9, 6, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    entries = [torch.randn(dictionaries, 3, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    q, k, v, q_cross = inputs
    options = {"dictionary_k": entries[0], "dictionary_v": entries[1], "q_cross": q_cross, "scale": 0.7}
    for fast, slow in zip(cross_sample_attention(q, k, v, **options), cross_sample_attention_reference(q, k, v, **options), strict=True):
        assert_close(fast, slow, 1e-10, "output")
        cotangent = torch.randn_like(fast)
        both = [torch.autograd.grad(out, inputs + entries, cotangent, allow_unused=True) for out in (fast, slow)]
        for got, want in zip(*both, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                assert_close(got, want, 1e-10, "gradient")


# -- dictionaries --------------------------------------------------------------------------------------------------------------------------------


def blobs(clusters: int = 5, each: int = 200, dim: int = 6, spread: float = 0.05) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    centers = 4 * torch.randn(clusters, 1, dim, generator=generator)
    return (centers + spread * torch.randn(clusters, each, dim, generator=generator)).flatten(0, 1)


def error(dictionary: CrossSampleDictionary, tokens: torch.Tensor) -> float:
    """Mean squared distance of a token to the nearest entry, by a loop."""
    with torch.no_grad():
        return sum(min(((token - entry) ** 2).sum().item() for entry in dictionary.entries) for token in tokens) / len(tokens)


def test_clusters_are_nearer_to_the_tokens_than_chance() -> None:
    tokens = blobs()
    fitted, random = (CrossSampleDictionary(5, 6, init=init) for init in ("kmeans", "normal"))
    counts = fitted.fit(tokens)
    assert counts.tolist() == [200] * 5
    assert error(fitted, tokens) < 0.05
    assert error(random, tokens) > 1


def test_fitting_is_the_same_in_batches_and_repeats() -> None:
    tokens, fits = blobs(), []
    for given in (tokens, tokens.split(64), (batch.unflatten(0, (2, -1)) for batch in tokens.split(100))):
        dictionary = CrossSampleDictionary(5, 6, init="kmeans")
        dictionary.fit(given)
        fits.append(dictionary.entries.detach())
    assert torch.equal(fits[0], fits[1])
    assert torch.equal(fits[0], fits[2])


def test_a_sample_of_the_tokens_is_drawn_from_all_of_them() -> None:
    dictionary = CrossSampleDictionary(5, 6, init="kmeans")
    counts = dictionary.fit(blobs().split(10), max_tokens=300)
    assert counts.sum() == 300
    assert (counts > 30).all(), "every one of the five blobs is in the sample"


def test_no_entry_stays_empty() -> None:
    """Three places, almost all tokens at one of them, and an entry for every different token."""
    tokens = torch.cat([torch.zeros(1000, 4), torch.eye(4)[:3] * 50, torch.eye(4)[:3] * 50.001])
    dictionary = CrossSampleDictionary(7, 4, init="kmeans")
    counts = dictionary.fit(tokens)
    assert (counts > 0).all()
    assert error(dictionary, tokens) < 1e-3
    assert len(dictionary.entries.unique(dim=0)) == 7


def test_too_few_different_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3"):
        CrossSampleDictionary(4, 2, init="kmeans").fit(torch.eye(3)[:, :2].repeat(10, 1))


@pytest.mark.parametrize("tokens", [torch.randn(9, 5), torch.full((9, 4), float("nan")), torch.ones(9, 4, dtype=torch.long)])
def test_tokens_that_cannot_be_fitted_are_refused(tokens) -> None:
    with pytest.raises(ValueError, match="finite tokens"):
        CrossSampleDictionary(2, 4, init="kmeans").fit(tokens)


def test_clusters_must_be_fitted_or_loaded_before_they_are_read() -> None:
    module = CrossSampleAttention(DIM, HEADS, dictionary_size=3, init="kmeans")
    with pytest.raises(ValueError, match="fit_dictionaries_"):
        module(torch.randn(1, 4, DIM))
    other = copy.deepcopy(module)
    module.dictionary.fit(torch.randn(50, DIM))
    other.load_state_dict(module.state_dict())
    x = torch.randn(1, 4, DIM)
    assert torch.equal(other(x), module(x))
    module.dictionary.reset_parameters()
    with pytest.raises(ValueError, match="fit_dictionaries_"):
        module(x)


def test_uniform_is_the_official_start() -> None:
    entries = CrossSampleDictionary(500, 32, init="uniform").entries
    assert 0 <= entries.min() < 1e-4
    assert 0.0099 < entries.max() <= 0.01


def test_a_dictionary_can_be_frozen() -> None:
    module = CrossSampleAttention(DIM, HEADS, dictionary_size=3, trainable=False)
    module(torch.randn(1, 4, DIM)).sum().backward()
    assert module.dictionary.entries.grad is None


class Stack(nn.Module):
    def __init__(self, depth: int = 2, **options: object) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossSampleAttention(DIM, HEADS, dictionary_size=4, init="kmeans", **options) for _ in range(depth))
        self.unused = nn.ModuleList()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.mark.case("R11")
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("missing", [(), ("0",), ("1.inner",), ("0", "2")])
def test_each_dictionary_follows_its_own_entries(missing, assign) -> None:
    """A load that lacks some entries says nothing of the others: whichever comes first, nested or not, copied in or put in place."""

    def model() -> torch.nn.Module:
        nested = torch.nn.ModuleDict({"inner": CrossSampleDictionary(3, 4, init="kmeans", prior=True)})
        return torch.nn.Sequential(CrossSampleDictionary(5, 4, init="kmeans"), nested, CrossSampleDictionary(2, 4, init="kmeans"))

    state = {key: torch.randn_like(value) for key, value in model().state_dict().items()}
    state = {key: value for key, value in state.items() if key not in {f"{name}.entries" for name in missing}}
    loaded = model()
    result = loaded.load_state_dict(state, strict=False, assign=assign)
    assert set(result.missing_keys) == {f"{name}.entries" for name in missing}
    tokens = torch.randn(1, 2, 4)
    for name in ("0", "1.inner", "2"):
        dictionary = loaded.get_submodule(name)
        if name in missing:
            with pytest.raises(InputError, match="was not fitted"):
                dictionary(tokens)
        else:
            assert torch.equal(dictionary(tokens)[0], state[f"{name}.entries"])


@pytest.mark.case("R11")
def test_a_dictionary_without_its_prior_or_of_another_size_is_not_fitted() -> None:
    dictionary = CrossSampleDictionary(3, 4, init="kmeans", prior=True)
    dictionary.load_state_dict({"entries": torch.zeros(3, 4)}, strict=False)
    assert not dictionary.fitted
    with pytest.raises(RuntimeError, match="size mismatch"):
        dictionary.load_state_dict({"entries": torch.zeros(5, 4), "log_prior": torch.zeros(3)})
    assert not dictionary.fitted
    other = torch.nn.ModuleDict({"a": CrossSampleDictionary(3, 4, init="kmeans"), "b": torch.nn.Linear(2, 2)})
    other.load_state_dict({"b.weight": torch.zeros(2, 2)}, strict=False)
    assert not other["a"].fitted


def test_dictionaries_of_a_model_are_fitted_in_the_space_they_are_read_in() -> None:
    torch.manual_seed(0)
    model, batches = Stack().train(), list(torch.randn(6, 3, 9, DIM))
    reference = copy.deepcopy(model)
    counts = fit_dictionaries_(model, batches)
    assert model.training
    assert list(counts) == ["layers.0.dictionary", "layers.1.dictionary"]
    assert all(count.sum() == 6 * 3 * 9 for count in counts.values())
    first, second = reference.layers
    tokens = torch.cat(batches)
    first.dictionary.fit(tokens)
    with torch.no_grad():
        tokens = tokens + first.eval()(tokens)
    second.dictionary.fit(tokens)
    for got, want in zip(model.layers, reference.layers, strict=True):
        assert_close(got.dictionary.entries, want.dictionary.entries, 1e-5, "entries")


def test_fitting_a_model_that_has_nothing_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no dictionary"):
        fit_dictionaries_(nn.Linear(2, 2), [torch.randn(1, 2)])
    model = Stack(1)
    with pytest.raises(ValueError, match="not a generator"):
        fit_dictionaries_(model, itertools.repeat(torch.randn(1, 9, DIM)))
    model.unused.append(CrossSampleAttention(DIM, HEADS, dictionary_size=2, init="kmeans"))
    with pytest.raises(ValueError, match=r"does not come to the dictionary 'unused\.0\.dictionary'"):
        fit_dictionaries_(model, [torch.randn(1, 9, DIM)])
