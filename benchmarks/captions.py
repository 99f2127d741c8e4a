"""What beam search of width 5 costs over the likeliest word each time, all beams of all pictures at once; captions are of full length."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from foveal.models import TransformerCaptioner, UpDownCaptioner
from foveal.models.image_language import beam_search, greedy_search

from ._harness import Row, at_most, check_equal

WIDTH, LIMIT = 5, 3.0
LENGTH = 17


def rows() -> Iterator[Row]:
    small = {"width": 432, "words": 250, "length": LENGTH, "drop": 0.0}
    large = {"width": 2048, "words": 9_491, "length": LENGTH, "drop": 0.0}
    cases = {
        "transformer 2 + 2 layers of 128, 7 regions, 64 pictures": (TransformerCaptioner(**small, dim=128, depth=2, num_heads=4), 64, 7),
        "the same with CATT": (TransformerCaptioner(**small, dim=128, depth=2, num_heads=4, catt="dictionary", dictionary_size=100), 64, 7),
        "Up-Down of 128, 7 regions, 64 pictures": (UpDownCaptioner(**small, dim=128, attention_dim=128), 64, 7),
        "transformer 6 + 6 layers of 512, 36 regions, 1 picture": (TransformerCaptioner(**large), 1, 36),
        "transformer 6 + 6 layers of 512, 36 regions, 16 pictures": (TransformerCaptioner(**large), 16, 36),
        "Up-Down of 1000, 36 regions, 1 picture": (UpDownCaptioner(**large), 1, 36),
        "Up-Down of 1000, 36 regions, 16 pictures": (UpDownCaptioner(**large), 16, 36),
    }
    for name, case in cases.items():
        yield _row(name, *case)


def _row(name: str, model: nn.Module, pictures: int, regions: int) -> Row:
    captioner = _endless(model.eval())
    inputs = {"regions": torch.randn(pictures, regions, _width(captioner)), "boxes": torch.rand(pictures, regions, 4)}
    inputs["there"] = torch.ones(pictures, regions, dtype=torch.bool)
    check_equal(lambda: beam_search(captioner, inputs, width=1, length=LENGTH).score, lambda: greedy_search(captioner, inputs, length=LENGTH).score)
    said: list[Tensor] = [beam_search(captioner, inputs, width=WIDTH, length=LENGTH).words, greedy_search(captioner, inputs, length=LENGTH).words]
    assert all(bool((words != -100).all()) for words in said), "captions of full length"
    return at_most(
        f"beam search of width {WIDTH}, against greedy",
        name,
        lambda: beam_search(captioner, inputs, width=WIDTH, length=LENGTH),
        lambda: greedy_search(captioner, inputs, length=LENGTH),
        LIMIT,
    )


def _endless(model: nn.Module) -> "TransformerCaptioner | UpDownCaptioner":
    assert isinstance(model, (TransformerCaptioner, UpDownCaptioner)), "one of the two"
    with torch.no_grad():
        model.head.bias[model.end] = -1e4
    return model


def _width(model: "TransformerCaptioner | UpDownCaptioner") -> int:
    return model.regions.width if isinstance(model, TransformerCaptioner) else model.placed.width
