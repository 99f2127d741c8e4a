"""A decoder that is a table of random probabilities, and small captioners."""

from dataclasses import dataclass

import torch

from foveal.models import TransformerCaptioner, UpDownCaptioner

WORDS, LENGTH, WIDTH, REGIONS = 9, 6, 12, 5


@dataclass
class _Rows:
    prefixes: list[tuple[int, ...]]
    samples: list[int]

    def repeat(self, times: int) -> "_Rows":
        return _Rows([each for each in self.prefixes for _ in range(times)], [each for each in self.samples for _ in range(times)])

    def reorder(self, index: torch.Tensor) -> "_Rows":
        return _Rows([self.prefixes[place] for place in index.tolist()], self.samples)


class Table:
    """Of each sample and beginning, log-probabilities of five words: padding, beginning, end and two more."""

    pad, begin, end = 0, 1, 2

    def __init__(self, samples: int) -> None:
        self.inputs = {"regions": torch.zeros(samples, 1, 1)}

    def found(self, sample: int, prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1 + sample * 100_003 + sum(word * 7 ** (1 + place) for place, word in enumerate(prefix)))
        return (1.5 * torch.randn(5, generator=generator)).log_softmax(0)

    def start(self, inputs: dict) -> _Rows:
        count = len(inputs["regions"])
        return _Rows([()] * count, list(range(count)))

    def step(self, state: _Rows, words: torch.Tensor) -> tuple[torch.Tensor, _Rows]:
        longer = [prefix if word == self.begin else (*prefix, word) for prefix, word in zip(state.prefixes, words.tolist(), strict=True)]
        found = torch.stack([self.found(sample, prefix) for sample, prefix in zip(state.samples, longer, strict=True)])
        return found, _Rows(longer, state.samples)


def inputs_of(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    corners = 0.5 * torch.rand(count, REGIONS, 2, generator=generator)
    there = torch.arange(REGIONS).expand(count, -1) < torch.arange(count)[:, None] % 3 + 3
    return {
        "regions": torch.randn(count, REGIONS, WIDTH, generator=generator),
        "boxes": torch.cat([corners, corners + 0.3], -1),
        "there": there,
    }


def captioner(host: str = "transformer", **options) -> TransformerCaptioner | UpDownCaptioner:
    torch.manual_seed(0)
    options = {"dictionary_size": 7, "drop": 0.0} | options
    if host == "transformer":
        model = TransformerCaptioner(WIDTH, WORDS, 16, 2, 2, length=LENGTH, **options)
    else:
        model = UpDownCaptioner(WIDTH, WORDS, 16, 8, boxes=True, length=LENGTH, **options)
    with torch.no_grad():
        # as a network has it that learned something: it says other words of other pictures
        for name, value in model.named_parameters():
            if value.ndim > 1 or name.endswith("fuse.bias"):
                value.add_(0.3 * torch.randn_like(value))
        # captions that end at once would show nothing of what is remembered
        model.head.bias[model.end] -= 2.0
        model.head.weight.mul_(3.0)
    return model.eval()
