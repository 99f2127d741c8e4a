"""Captioners, and networks that answer questions, as recipes have them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from ..._ranges import Range
from ...attention.dictionary import DictionaryInit
from .._config import Arm, ModelConfig, register_model
from ._arms import catt_arms
from .mcan import McanAnswerer
from .second import Catt
from .start import begin_with
from .transformer import TransformerCaptioner
from .updown import UpDownCaptioner
from .updown_answers import UpDownAnswerer

__all__ = ["Captioner", "ImageAnswerer"]


@register_model
@dataclass(frozen=True, kw_only=True)
class Captioner(ModelConfig):
    """Captions from features of regions, by a host of the paper's, with CATT's second stream, a control of it, or none."""

    targets: ClassVar[str] = "captions"
    about: ClassVar[str] = "a captioner"
    baseline: ClassVar[str] = "none"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "in-sample", "dictionary", "dictionary-own", "dictionary-kmeans", "dictionary-frozen")
    rivals: ClassVar[dict[str, str]] = {"dictionary-own": "in-sample"}
    ranges: ClassVar[dict[str, Range]] = {"dictionary_size": Range(at_least=1)}

    host: Literal["transformer", "updown"] = "transformer"
    """``transformer``: encoder and decoder; ``updown``: two LSTMs, with regions that say where they are."""
    catt: Catt = "none"
    """The second stream: ``dictionary``, CATT's; its controls ``in_sample``, the sample once more with weights of its own, and ``skip``, no attention; or
    ``none``."""
    dictionary_size: int = 100
    """Entries of each dictionary; the paper's is 500."""
    share: bool = True
    """Read dictionaries with the weights of the sample, as the paper does."""
    init: DictionaryInit = "normal"
    """How dictionaries start; ``kmeans``: at clusters of training tokens, fitted before the first step."""
    trainable: bool = True
    """Train the dictionaries; else they stay as they started."""
    width: int = 128
    """Of tokens."""
    depth: int = 2
    """Layers of the encoder, and of the decoder; of the transformer."""
    num_heads: int = 4
    """Heads."""
    dropout: float = 0.1
    """In training."""
    start: Path | None = None
    """Folder of a run whose weights it begins with, such as one on words before one on rewards."""

    def build(self, *, regions: int, words: int, pad: int, begin: int, end: int, length: int) -> nn.Module:  # type: ignore[override]
        """The network.

        Args:
            regions: width of the features of a region.
            words: size of the vocabulary.
            pad: of these the word of padding.
            begin: the one that all begins with.
            end: the one that ends a caption.
            length: most words of a caption with its end.
        """
        options: dict[str, Any] = {"length": length, "pad": pad, "begin": begin, "end": end, "catt": self.catt, "dictionary_size": self.dictionary_size}
        options |= {"share": self.share, "init": self.init, "trainable": self.trainable, "drop": self.dropout}
        if self.host == "updown":
            return UpDownCaptioner(regions, words, self.width, self.width, boxes=True, **options)
        return TransformerCaptioner(regions, words, self.width, self.depth, self.num_heads, **options)

    def begin_(self, model: nn.Module, split: Any, seed: int) -> list[str]:
        return [] if self.start is None else [begin_with(model, self.start)]

    def smoke_model(self) -> "Captioner":
        return replace(self, start=None, width=32, depth=2, num_heads=2, dictionary_size=8, init="normal")

    def arms(self) -> dict[str, Arm]:
        return catt_arms(self)


@register_model
@dataclass(frozen=True, kw_only=True)
class ImageAnswerer(ModelConfig):
    """Answers to questions about features of regions, by a host of the paper's, with CATT's second stream, a control of it, or none."""

    targets: ClassVar[str] = "image_answers"
    about: ClassVar[str] = "a network that answers questions about images"
    baseline: ClassVar[str] = "none"
    default_arms: ClassVar[tuple[str, ...]] = ("question-only", *Captioner.default_arms)
    rivals: ClassVar[dict[str, str]] = Captioner.rivals
    ranges: ClassVar[dict[str, Range]] = {"dictionary_size": Range(at_least=1)}

    host: Literal["mcan", "updown"] = "mcan"
    """``mcan``: a transformer; ``updown``: a GRU that looks once, at regions that say where they are."""
    blind: bool = False
    """Look at the question alone: a control."""
    catt: Catt = "none"
    """The second stream, as in :class:`Captioner`."""
    dictionary_size: int = 100
    """Entries of each dictionary; the paper's is 500."""
    share: bool = True
    """Read dictionaries with the weights of the sample, as the paper does."""
    init: DictionaryInit = "normal"
    """How dictionaries start; ``kmeans``: at clusters of training tokens, fitted before the first step."""
    trainable: bool = True
    """Train the dictionaries; else they stay as they started."""
    width: int = 128
    """Of tokens."""
    depth: int = 2
    """Layers over words, and over regions; of the transformer."""
    num_heads: int = 4
    """Heads."""
    dropout: float = 0.1
    """In training."""

    def build(self, *, regions: int, words: int, answers: int, pad: int, length: int) -> nn.Module:  # type: ignore[override]
        """The network.

        Args:
            regions: width of the features of a region.
            words: size of the vocabulary of questions.
            answers: that can be given.
            pad: the word of padding.
            length: most words of a question.
        """
        options: dict[str, Any] = {"length": length, "pad": pad, "blind": self.blind, "catt": self.catt, "dictionary_size": self.dictionary_size}
        options |= {"share": self.share, "init": self.init, "trainable": self.trainable, "drop": self.dropout}
        if self.host == "updown":
            return UpDownAnswerer(regions, words, answers, self.width, self.width, words_dim=self.width, boxes=True, **options)
        return McanAnswerer(regions, words, answers, self.width, self.depth, self.num_heads, **options)

    def smoke_model(self) -> "ImageAnswerer":
        return replace(self, width=32, depth=2, num_heads=2, dictionary_size=8, init="normal")

    def arms(self) -> dict[str, Arm]:
        blind = replace(self, blind=True, catt="none")
        return {"question-only": Arm("question-only", "no image at all", blind), **catt_arms(replace(self, blind=False))}
