"""Captions trained by what they are worth: those that are drawn and are better than others of their picture become likelier.

Paper      Rennie et al., "Self-Critical Sequence Training for Image Captioning", CVPR 2017 (arXiv 1612.00563); the mean of the other samples as a baseline is
           of Luo, "A Better Variant of Self-Critical Sequence Training" (arXiv 2003.09971).
Formula    loss = − mean_s (r(s) − b) Σ_t log p(s_t);  r CIDEr-D with document frequencies of the training references, the end a word of both;  b the reward of
           the likeliest words, or the mean of the other samples
Note       It is for networks that say something already: of captions that are all worth nothing, none is better. At first most advantages are below 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ..._ranges import Range
from ...models.image_language import greedy_search, sample_words
from ..data import DataBundle
from ._task import register_task
from .caption_metrics import CiderD
from .captioning import Captioning

__all__ = ["SelfCritical"]


@register_task
@dataclass(frozen=True, kw_only=True)
class SelfCritical(Captioning):
    """The reward of captions that the network draws, in the place of the words of references. Give the network weights that were trained on words.

    While it trains it reports the mean ``reward`` of what is drawn, its ``length`` in words with the end, and the share that is ``better`` than its baseline.
    """

    train_metrics: ClassVar[tuple[str, ...]] = ("reward", "length", "better")
    train_shares: ClassVar[bool] = False
    ranges: ClassVar[dict[str, Range]] = {"samples": Range(at_least=1), "temperature": Range(above=0)}

    samples: int = 5
    """Captions that are drawn of each picture."""
    critic: Literal["others", "greedy"] = "others"
    """What a caption must be better than: the mean of the ``others`` of its picture, or what the likeliest words are worth (``greedy``)."""
    temperature: float = 1.0
    """Of what is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic == "others" and self.samples < 2:
            raise InputError(f"a caption is held against the others of its picture, so samples must be at least 2, got {self.samples}; or choose critic greedy")

    def check_data(self, bundle: DataBundle) -> None:
        super().check_data(bundle)
        self._check_images({"training": bundle.train})

    def shards(self) -> bool:
        # it draws captions with the network itself, between passes
        return False

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        network: Any = model
        trains = model.training
        # what is drawn is drawn without dropout; its probability is asked with it
        model.eval()
        drawn = sample_words(network, inputs, length=network.length, times=self.samples, temperature=self.temperature).words
        likeliest = greedy_search(network, inputs, length=network.length).words if self.critic == "greedy" else None
        model.train(trains)
        rewards = self.rewards(drawn, targets, bundle).view(-1, self.samples)
        others = (rewards.sum(1, keepdim=True) - rewards) / max(1, self.samples - 1)
        advantages = (rewards - (others if likeliest is None else self.rewards(likeliest, targets, bundle)[:, None])).flatten()
        repeated = {name: value.repeat_interleave(self.samples, 0) for name, value in inputs.items()}
        found = forward(repeated, drawn).float().log_softmax(-1).gather(-1, drawn.clamp_min(0)[..., None])[..., 0]
        said = drawn != -100
        loss = -(advantages * found.masked_fill(~said, 0.0).sum(1)).mean()
        each = {"reward": rewards.sum(), "length": said.sum(), "better": (advantages > 0).sum()}
        return loss, {name: value / self.samples for name, value in each.items()}

    def rewards(self, said: Tensor, targets: Any, bundle: DataBundle) -> Tensor:
        """CIDEr-D of captions ``(B · n, T)``, n of each sample in a row, with their end."""
        scorer, times = _scorer(bundle), len(said) // len(targets)
        references = [[_plain(row) for row in target["references"].tolist()] for target in targets]
        found = [scorer.score(_plain(words), references[place // times]) for place, words in enumerate(said.tolist())]
        return torch.tensor(found, device=said.device)


def _plain(row: list[int]) -> list[int]:
    return [word for word in row if word != -100]


_SCORERS: list[tuple[Any, CiderD]] = []
"""Of the data that are trained on: the last, for counting the n-grams of all references takes long."""


def _scorer(bundle: DataBundle) -> CiderD:
    split: Any = bundle.train
    if not _SCORERS or _SCORERS[0][0] is not split:
        _SCORERS[:] = [(split, CiderD([[_plain(row) for row in rows.tolist()] for rows in split.references]))]
    return _SCORERS[0][1]
