"""Videos that are talked about: the published data, and a small set out of a package that stands in for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ...._errors import InputError, missing_extra
from ...._ranges import Range
from .._bundle import Data, DataBundle, register_data
from .._foreign import few
from ..digits import load_digits
from ..video._bundle import no_single_image
from ..video._reader import open_clip, unreadable
from ._conversations import Conversation, read_conversations
from ._prompts import Prompts
from ._tiny_processor import tiny_processor
from .clip_questions import KINDS, ClipQuestions

__all__ = ["ClipConversations", "ConversationBundle", "VideoConversations"]

TARGETS = "conversations"


@dataclass(frozen=True)
class ConversationBundle(DataBundle):
    """Splits of ``(inputs, labels)``: what a language model is given and asked for."""

    processor: Any = None
    probe_token: int = 0
    """The word that stands for a probe."""
    words: dict[str, int] = field(default_factory=dict)
    """Of the vocabulary its size, and the words ``pad``, ``end``, ``image`` and ``video``."""


def _bundle(processor: Any, probe_word: str, patch: int, **splits: Any) -> ConversationBundle:
    tokenizer = processor.tokenizer
    # a word of its own, which no tokenizer has; the embeddings have a row for it where they are larger than the vocabulary, as those of Qwen2.5 are
    tokenizer.add_tokens([probe_word], special_tokens=True)
    words = {"size": len(tokenizer), "pad": tokenizer.pad_token_id, "end": tokenizer.eos_token_id}
    words |= {"image": processor.image_token_id, "video": processor.video_token_id}
    probe = int(tokenizer.convert_tokens_to_ids(probe_word))
    return ConversationBundle(**splits, classes=[], img_size=patch, in_chans=3, prepare=no_single_image, processor=processor, probe_token=probe, words=words)


@register_data
@dataclass(frozen=True, kw_only=True)
class VideoConversations(Data):
    """Conversations about videos in the JSON of DnA's video language model (``viscop``), as VideoLLaMA 3 reads them.

    Raises:
        ValueError: see ``read_conversations``; no processor at ``base``; videos without frames, or that cannot be read; in training a video that has more
            visual tokens or words than allowed.
    """

    targets: ClassVar[str] = TARGETS
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("max_frames", "max_visual_tokens", "max_words"), Range(at_least=1)),
        "num_probes": Range(at_least=0),
        "fps": Range(above=0),
    }

    root: Path
    """The folder that paths of videos begin in."""
    train: Path = Path("train.json")
    """The conversations to train on, in ``root`` or anywhere."""
    test: Path = Path("val.json")
    """Those to judge on, for validation and test alike."""
    base: str = "DAMO-NLP-SG/VideoLLaMA3-7B-Image"
    """A folder, or a name on the Hugging Face hub, with the processor."""
    fps: float = 1.0
    """Frames a second that are looked at."""
    max_frames: int = 180
    """At most so many of a video, spread evenly over it; published: 180, and 40 of egocentric videos."""
    max_visual_tokens: int = 10_240
    """A sample with more is refused."""
    max_words: int = 16_384
    """And with more of these, visual tokens among them."""
    num_probes: int = 16
    """Words for probes behind each video; as many as the model has, 0 for none."""
    probe_word: str = "<probe>"
    """The word that stands for a probe."""
    check: bool = True
    """Open every video once at the start. Without it one that cannot be read stops the run when it is its turn."""

    def load(self) -> ConversationBundle:
        try:
            from transformers import AutoProcessor
        except ImportError as error:
            raise missing_extra("transformers", "hf", "conversations about videos") from error
        read = {name: read_conversations(self.root / path, self.root) for name, path in (("train", self.train), ("test", self.test))}
        try:
            processor: Any = AutoProcessor.from_pretrained(self.base)
        except (OSError, ValueError) as error:
            raise InputError(f"no processor of VideoLLaMA 3 could be read at {self.base}: {_first_line(error)}; give its folder as --data.base") from None
        if not hasattr(processor, "video_processor") or not hasattr(processor, "video_token_id"):
            raise InputError(f"{self.base} holds a {type(processor).__name__}, which reads no videos; expected that of VideoLLaMA 3")
        videos = list(dict.fromkeys(one.video for found in read.values() for one in found))
        if self.check and (problems := unreadable(videos)):
            raise InputError(f"{len(problems)} of {len(videos)} videos cannot be read: {few(list(problems.values()))}; take their conversations out")
        train, test = (self._split(processor, found) for found in read.values())
        return _bundle(processor, self.probe_word, processor.video_processor.patch_size, train=train, val=test, test=test)

    def smoke_data(self) -> "ClipConversations":
        return ClipConversations(num_probes=self.num_probes, probe_word=self.probe_word)

    def _split(self, processor: Any, found: list[Conversation]) -> Prompts:
        def frames(index: int) -> tuple[Tensor, list[int], float]:
            with open_clip(found[index].video) as clip:
                rate = clip.rate or self.fps
                count = max(1, min(self.max_frames, round(clip.count / rate * self.fps)))
                numbers = clip.numbers_at(np.arange(count) * clip.count / count)
                pictures = np.stack(clip.read(numbers))
            return torch.from_numpy(pictures).permute(0, 3, 1, 2), numbers, rate

        turns = [one.turns for one in found]
        return Prompts(processor, turns, frames, self.probe_word, self.num_probes, self.max_visual_tokens, self.max_words)


@register_data
@dataclass(frozen=True, kw_only=True)
class ClipConversations(Data):
    """Questions about clips of moving digits as conversations, with a tokenizer of their few words: what stands in for videos in a smoke run."""

    targets: ClassVar[str] = TARGETS
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("train_clips", "test_clips"), Range(at_least=1)),
        "num_probes": Range(at_least=0),
    }

    source: Literal["digits", "mnist"] = "digits"
    """Which digits, see :class:`ClipQuestions`."""
    train_clips: int = 16
    """Number of training clips."""
    test_clips: int = 8
    """Number of validation clips, which are those of the test too."""
    num_probes: int = 16
    """Words for probes behind each clip."""
    probe_word: str = "<probe>"
    """The word that stands for a probe."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def smoke_data(self) -> "ClipConversations":
        return self

    def load(self) -> ConversationBundle:
        digits, settings = load_digits(self.source), ClipQuestions(source=self.source, seed=self.seed)
        words = [word for question, answers in KINDS.values() for text in (question, *answers) for word in text.split()]
        processor = tiny_processor(words, side=2 * settings.cell)
        splits = {}
        for name, count in (("train", self.train_clips), ("test", self.test_clips)):
            made = [settings.compose(name, index, *digits) for index in range(count)]
            clips = [torch.from_numpy(frames)[:, None].expand(-1, 3, -1, -1) for frames, _, _ in made]
            turns = [((KINDS[settings.kinds[kind]][0], KINDS[settings.kinds[kind]][1][answer]),) for _, kind, answer in made]
            splits[name] = Prompts(processor, turns, _Kept(clips), self.probe_word, self.num_probes, 10_240, 16_384, {})
        return _bundle(processor, self.probe_word, processor.video_processor.patch_size, **splits, val=splits["test"])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@dataclass(frozen=True)
class _Kept:
    clips: list[Tensor]

    def __call__(self, index: int) -> tuple[Tensor, list[int], float]:
        return self.clips[index], list(range(len(self.clips[index]))), 1.0
