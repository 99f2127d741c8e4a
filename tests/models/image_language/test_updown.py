"""Up-Down against its formula with loops, in float64; and its second streams."""

import math

import pytest
import torch

from foveal.models import Captioner, ImageAnswerer, UpDownAnswerer, UpDownCaptioner
from foveal.models.image_language.additive import AdditiveStreams
from tests.attention.contract import assert_close
from tests.models.image_language.helpers import LENGTH, REGIONS, WIDTH, WORDS, captioner, inputs_of
from tests.models.image_language.test_mcan import QUESTIONS, SIZES

STREAMS = ["dictionary", "in_sample", "skip"]
CAPTIONS = torch.tensor([[5, 6, 7, 2, -100, -100], [4, 8, 3, 3, 5, 2], [2, *[-100] * 5], [3, 2, *[-100] * 4]])


@torch.no_grad()
def slow_streams(model: AdditiveStreams, query: torch.Tensor, regions: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """One sample, region by region."""

    def taken(attn: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        scores = [float(attn.weigh.weight[0] @ torch.tanh(attn.keys.weight @ row + attn.keys.bias + attn.query.weight @ query)) for row in rows]
        weights = [math.exp(score - max(scores)) for score in scores]
        return sum(weight / sum(weights) * row for weight, row in zip(weights, rows, strict=True))

    rows = regions[there]
    own = taken(model.attn, rows)
    if model.catt == "none":
        return own
    entries = model.dictionary.entries if model.catt == "dictionary" else None
    other = rows.mean(0) if model.catt == "skip" else taken(model.cross or model.attn, rows if entries is None else entries)
    return model.fuse.weight @ torch.cat([own, other]) + model.fuse.bias


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("catt", "share"), [("none", True), *((catt, True) for catt in STREAMS), ("dictionary", False)])
def test_attention_is_the_formula(catt, share, training, queries) -> None:
    """Of one query a sample, and of several in a row; what is made of a dictionary is made each time in training, and else once."""
    torch.manual_seed(0)
    model, inputs = AdditiveStreams(WIDTH, 6, 5, catt=catt, dictionary_size=7, share=share).double().train(training), inputs_of(4)
    if model.fuse is not None:
        torch.nn.init.normal_(model.fuse.weight)
    regions, query = inputs["regions"].double(), torch.randn(4 * queries, 6, dtype=torch.float64)
    out, weights = model(query, regions, model.keys_of(regions), inputs["there"])
    for row in range(4 * queries):
        assert_close(out[row], slow_streams(model, query[row], regions[row // queries], inputs["there"][row // queries]), 1e-12, "taken")
    assert_close(weights.sum(1), torch.ones(4 * queries, dtype=torch.float64), 1e-12, "weights")


def test_the_captioner_is_the_formula() -> None:
    model, inputs = (
        captioner("updown", catt="none").double(),
        {name: value.double() if value.is_floating_point() else value for name, value in inputs_of(2).items()},
    )
    logits = model(inputs, CAPTIONS[:2])

    def cell(layer: torch.nn.LSTMCell, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, g, o = (layer.weight_ih @ x + layer.bias_ih + layer.weight_hh @ state[0] + layer.bias_hh).chunk(4)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    for sample in range(2):
        there, boxes = inputs["there"][sample], inputs["boxes"][sample]
        where = torch.cat([boxes, boxes[:, 2:] - boxes[:, :2]], 1)
        v = inputs["regions"][sample] + where @ model.placed.boxes.weight.T + model.placed.boxes.bias
        h1 = h2 = (torch.zeros(16).double(),) * 2
        for place, word in enumerate([1, *CAPTIONS[sample, :-1].clamp_min(0).tolist()]):
            h1 = cell(model.looking, torch.cat([h2[0], v[there].mean(0), model.words.weight[word]]), h1)
            h2 = cell(model.saying, torch.cat([slow_streams(model.attn, h1[0], v, there), h1[0]]), h2)
            assert_close(logits[sample, place], model.head.weight @ h2[0] + model.head.bias, 1e-10, "logits")


@pytest.mark.parametrize("catt", STREAMS)
def test_every_parameter_learns(catt) -> None:
    options = {"regions": WIDTH, "words": WORDS, "pad": 0, "begin": 1, "end": 2, "length": LENGTH}
    change = {"host": "updown", "width": 16, "catt": catt, "dropout": 0.0, "dictionary_size": 7}
    inputs = inputs_of(4) | {"question": QUESTIONS}
    for model, given in ((Captioner(**change).build(**options), (inputs, CAPTIONS)), (ImageAnswerer(**change).build(**SIZES), (inputs,))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(*given).square().mean().backward()
            optimizer.step()
        assert not {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}


def test_the_published_size() -> None:
    """Up-Down of width 1000 with 9,487 words and regions of 2048, by hand; and CATT adds a dictionary and a fusion."""
    with torch.device("meta"):
        count = sum(p.numel() for p in UpDownCaptioner(2048, 9487 + 4).parameters())
        catt = sum(p.numel() for p in UpDownCaptioner(2048, 9487 + 4, catt="dictionary").parameters())
    lstms = 4 * 1000 * (2048 + 2000 + 1000 + 2) + 4 * 1000 * (2048 + 1000 + 1000 + 2)
    assert count == lstms + 9491 * 1000 + (9491 * 1000 + 9491) + (2048 * 512 + 512 + 1000 * 512 + 512)
    assert catt - count == 500 * 2048 + 2 * 2048 * 2048 + 2048


def test_questions_are_read_to_their_last_word_and_a_blind_one_sees_nothing() -> None:
    torch.manual_seed(0)
    model = UpDownAnswerer(WIDTH, 9, 6, 16, 8, words_dim=7, length=5, boxes=True, drop=0.0).eval()
    inputs = inputs_of(4) | {"question": QUESTIONS}
    logits = model(inputs)
    shorter = {name: value[2:] for name, value in inputs.items()} | {"question": QUESTIONS[2:, :2]}
    assert_close(model(shorter), logits[2:], 1e-6, "padding")
    assert not torch.allclose(model(inputs | {"question": QUESTIONS.flip(0)}), logits)
    regions, words = model.look(inputs)
    assert regions.shape == (4, REGIONS)
    assert not words[QUESTIONS == 0].any()
    blind = UpDownAnswerer(WIDTH, 9, 6, 16, 8, words_dim=7, length=5, blind=True, drop=0.0).eval()
    assert torch.equal(blind(inputs | {"regions": torch.randn(4, REGIONS, WIDTH)}), blind(inputs))
    assert blind.look(inputs)[0] is None
    with pytest.raises(ValueError, match="6 words and the network places for 5"):
        model(inputs | {"question": torch.full((4, 6), 3)})
