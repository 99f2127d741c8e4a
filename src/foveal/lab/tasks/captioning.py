"""Captions of pictures, from features of regions. Judged by CIDEr-D of what beam search or the likeliest words say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchmetrics import MetricCollection

from ..._errors import InputError, require
from ..._ranges import Range
from ...attention import Cost
from ...models.image_language import Said, beam_search, greedy_search
from ..data import CaptionBundle, DataBundle, Split
from ._caption_report import draw_captions, draw_words
from ._counted import cost_of
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task
from ._word_viewer import view_caption, write_word_page
from .caption_metrics import CaptionScores, coco_scores

__all__ = ["Captioning"]


@register_task
@dataclass(frozen=True, kw_only=True)
class Captioning(Task):
    """Cross-entropy of the words of one reference of each picture, drawn anew each time; a mean over its words."""

    targets: ClassVar[str] = "captions"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("cider", "CIDEr-D", unit="", step="points")
    train_metrics: ClassVar[tuple[str, ...]] = ("word_accuracy",)
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)
    ranges: ClassVar[dict[str, Range]] = {
        "beams": Range(at_least=1),
        "label_smoothing": Range(at_least=0, below=1),
        "length_penalty": Range(at_least=0),
    }

    beams: int = 5
    """Width of the beam search of evaluation; 1: the likeliest word each time."""
    length_penalty: float = 0.0
    """By this power of its number of words a caption's score is divided in beam search."""
    label_smoothing: float = 0.0
    """Of the cross-entropy."""
    coco: bool = False
    """Judge the test of a finished run by the official COCO evaluation too; needs the extra ``captions``."""

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        own = _captions(bundle)
        form = dict(zip(("pad", "begin", "end"), range(3), strict=True))
        return {"regions": own.width, "words": own.lexicon.size, "length": own.length, **form}

    def check_data(self, bundle: DataBundle) -> None:
        if self.coco:
            require("the COCO caption evaluation", ("pycocoevalcap",))
        self._check_images({"validation": bundle.val, "test": bundle.test, **bundle.probes})

    @staticmethod
    def _check_images(splits: Mapping[str, Split]) -> None:
        for name, split in splits.items():
            if len(split) < 2:
                raise InputError(f"CIDEr-D weighs n-grams by how few images have them: {name} needs at least 2 images, got {len(split)}; give it more")

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        return default_collate([inputs for inputs, _ in samples]), [target for _, target in samples]

    def shards(self) -> bool:
        return True

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        captions = torch.stack([target["references"][int(torch.randint(len(target["references"]), ()))] for target in targets])
        logits = forward(inputs, captions).float()
        losses = F.cross_entropy(logits.mT, captions, ignore_index=-100, reduction="none", label_smoothing=self.label_smoothing)
        there = captions != -100
        right = ((logits.detach().argmax(-1) == captions) & there).sum(1) / there.sum(1)
        return (losses.sum(1) / there.sum(1)).mean(), {"word_accuracy": right.sum()}

    def reach(self, model: nn.Module, inputs: Any, targets: Any, bundle: DataBundle) -> Any:
        return Captioning.step(self, model, model, inputs, targets, bundle)

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Words ``(B, T)``, −100 behind the end."""
        return self.say(model, inputs).words

    def say(self, model: nn.Module, inputs: Any) -> Said:
        """Captions and their scores."""
        network: Any = model
        if self.beams == 1:
            return greedy_search(network, inputs, length=network.length)
        return beam_search(network, inputs, width=self.beams, length=network.length, length_penalty=self.length_penalty)

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """All at once, see :class:`~foveal.lab.tasks.caption_metrics.CaptionScores`."""
        return MetricCollection({"captions": CaptionScores(_captions(bundle))}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        metrics["captions"].update(outputs, targets)

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        return dict(metrics["captions"].compute())

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of the longest caption of one picture with its words given, the network that made its regions left out; parameters are all there are."""
        own = _captions(bundle)
        inputs, _ = self.collate([bundle.test[0]])
        words = torch.full((1, own.length), own.lexicon.numbers["<end>"])
        return cost_of(model, inputs, words)

    def assess(self, model: nn.Module, bundle: DataBundle, folder: Path) -> Metrics:
        """With ``coco``, ``coco_bleu_1`` … ``coco_rouge_l``, ``coco_cider``; METEOR and SPICE where Java is there."""
        if not self.coco:
            return {}
        own, device = _captions(bundle), next(model.parameters()).device
        captions, references = list[str](), list[list[str]]()
        for start in range(0, len(own.test), self.eval_batch_size):
            inputs, targets = self.collate([own.test[place] for place in range(start, min(start + self.eval_batch_size, len(own.test)))])
            said = self.say(model, {name: value.to(device) for name, value in inputs.items()}).words
            captions += [own.said(row) for row in said.cpu()]
            references += [[own.said(row) for row in target["references"] if int(row[0]) != -100] for target in targets]
        scores, notes = coco_scores(captions, references, java=True)
        return {f"coco_{name.lower()}": score for name, score in scores.items()} | {"notes": notes}

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """Pictures with their first reference; none where a set has no pictures."""
        if not all("picture" in inputs for inputs, _ in samples):
            return []
        own = _captions(bundle)
        return [Row("picture", [Cell(_pixels(inputs), own.said(target["references"][0])) for inputs, target in samples])]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        own = _captions(bundle)
        cells = []
        for (inputs, target), said in zip(samples, outputs, strict=True):
            text = own.said(said)
            cells.append(Cell(_pixels(inputs), text or "nothing", wrong=text not in {own.said(row) for row in target["references"]}))
        return [Row("caption", cells)]

    @torch.no_grad()
    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``captions.png``: pictures and what is said of them; ``words.png``: where each word of a caption looks; ``attention.html``: the same of the first,
        to be asked word by word."""
        own, device, network = _captions(bundle), next(model.parameters()).device, model
        files: list[Path] = []
        for name, split in {"": own.test, **{f"{name}-": split for name, split in own.probes.items()}}.items():
            samples = [split[place] for place in range(min(9, len(split)))]
            if not all("picture" in inputs for inputs, _ in samples):
                continue
            inputs, targets = self.collate(samples)
            inputs = {key: value.to(device) for key, value in inputs.items()}
            said = self.say(network, inputs).words
            looks = network.look(inputs, said)  # type: ignore[operator]
            pictures = [_pixels(each) for each, _ in samples]
            found = {key: metrics[f"{name}{key}".replace("-", "_")] for key in ("cider", "hallucinated") if f"{name}{key}".replace("-", "_") in metrics}
            files.append(draw_captions(pictures, said.cpu(), targets, own, found, folder / f"{name}captions.png"))
            files.append(draw_words(pictures, inputs["boxes"].cpu(), looks.cpu(), said.cpu(), own, folder / f"{name}words.png"))
            if not name and said[0, 0] != -100:
                first = [own.lexicon.words[word].replace("<end>", "(end)") for word in said[0].tolist() if word != -100]
                viewed = view_caption(first, looks[0, : len(first)], inputs["boxes"][0])
                files.append(write_word_page(viewed, samples[0][0]["picture"], folder, title="Where each word of a caption looks"))
        return files


def _captions(bundle: DataBundle) -> CaptionBundle:
    assert isinstance(bundle, CaptionBundle), "sets whose targets are captions have a bundle of them"
    return bundle


def _pixels(inputs: Any) -> Any:
    return inputs["picture"].permute(1, 2, 0).cpu().numpy()
