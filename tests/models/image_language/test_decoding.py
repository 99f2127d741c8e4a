"""Search against what a loop over all captions finds, on tables of random probabilities and on captioners."""

import itertools

import pytest
import torch

from foveal.models.image_language import beam_search, greedy_search, sample_words
from tests.attention.contract import assert_close
from tests.models.image_language.helpers import LENGTH, Table, captioner, inputs_of

END = 2


def every_caption(length: int) -> list[list[int]]:
    """All that can be said with words 2 (the end), 3 and 4: those that end, and those that are cut."""
    found = []
    for count in range(1, length + 1):
        found += [[*words, END] for words in itertools.product((3, 4), repeat=count - 1)]
    return found + [list(words) for words in itertools.product((3, 4), repeat=length)]


def sums(table: Table, sample: int, caption: list[int]) -> float:
    return sum(float(table.found(sample, tuple(caption[:place]))[word]) for place, word in enumerate(caption))


def plain(words: torch.Tensor) -> list[list[int]]:
    return [[word for word in row if word != -100] for row in words.tolist()]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_there_are_captions_finds_the_best(length_penalty) -> None:
    table = Table(samples=12)
    said = beam_search(table, table.inputs, width=27, length=3, length_penalty=length_penalty)
    lengths = set()
    for sample, words in enumerate(plain(said.words)):
        best = max(every_caption(3), key=lambda caption: sums(table, sample, caption) / len(caption) ** length_penalty)
        assert words == best
        assert float(said.score[sample]) == pytest.approx(sums(table, sample, best), abs=1e-4)
        lengths.add(len(words))
    assert len(lengths) > 1, "all are of one length, and show nothing of the end"


def test_a_beam_of_one_is_greedy_and_a_wider_one_is_better_somewhere() -> None:
    table = Table(samples=40)
    greedy, one, five = (search.score for search in (greedy_search(table, table.inputs, length=5), *(beam(table, width) for width in (1, 5))))
    assert torch.equal(beam(table, 1).words, greedy_search(table, table.inputs, length=5).words)
    assert_close(one, greedy, 1e-6, "scores")
    assert (five > greedy + 1e-4).any()


def beam(table: Table, width: int):
    return beam_search(table, table.inputs, width=width, length=5)


def test_a_length_penalty_makes_captions_longer() -> None:
    table = Table(samples=40)
    short, long = (beam_search(table, table.inputs, width=4, length=5, length_penalty=penalty).words for penalty in (0.0, 2.0))
    assert (long != -100).sum() > (short != -100).sum()


@pytest.mark.parametrize("catt", ["none", "dictionary", "in_sample", "skip"])
@pytest.mark.parametrize(("host", "share"), [("transformer", True), ("transformer", False), ("updown", True), ("updown", False)])
def test_the_score_of_a_caption_is_what_the_forward_pass_gives_it(catt, host, share, monkeypatch) -> None:
    """Words one after the other, out of what was kept, against all at once; and samples of a batch do not meet."""
    # scores are of single precision in any network
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model, inputs = captioner(host, catt=catt, share=share).double(), inputs_of(4)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    for width in (1, 3, 5):
        said = beam_search(model, inputs, width=width, length=LENGTH)
        assert (said.words[:, 3] != -100).any()
        found = model(inputs, said.words).log_softmax(-1).gather(-1, said.words.clamp_min(0)[..., None])[..., 0]
        assert_close(found.masked_fill(said.words == -100, 0.0).sum(1), said.score, 1e-12, "scores")
        for sample in range(4):
            alone = beam_search(model, {name: value[sample : sample + 1] for name, value in inputs.items()}, width=width, length=LENGTH)
            assert torch.equal(alone.words[0], said.words[sample])


@pytest.mark.parametrize("host", ["transformer", "updown"])
@pytest.mark.parametrize("catt", ["none", "dictionary", "in_sample", "skip"])
def test_a_step_of_beams_is_a_step_of_each_alone(host, catt) -> None:
    """Beams of a sample read its regions together: moved among each other, they are as captions whose words were said from the start."""
    model, inputs, width = captioner(host, catt=catt), inputs_of(3), 4
    generator = torch.Generator().manual_seed(0)
    begin = torch.full((3,), model.begin)
    found, state = model.step(model.start(inputs), begin)
    state, said = state.repeat(width), torch.empty(3 * width, 0, dtype=torch.long)
    for _ in range(3):
        order = (torch.arange(3)[:, None] * width + torch.randint(width, (3, width), generator=generator)).flatten()
        words = torch.randint(3, 9, (3 * width,), generator=generator)
        state, said = state.reorder(order), torch.cat([said[order], words[:, None]], 1)
        found, state = model.step(state, words)
    apart = {name: value.repeat_interleave(width, 0) for name, value in inputs.items()}
    want, own = model.step(model.start(apart), torch.full((3 * width,), model.begin))
    for word in said.unbind(1):
        want, own = model.step(own, word)
    assert_close(found, want, 1e-5, "log-probabilities")
    assert found.shape == (3 * width, 9)


def test_words_are_drawn_by_their_probabilities() -> None:
    table, times = Table(samples=2), 4_000
    said = sample_words(table, table.inputs, length=2, times=times, generator=torch.Generator().manual_seed(0))
    found = plain(said.words)
    for sample in range(2):
        own = found[sample * times : (sample + 1) * times]
        # those that nobody says have their share of probability in the table too
        allowed = torch.stack([table.found(sample, ())[word] for word in (2, 3, 4)]).softmax(0)
        for word, share in zip((2, 3, 4), allowed.tolist(), strict=True):
            assert sum(caption[0] == word for caption in own) / times == pytest.approx(share, abs=0.035)
        assert all(sums(table, sample, own[n]) == pytest.approx(float(said.score[sample * times + n]), abs=1e-4) for n in range(20))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda table: beam_search(table, table.inputs, width=0, length=3), "width of at least 1"),
        (lambda table: beam_search(table, table.inputs, width=2, length=0), "length=0"),
        (lambda table: beam_search(table, table.inputs, width=2, length=3, length_penalty=-1.0), "length_penalty"),
        (lambda table: sample_words(table, table.inputs, length=3, temperature=0.0), "temperature above 0"),
        (lambda table: greedy_search(table, table.inputs, length=0), "length=0"),
    ],
)
def test_searches_that_cannot_be_are_explained(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call(Table(samples=1))


def test_answers_that_are_no_numbers_are_told_by_their_score() -> None:
    """And not by an error of the generator, of which a training would end without its step and rate."""
    model = captioner("transformer").eval()
    for value in model.parameters():
        value.data[...] = float("nan")
    assert sample_words(model, inputs_of(2), length=LENGTH).score.isnan().all()
