"""The transformer captioner and its second streams: what they compute, what they cannot see, and what is refused."""

import copy

import pytest
import torch

from foveal import fit_dictionaries_
from foveal.models import Captioner, CattEncoder, McanAnswerer
from foveal.models.image_language.streams import StreamEncoder
from tests.attention.contract import assert_close
from tests.models.image_language.helpers import LENGTH, REGIONS, WIDTH, WORDS, captioner, inputs_of
from tests.models.image_language.test_mcan import QUESTIONS

STREAMS = ["dictionary", "in_sample", "skip"]
KMEANS = {"length": 5, "catt": "dictionary", "init": "kmeans", "dictionary_size": 7}
CAPTIONS = torch.tensor([[5, 6, 7, 2, -100, -100], [4, 8, 3, 3, 5, 2], [2, *[-100] * 5], [3, 2, *[-100] * 4]])


@pytest.mark.parametrize("catt", STREAMS)
def test_at_the_start_the_second_stream_changes_nothing(catt) -> None:
    """The host's own function, weight for weight; and every parameter of the second stream learns from the second step on."""
    torch.manual_seed(0)
    options = {"regions": WIDTH, "words": WORDS, "pad": 0, "begin": 1, "end": 2, "length": LENGTH}
    config = Captioner(width=16, depth=2, num_heads=2, dictionary_size=7, dropout=0.0)
    arms = config.arms()
    host = arms["none"].model.build(**options).eval()
    model = arms[catt.replace("_", "-")].model.build(**options)
    own = host.state_dict()
    # the last layer of the encoder stands under another name where it has two streams
    names = {"two_streams.attn.": "layers.1.attn.", "two_streams.own.": "layers.1.own.", "two_streams.first.": "layers.1."}
    state = model.state_dict()
    for name in state:
        theirs = name
        for ours, other in names.items():
            theirs = theirs.replace(ours, other)
        if theirs in own and own[theirs].shape == state[name].shape:
            state[name] = own[theirs]
    model.load_state_dict(state)
    assert_close(model.eval()(inputs_of(4), CAPTIONS), host(inputs_of(4), CAPTIONS), 1e-5, "logits")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs_of(4), CAPTIONS).square().mean().backward()
        optimizer.step()
    still = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert not still


def test_the_encoder_is_catts() -> None:
    """Of the layers of :class:`CattEncoder`, whose numbers are held to the official code's, and its two streams before they are fused."""
    torch.manual_seed(0)
    ours, theirs = StreamEncoder(16, 3, 2, catt="dictionary", dictionary_size=7), CattEncoder(16, 3, 2, dictionary_size=7)
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fuse.")}
    ours.load_state_dict({name.replace("two_streams.0.", "two_streams."): value for name, value in state.items()})
    x, there = torch.randn(3, REGIONS, 16), inputs_of(3)["there"][:, None, None]
    streams = ours.eval()(x, there)
    assert_close(theirs.eval().fuse(torch.cat(streams, -1)), theirs(x, there), 1e-6, "fused")


def test_a_dictionary_of_the_sample_with_one_set_of_weights_is_the_sample() -> None:
    model = captioner(catt="dictionary")
    layer, hidden = model.decoder.second_layer, torch.randn(1, 4, 16)
    memory = torch.randn(1, 3, 16)
    assert_close(layer(hidden, memory, None, entries=hidden), layer(hidden, memory, None), 1e-6, "second")


@pytest.mark.parametrize("host", ["transformer", "updown"])
@pytest.mark.parametrize("catt", ["none", *STREAMS])
def test_words_do_not_see_those_behind_them_nor_padding_nor_other_samples(catt, host) -> None:
    model, inputs = captioner(host, catt=catt), inputs_of(4)
    logits = model(inputs, CAPTIONS)
    changed = CAPTIONS.clone()
    changed[:, 3:] = 4
    assert_close(model(inputs, changed)[:, :4], logits[:, :4], 1e-6, "words")
    assert not torch.allclose(model(inputs, changed)[:, 4:], logits[:, 4:])
    padded = inputs | {"regions": inputs["regions"].masked_fill(~inputs["there"][..., None], 9.0)}
    assert not inputs["there"].all()
    assert_close(model(padded, CAPTIONS), logits, 1e-6, "padding")
    other = {name: value.flip(0) for name, value in inputs.items()}
    assert_close(model(other, CAPTIONS.flip(0)).flip(0), logits, 1e-6, "order of samples")


@pytest.mark.parametrize("host", ["transformer", "updown"])
def test_where_words_look_are_shares_of_the_regions_that_are_there(host) -> None:
    model, inputs = captioner(host, catt="dictionary"), inputs_of(4)
    looks = model.look(inputs, CAPTIONS)
    assert looks.shape == (4, LENGTH, REGIONS)
    assert_close(looks.sum(-1), torch.ones(4, LENGTH), 1e-5, "shares")
    assert not looks.masked_select(~inputs["there"][:, None].expand_as(looks)).any()
    # a region that a word takes nothing from cannot change it: with one region there, all is taken from it
    alone = inputs | {"there": torch.zeros_like(inputs["there"]).index_fill(1, torch.tensor([0]), True)}
    assert_close(model.look(alone, CAPTIONS)[..., 0], torch.ones(4, LENGTH), 1e-6, "the only one")


def test_dictionaries_are_fitted_to_training_tokens() -> None:
    model = captioner(catt="dictionary", init="kmeans")
    with pytest.raises(ValueError, match="was not fitted"):
        model(inputs_of(4), CAPTIONS)
    counts = fit_dictionaries_(Called(model), [CAPTIONS, CAPTIONS.flip(0)])
    model(inputs_of(4), CAPTIONS)
    # of words and regions that are there, in both batches
    assert {name: int(count.sum()) for name, count in counts.items()} == {
        "model.encoder.dictionary": 2 * int(inputs_of(4)["there"].sum()),
        "model.decoder.dictionary": 2 * int((CAPTIONS != -100).sum()),
    }
    assert model.decoder.dictionary.entries.isfinite().all()
    again = captioner(catt="dictionary", init="kmeans")
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(again(inputs_of(4), CAPTIONS), model(inputs_of(4), CAPTIONS))


@pytest.mark.parametrize("build", [lambda: captioner("updown", catt="dictionary", init="kmeans"), lambda: McanAnswerer(WIDTH, 9, 6, 16, 2, 2, **KMEANS)])
def test_padding_falls_into_no_cluster(build) -> None:
    inputs = inputs_of(4) | {"question": QUESTIONS}
    there = {"regions": inputs["there"], "words": QUESTIONS != 0}
    model = build()
    counts = fit_dictionaries_(model, [inputs], call=lambda model, batch: model(batch) if isinstance(model, McanAnswerer) else model(batch, CAPTIONS))
    wanted = {"attn.dictionary": "regions", "encoder.dictionary": "words", "reader.dictionary": "regions"}
    assert len(counts) == (2 if isinstance(model, McanAnswerer) else 1)
    assert {name: int(count.sum()) for name, count in counts.items()} == {name: int(there[wanted[name]].sum()) for name in counts}


class Called(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, captions: torch.Tensor) -> torch.Tensor:
        return self.model(inputs_of(4), captions)


def test_arms_have_as_many_weights_as_they_say() -> None:
    options = {"regions": WIDTH, "words": WORDS, "pad": 0, "begin": 1, "end": 2, "length": LENGTH}
    count = {name: sum(p.numel() for p in arm.model.build(**options).parameters()) for name, arm in Captioner().arms().items()}
    dim, entries = 128, 100
    assert count["dictionary-own"] - count["in-sample"] == 2 * entries * dim
    # two dictionaries and two fusions, the second of which the encoder has none of: its streams stay apart
    assert count["dictionary"] - count["none"] == 2 * entries * dim + 2 * dim * dim + dim
    assert count["in-sample"] > count["skip"] > count["none"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: captioner(catt="dictionry"), "did you mean dictionary"),
        (lambda: captioner(catt="dictionary", init="kmean"), "kmeans"),
        (lambda: captioner()(inputs_of(4), CAPTIONS.clamp_min(0) + 5), rf"vocabulary has {WORDS} words"),
        (lambda: captioner()(inputs_of(4), torch.full((4, LENGTH + 1), 3)), rf"places for {LENGTH}"),
        (lambda: captioner()(inputs_of(4) | {"boxes": torch.zeros(4, REGIONS - 1, 4)}, CAPTIONS), r"box for each region.*\(4, 4, 4\)"),
        (lambda: captioner()(inputs_of(4) | {"regions": torch.zeros(4, REGIONS, 3)}, CAPTIONS), rf"\(B, R, {WIDTH}\)"),
    ],
)
def test_what_cannot_be_is_explained(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
