"""Conversations about videos: a language model learns to say the answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MeanMetric, MetricCollection

from ...attention import Cost
from ...models.video_language import attached_probes
from ..data import ConversationBundle, DataBundle
from ._counted import cost_of
from ._task import Metrics, PrimaryMetric, Task, register_task

__all__ = ["VideoConversation"]


@register_task
@dataclass(frozen=True, kw_only=True)
class VideoConversation(Task):
    """Cross-entropy of the words of answers, a mean over words, which is what the published training and Trainer have."""

    targets: ClassVar[str] = "conversations"
    sample_name: ClassVar[str] = "conversation"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric(
        "loss", "cross-entropy of a word of an answer", larger_is_better=False, scale=1.0, unit="nats", step="nats", decimals=3
    )
    eval_batch_size: ClassVar[int] = 4

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        own = _conversations(bundle)
        return {"words": own.words, "probe_token": own.probe_token}

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Words padded on the right, with a mask; what belongs to frames in a row."""
        words = {"input_ids", "attention_mask"}
        inputs = {name: pad_sequence([one[name][0] for one, _ in samples], batch_first=True) for name in sorted(words)}
        inputs |= {name: torch.cat([one[name] for one, _ in samples]) for name in samples[0][0] if name not in words}
        return inputs, pad_sequence([labels for _, labels in samples], batch_first=True, padding_value=-100)

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        loss: Tensor = forward(**inputs, labels=targets).loss
        return loss, {}

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Logits, and how alike the probes of a video are; NaN without probes."""
        logits = model(**inputs).logits
        try:
            alike = attached_probes(model).similarity
        except ValueError:
            alike = None
        return logits, logits.new_tensor(torch.nan) if alike is None else alike

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``loss`` and ``accuracy`` of words of answers, each behind the true ones; ``similarity``, the mean cosine between two probes of a video."""
        return MetricCollection({name: MeanMetric() for name in ("loss", "accuracy", "similarity")}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        logits, alike = outputs[0][:, :-1].float(), outputs[1]
        wanted = targets[:, 1:]
        there = wanted != -100
        metrics["loss"].update(F.cross_entropy(logits[there], wanted[there], reduction="none"))
        metrics["accuracy"].update((logits[there].argmax(-1) == wanted[there]).float())
        if not alike.isnan():
            metrics["similarity"].update(alike.float(), weight=len(targets))

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        # without probes there is nothing that could be alike
        return {name: value for name, metric in metrics.items() if not math.isnan(value := metric.compute().item()) or name != "similarity"}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of the first conversation of the test."""
        inputs, _ = self.collate([bundle.test[0]])
        return cost_of(model, **inputs)


def _conversations(bundle: DataBundle) -> ConversationBundle:
    assert isinstance(bundle, ConversationBundle), "sets whose targets are conversations have a bundle of them"
    return bundle
