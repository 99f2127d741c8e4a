"""Answers to questions about regions of images, each worth a score: VQA, GQA, and sentences that are true or false of two images (NLVR2).

Judged by what the likeliest answer is worth, a mean over questions: VQA's score with the published soft scores, plain accuracy where one answer counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ...attention import Cost
from ..data import DataBundle, RegionBundle
from ._counted import cost_of
from ._padded import padded
from ._region_report import draw_regions, write_regions_report
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task

__all__ = ["RegionAnswers"]


@register_task
@dataclass(frozen=True, kw_only=True)
class RegionAnswers(Task):
    """Scores of answers by cross-entropy: of each answer on its own, or between answers."""

    targets: ClassVar[str] = "answer-scores"
    sample_name: ClassVar[str] = "question"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("score", "score of the likeliest answer")
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)

    between: Literal["each", "answers"] = "each"
    """``each``: a binary cross-entropy of each answer, their sum, as for VQA and GQA; ``answers``: one of all, for NLVR2, where one answer counts;
    it leaves out questions without an answer that does."""

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        own = _regions(bundle)
        return {"words": own.words, "region_dim": own.region_dim, "outputs": len(own.classes), "images": own.images}

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Words and regions padded, each with a mask; of two images a further axis behind that of samples."""
        words, there = padded([inputs["input_ids"] for inputs, _ in samples])
        images = len(samples[0][0]["features"])
        (features, seen), (boxes, _) = (padded([part for one, _ in samples for part in one[name]]) for name in ("features", "boxes"))
        regions = {"visual_feats": features, "visual_pos": boxes, "visual_attention_mask": seen}
        inputs = {name: value if images == 1 else value.unflatten(0, (-1, images)) for name, value in regions.items()}
        return {"input_ids": words, "attention_mask": there} | inputs, torch.stack([scores for _, scores in samples])

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        logits: Tensor = outputs.float()
        if self.between == "answers":
            # a question without an answer that counts has no answer to learn, and not the first
            known = targets.amax(-1) > 0
            between = F.cross_entropy(logits, targets.argmax(-1).masked_fill(~known, -100))
            return torch.where(known.any(), between, 0.0 * logits.sum())
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1).mean()

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``score``; and ``loss``, as in training."""
        return MetricCollection({"score": MeanMetric(), "loss": MeanMetric()}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        metrics["score"].update(_worth(outputs, targets))
        counted = (targets.amax(-1) > 0).sum() if self.between == "answers" else len(targets)
        metrics["loss"].update(self.loss(nn.Identity(), outputs, targets), weight=counted)

    def chance(self, bundle: DataBundle) -> float | None:
        return _regions(bundle).guessing

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of the first question of the test."""
        inputs, _ = self.collate([bundle.test[0]])
        return cost_of(model, inputs)

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """Regions where they lie, with what is asked and its best answer."""
        own = _regions(bundle)
        cells = [Cell(draw_regions(inputs), f"{own.said(inputs['input_ids'])} {own.classes[int(scores.argmax())]}") for inputs, scores in samples]
        return [Row("regions", cells)]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        own, row = _regions(bundle), Row("answer")
        for (inputs, scores), logits in zip(samples, outputs, strict=True):
            said = int(logits.argmax())
            row.cells.append(Cell(draw_regions(inputs), own.classes[said], wrong=not scores[said] > 0))
        return [row]

    @torch.no_grad()
    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``answers.png``: questions, answers, and what the last cross layer takes from each region."""
        own = _regions(bundle)
        samples = [own.test[place] for place in range(min(12, len(own.test)))]
        inputs, _ = self.collate(samples)
        device = next(model.parameters()).device
        return [write_regions_report(model, samples, {name: value.to(device) for name, value in inputs.items()}, own, metrics, folder)]


def _worth(outputs: Tensor, targets: Tensor) -> Tensor:
    return targets.gather(1, outputs.argmax(1, keepdim=True))[:, 0].float()


def _regions(bundle: DataBundle) -> RegionBundle:
    assert isinstance(bundle, RegionBundle), "sets whose targets are scores of answers have a bundle of regions"
    return bundle
