"""Pre-training of LXMERT: hidden words, hidden regions, whether a sentence is of this image, and answers.

Papers     LXMERT (Tan and Bansal, EMNLP 2019, arXiv 1908.07490), Sec. 3; CATT (arXiv 2103.03493)
Official   airsplay/lxmert ``src/pretrain``; yangxuntu/lxmertcatt ``lxmert_pretrain2.py``, which hides words or regions of a sample, never both
Formula    loss = CE(hidden words) + CE(matched) + CE(answers) + (1/share) · mean over regions of hidden · (c CE(object) + c' CE(attribute) + L1s(features))
           c, c' how sure the detector is. Of what is hidden, words become [MASK] (features zeros) in 80 %, others at random in 10 %, and stay in 10 %.
Differs    A region that is put in the place of another comes from the same batch.

Shapes     B samples, N words, M regions
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ..._ranges import Range
from ...attention import Cost
from ..data import DataBundle, SentenceBundle
from ._counted import cost_of
from ._padded import padded
from ._task import Metrics, PrimaryMetric, Task, register_task

__all__ = ["RegionPretraining"]

_REGIONS = ("features", "boxes", "objects", "attributes", "objects_conf", "attributes_conf")
_NAMES = {"features": "visual_feats", "boxes": "visual_pos"}
_NONE = -100
_PARTS = ("words", "objects", "attributes", "matched", "answers")


@register_task
@dataclass(frozen=True, kw_only=True)
class RegionPretraining(Task):
    """Guess what is hidden of a sentence and of the regions that it is about."""

    targets: ClassVar[str] = "region-sentences"
    sample_name: ClassVar[str] = "sentence"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("words", "accuracy of hidden words")
    train_metrics: ClassVar[tuple[str, ...]] = ("words",)
    ranges: ClassVar[dict[str, Range]] = {"share": Range(above=0, below=1)}

    share: float = 0.15
    """Of words, and of regions, that are hidden."""
    hide: Literal["either", "both"] = "either"
    """``either`` words or regions of a sample, as CATT's authors; ``both``, as LXMERT's."""
    attend_hidden: bool = False
    """Whether hidden regions may be attended to, as in LXMERT; CATT's authors leave them out of the mask."""

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        own = _sentences(bundle)
        sizes = {"objects": own.objects, "attributes": own.attributes, "mask": own.mask}
        return {"words": own.words, "region_dim": own.region_dim, "outputs": len(own.classes), **sizes}

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Words and regions padded, each with a mask."""
        each = {name: padded([inputs[name] for inputs, _ in samples]) for name in ("input_ids", "maskable", *_REGIONS)}
        masks = {"attention_mask": each["input_ids"][1], "visual_attention_mask": each["boxes"][1]}
        return {_NAMES.get(name, name): rows for name, (rows, _) in each.items()} | masks, torch.stack([labels for _, labels in samples])

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        hidden, labels = self.hidden(model, inputs)
        out = forward(hidden)
        loss, right = self._judged(out, inputs, labels, targets)
        known, count = right["words"]
        return loss, {"words": len(targets) * known / count.clamp_min(1)}

    def reach(self, model: nn.Module, inputs: Any, targets: Any, bundle: DataBundle) -> Any:
        return model(inputs)

    @torch.no_grad()
    def hidden(self, model: Any, inputs: dict[str, Tensor], generator: torch.Generator | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The inputs with some of them hidden; and what is hidden: ``words`` ``(B, N)``, −100 where none is, and ``regions``, bool ``(B, M)``."""
        ids, features, there = inputs["input_ids"], inputs["visual_feats"], inputs["visual_attention_mask"].bool()

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=None if generator is not None else ids.device).to(ids.device)

        of_words = drawn(len(ids)) < 0.5 if self.hide == "either" else torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        of_regions = ~of_words if self.hide == "either" else of_words
        words, how = (drawn(*ids.shape) < self.share) & inputs["maskable"] & of_words[:, None], drawn(*ids.shape)
        others = (drawn(*ids.shape) * model.words).long()
        told = torch.where(words & (how < 0.8), model.mask, torch.where(words & (how > 0.9), others, ids))
        regions, how = (drawn(*there.shape) < self.share) & there & of_regions[:, None], drawn(*there.shape)
        elsewhere = features.flatten(0, 1)[(drawn(*there.shape) * there.numel()).long()]
        seen = features.masked_fill((regions & (how < 0.8))[..., None], 0.0)
        seen = torch.where((regions & (how > 0.9))[..., None], elsewhere, seen)
        attended = inputs["visual_attention_mask"] if self.attend_hidden else (there & ~regions).long()
        changed = {"input_ids": told, "visual_feats": seen, "visual_attention_mask": attended}
        return inputs | changed, {"words": ids.masked_fill(~words, _NONE), "regions": regions}

    def _judged(self, out: dict[str, Tensor], inputs: Any, labels: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """The loss, and by part how many were right, and of how many."""
        there, hidden = inputs["visual_attention_mask"].bool(), labels["regions"]
        wanted = {"words": labels["words"], "matched": targets[:, 0], "answers": targets[:, 1].masked_fill(targets[:, 1] < 0, _NONE)}
        wanted |= {name: inputs[name].masked_fill(~hidden, _NONE) for name in ("objects", "attributes")}
        loss, right = out["words"].new_zeros((), dtype=torch.float32), {}
        for name in _PARTS:
            logits, target = out[name].float(), wanted[name]
            each = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=_NONE, reduction="none")
            known = (target != _NONE).sum()
            if name in ("objects", "attributes"):
                loss = loss + (each * inputs[f"{name}_conf"].flatten()).sum() / there.sum() / self.share
            else:
                # without an answer in a batch there is none to learn
                loss = loss + each.sum() / known.clamp_min(1)
            right[name] = ((logits.detach().argmax(-1) == target).sum(), known)
        off = F.smooth_l1_loss(out["features"].float(), inputs["visual_feats"].float(), reduction="none").mean(-1)
        return loss + (off * hidden).sum() / there.sum() / self.share, right

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """What is said of what is hidden; the same is hidden at every look."""
        hidden, labels = self.hidden(model, inputs, torch.Generator().manual_seed(0))
        return model(hidden), inputs, labels

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``loss``, as in training; and the accuracy of each part but features."""
        return MetricCollection({name: MeanMetric() for name in ("loss", *_PARTS)}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        out, inputs, labels = outputs
        loss, right = self._judged(out, inputs, labels, targets)
        metrics["loss"].update(loss, weight=len(targets))
        for name, (known, count) in right.items():
            metrics[name].update(known / count.clamp_min(1), weight=count)

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        found = {name: metric.compute() for name, metric in metrics.items()}
        # a split may have no answers
        return {name: value.item() for name, value in found.items() if not value.isnan()}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of the first sentence of the test."""
        inputs, _ = self.collate([bundle.test[0]])
        return cost_of(model, inputs)


def _sentences(bundle: DataBundle) -> SentenceBundle:
    assert isinstance(bundle, SentenceBundle), "sets whose targets are sentences of regions have a bundle of them"
    return bundle
