"""The network that answers questions: what it looks at, what its second stream changes, and what is refused."""

import pytest
import torch

from foveal.models import ImageAnswerer, McanAnswerer
from tests.attention.contract import assert_close
from tests.models.image_language.helpers import REGIONS, WIDTH, inputs_of

STREAMS = ["dictionary", "in_sample", "skip"]
QUESTIONS = torch.tensor([[5, 6, 7, 0, 0], [4, 8, 5, 5, 6], [4, 0, 0, 0, 0], [8, 7, 0, 0, 0]])
SIZES = {"regions": WIDTH, "words": 9, "answers": 6, "pad": 0, "length": 5}


def answerer(**options) -> McanAnswerer:
    torch.manual_seed(0)
    return McanAnswerer(WIDTH, 9, 6, 16, 2, 2, length=5, **{"dictionary_size": 7, "drop": 0.0} | options)


def asked() -> dict[str, torch.Tensor]:
    return inputs_of(4) | {"question": QUESTIONS}


@pytest.mark.parametrize("catt", ["none", *STREAMS])
def test_padding_and_other_samples_change_nothing(catt) -> None:
    model, inputs = answerer(catt=catt).eval(), asked()
    logits = model(inputs)
    shorter = {name: value[2:] for name, value in inputs.items()} | {"question": QUESTIONS[2:, :2]}
    assert_close(model(shorter), logits[2:], 1e-5, "padding of words")
    padded = inputs | {"regions": inputs["regions"].masked_fill(~inputs["there"][..., None], 9.0)}
    assert_close(model(padded), logits, 1e-6, "padding of regions")
    order = torch.tensor([2, 0, 1])
    first = {name: value[:1] for name, value in inputs.items()}
    moved = first | {name: torch.cat([first[name][:, order], first[name][:, 3:]], 1) for name in ("regions", "boxes")}
    assert_close(model(moved), logits[:1], 1e-5, "order of regions")


@pytest.mark.parametrize("catt", STREAMS)
def test_every_parameter_learns_and_the_start_is_the_host(catt) -> None:
    torch.manual_seed(0)
    model = answerer(catt=catt)
    assert not model.fuse.weight[:, 16:].any()
    assert torch.equal(model.reader.fuse.weight[:, :16], torch.eye(16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(asked()).square().mean().backward()
        optimizer.step()
    still = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    # softmax does not see what is the same for all tokens
    assert still <= {"words_reduction.weigh.3.bias", "regions_reduction.weigh.3.bias"}


def test_a_blind_network_sees_the_question_alone() -> None:
    config = ImageAnswerer(width=16, num_heads=2, dropout=0.0).arms()["question-only"].model
    model, inputs = config.build(**SIZES).eval(), asked()
    assert torch.equal(model(inputs | {"regions": torch.randn(4, REGIONS, WIDTH)}), model(inputs))
    regions, words = model.look(inputs)
    assert regions is None
    assert_close(words.sum(1), torch.ones(4), 1e-6, "shares")
    assert not words[QUESTIONS == 0].any()
    seeing = answerer().eval()
    assert not torch.allclose(seeing(inputs | {"regions": torch.randn(4, REGIONS, WIDTH)}), seeing(inputs))
    regions, _ = seeing.look(inputs)
    assert not regions[~inputs["there"]].any()


def test_what_cannot_be_is_explained() -> None:
    with pytest.raises(ValueError, match="6 words and the network places for 5"):
        answerer()(asked() | {"question": torch.full((4, 6), 3)})
    with pytest.raises(ValueError, match="box for each region"):
        answerer()(asked() | {"boxes": torch.zeros(4, 2, 4)})
    with pytest.raises(ValueError, match="did you mean dictionary"):
        answerer(catt="dictionnary")
