"""Questions about images, answered out of a list. Judged by how right the likeliest answer is, as VQA v2 counts it: fully where one answer is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ...attention import Cost
from ..data import DataBundle, ImageAnswerBundle
from ._caption_report import draw_questions
from ._counted import cost_of
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task
from ._word_viewer import view_answer, write_word_page

__all__ = ["ImageQuestions"]


@register_task
@dataclass(frozen=True, kw_only=True)
class ImageQuestions(Task):
    """Binary cross-entropy of every answer with how right it is, a sum over answers."""

    targets: ClassVar[str] = "image_answers"
    sample_name: ClassVar[str] = "question"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("accuracy", "accuracy")
    train_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        own = _questions(bundle)
        return {"regions": own.width, "words": own.lexicon.size, "answers": len(own.answers), "pad": 0, "length": own.length}

    def shards(self) -> bool:
        return True

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        logits = forward(inputs).float()
        loss = F.binary_cross_entropy_with_logits(logits, targets[:, 1:], reduction="none").sum(1).mean()
        return loss, {"accuracy": self.per_sample(logits.detach(), targets).sum()}

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:
        return targets[:, 1:].gather(1, outputs.argmax(1, keepdim=True))[:, 0]

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``accuracy``, and that of each kind of question."""
        names = ["accuracy", *(f"kind_{place}" for place in range(len(_questions(bundle).kinds)))]
        return MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        right = self.per_sample(outputs, targets)
        for name, metric in metrics.items():
            own = torch.ones_like(right) if name == "accuracy" else (targets[:, 0] == int(name.partition("_")[2])).float()
            metric.update(right, weight=own)

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        found: Metrics = {"accuracy": metrics["accuracy"].compute().item()}
        own = _questions(bundle)
        for place, kind in enumerate(own.kinds):
            share = metrics[f"kind_{place}"].compute()
            # a split may have none of a kind
            if not share.isnan():
                found[own.metric_of(kind)] = share.item()
        return found

    def chance(self, bundle: DataBundle) -> float | None:
        chances = _questions(bundle).chances
        return sum(chances) / len(chances) if chances else None

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one question, the network that made its regions left out; parameters are all there are."""
        inputs, _ = self.collate([bundle.test[0]])
        return cost_of(model, inputs)

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """Pictures with question and answer; none where a set has no pictures."""
        if not all("picture" in inputs for inputs, _ in samples):
            return []
        own = _questions(bundle)
        cells = [Cell(_pixels(inputs), f"{own.asked(inputs['question'])} {own.answers[int(target[1:].argmax())]}") for inputs, target in samples]
        return [Row("question", cells)]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        own, row = _questions(bundle), Row("answer")
        for (inputs, target), logits in zip(samples, outputs, strict=True):
            said = int(logits.argmax())
            row.cells.append(Cell(_pixels(inputs), own.answers[said], wrong=not bool(target[1 + said])))
        return [row]

    @torch.no_grad()
    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``answers.png``: pictures, questions and what is answered; and what was taken of each region and word.
        ``attention.html``: of the first, to be asked."""
        own, device, network = _questions(bundle), next(model.parameters()).device, model
        samples = [own.test[place] for place in range(min(12, len(own.test)))]
        if not all("picture" in inputs for inputs, _ in samples):
            return []
        inputs, targets = self.collate(samples)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        logits = network(inputs)
        said = logits.argmax(1).cpu()
        regions, words = network.look(inputs)  # type: ignore[operator]
        looks = (None if regions is None else regions.cpu(), words.cpu())
        drawn = draw_questions({name: value.cpu() for name, value in inputs.items()}, targets, said, looks, own, metrics, folder / "answers.png")
        asked = inputs["question"][0] != 0
        best = logits[0].float().sigmoid().topk(min(5, logits.shape[1]))
        answers = [(own.answers[place], share) for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        question = [own.lexicon.words[word] for word in inputs["question"][0][asked].tolist()]
        viewed = view_answer(question, None if regions is None else regions[0], words[0][asked], inputs["boxes"][0], answers)
        return [drawn, write_word_page(viewed, samples[0][0]["picture"], folder, title="What an answer takes from where")]


def _questions(bundle: DataBundle) -> ImageAnswerBundle:
    assert isinstance(bundle, ImageAnswerBundle), "sets whose targets are answers about images have a bundle of them"
    return bundle


def _pixels(inputs: Any) -> Any:
    return inputs["picture"].permute(1, 2, 0).cpu().numpy()
