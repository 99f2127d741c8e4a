"""Questions about clips, answered in words.

Judged by exact match of the likeliest words one after the other with the answer, by kind of question; the headline is the mean over kinds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ...analysis.pictures import to_pixels
from ...attention import Cost
from ...models import VisualProbes
from ..data import AnswerBundle, DataBundle
from ._answer_report import draw_answers, draw_looks
from ._counted import cost_of
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task

__all__ = ["VideoQuestions"]


@register_task
@dataclass(frozen=True, kw_only=True)
class VideoQuestions(Task):
    """Cross-entropy of the words of answers, a mean over words of a sample."""

    targets: ClassVar[str] = "answers"
    sample_name: ClassVar[str] = "question"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("exact_match", "exact match, mean over kinds of questions")
    train_metrics: ClassVar[tuple[str, ...]] = ("exact_match",)
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        own = _answers(bundle)
        form = dict(zip(("pad", "begin", "end", "video", "probe"), range(5), strict=True))
        return {"tower": own.tower, "words": len(own.words), "num_frames": own.num_frames, "answer_words": own.answer_words, **form}

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        answers = targets[:, 1:]
        logits = forward(inputs, answers).float()
        losses = F.cross_entropy(logits.mT, answers, ignore_index=-100, reduction="none")
        there = answers != -100
        right = ((logits.detach().argmax(-1) == answers) | ~there).all(1).sum()
        return (losses.sum(1) / there.sum(1)).mean(), {"exact_match": right}

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """What is said, words ``(B, A)``, and how alike the probes of a clip are, a scalar; NaN without probes."""
        network: Any = model
        probes = network.read_probes(inputs)
        alike = torch.tensor(torch.nan) if probes is None or probes.shape[1] < 2 else VisualProbes.similarity(probes)
        return network.answer(inputs), alike

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``exact_match`` and of each kind of question its own; ``similarity``, the mean cosine between two probes of a clip: 1 is one vector many times."""
        names = [*(f"kind_{place}" for place in range(len(_answers(bundle).kinds))), "similarity"]
        return MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        said, alike = outputs
        right = (said == targets[:, 1:]).all(1).float()
        for name, metric in metrics.items():
            if name == "similarity":
                if not alike.isnan():
                    metric.update(alike, weight=len(targets))
            else:
                own = targets[:, 0] == int(name.partition("_")[2])
                metric.update(right, weight=own.float())

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        kinds = _answers(bundle).kinds
        shares = [metrics[f"kind_{place}"].compute().item() for place in range(len(kinds))]
        found: Metrics = {"exact_match": sum(shares) / len(shares)}
        found |= {kind.replace(" ", "_"): share for kind, share in zip(kinds, shares, strict=True)}
        alike = metrics["similarity"].compute().item()
        # without probes there is nothing that could be alike
        return found if math.isnan(alike) else found | {"similarity": alike}

    def chance(self, bundle: DataBundle) -> float | None:
        chances = _answers(bundle).chances
        return sum(chances) / len(chances)

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one question and the words of its answer, the frozen tower left out, which does not run; parameters are all there are."""
        inputs, targets = self.collate([bundle.test[0]])
        return cost_of(model, inputs, targets[:, 1:])

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """A clip and its answer, with the frames in their order; the question's kind stands in front."""
        own = _answers(bundle)
        return [Row("clip", [Cell(_film(inputs["clip"]), f"{own.kinds[int(target[0])]}: {own.said(target[1:])}") for inputs, target in samples])]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        own, row = _answers(bundle), Row("answer")
        for (inputs, target), said in zip(samples, outputs[0], strict=True):
            row.cells.append(Cell(_film(inputs["clip"]), own.said(said) or "nothing", wrong=bool((said != target[1:]).any())))
        return [row]

    @torch.no_grad()
    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``answers.png``: clips, questions and what is answered; and, where there are probes, ``probes.png``: where each looks, by layer and over frames."""
        own, device, network = _answers(bundle), next(model.parameters()).device, model
        samples = [own.test[place] for place in range(min(9, len(own.test)))]
        inputs, targets = self.collate(samples)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        said, _ = self.predict(network, inputs)
        files = [draw_answers(inputs["clip"].cpu(), [own.said(words) for words in inputs["question"]], targets[:, 1:], said.cpu(), own, metrics, folder)]
        maps = network.probe_maps(inputs)  # type: ignore[operator]
        return files + ([draw_looks(inputs["clip"].cpu(), maps, [own.said(words) for words in inputs["question"]], own, folder)] if maps else [])


def _answers(bundle: DataBundle) -> AnswerBundle:
    assert isinstance(bundle, AnswerBundle), "sets whose targets are answers have a bundle of them"
    return bundle


def _film(clip: Tensor) -> Any:
    """Frames side by side, with a line between, ``(H, W, 1)``."""
    frames = [F.pad(frame, (0, 1), value=1.0) for frame in clip.cpu()]
    return to_pixels(torch.cat(frames, dim=-1))
