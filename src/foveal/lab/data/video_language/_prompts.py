"""Conversations as VideoLLaMA 3 reads them: words by its processor, probes' words behind the video, labels on answers alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...._errors import InputError
from ....models.video_language import with_probe_words
from ._conversations import PLACE

__all__ = ["Prompts", "Turns"]

Turns = Sequence[tuple[str, str]]
Frames = tuple[Tensor, list[int], float]
"""``(T, 3, H, W)`` uint8, the number of each in its video, and the video's frames a second."""


@dataclass(frozen=True)
class Prompts:
    """A split of ``(inputs, labels)``: what ``VideoLlama3ForConditionalGeneration`` is called with, of one sample, and −100 where no answer is."""

    processor: Any
    turns: Sequence[Turns]
    frames: Callable[[int], Frames]
    probe_word: str
    num_probes: int
    """0 without probes."""
    most_tokens: int
    most_words: int
    made: dict[int, tuple[dict[str, Tensor], Tensor]] | None = None
    """Samples that were made once, where they are few; None makes them anew each time."""
    augments: bool = False

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        if self.made is None:
            return self._make(index)
        if index not in self.made:
            self.made[index] = self._make(index)
        return self.made[index]

    def _make(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        frames, numbers, rate = self.frames(index)
        if not len(frames):
            raise InputError(f"sample {index} has a video without frames; leave it out")
        about = {"fps": rate, "total_num_frames": numbers[-1] + 1, "frames_indices": numbers}
        options = {"videos": [frames], "return_tensors": "pt", "videos_kwargs": {"do_sample_frames": False, "video_metadata": [about]}}
        out = self.processor(text=[self._text(index, len(self.turns[index]))], **options)
        inputs = {name: value for name, value in out.items() if isinstance(value, Tensor)}
        kept = int((inputs["input_ids"] == self.processor.video_token_id).sum())
        if kept > self.most_tokens or inputs["input_ids"].shape[1] > self.most_words:
            raise InputError(
                f"sample {index} has {kept} visual tokens and {inputs['input_ids'].shape[1]} words in all, and at most {self.most_tokens} and "
                f"{self.most_words} are allowed; lower max_frames, or raise what is allowed"
            )
        return inputs, self._labels(index, inputs["input_ids"][0])

    def _text(self, index: int, turns: int, ask: bool = False) -> str:
        """The first turns; with ``ask`` without the last answer, but with what stands before it."""
        said: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(self.turns[index][:turns]):
            parts: list[dict[str, Any]] = [{"type": "text", "text": question.replace(PLACE, "").strip()}]
            said.append({"role": "user", "content": [{"type": "video"}, *parts] if not number else parts})
            if not ask or number < turns - 1:
                said.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text = self.processor.apply_chat_template(said, tokenize=False, add_generation_prompt=ask)
        return with_probe_words(text, self.processor.video_token, self.probe_word, self.num_probes) if self.num_probes else str(text)

    def _labels(self, index: int, ids: Tensor) -> Tensor:
        """Answers, each with what ends it: from where a prompt that asks for it ends, to where the conversation up to it does."""
        labels = torch.full_like(ids, -100)
        place, grown = self._visual_words(ids), ids.shape[0] - len(self._plain(self._text(index, len(self.turns[index]))))
        for turns in range(1, len(self.turns[index]) + 1):
            begin, end = (len(self._plain(self._text(index, turns, ask))) + grown for ask in (True, False))
            if not place < begin < end <= len(ids):
                raise InputError(f"sample {index}: the chat template does not leave an answer where a prompt ends; give a processor with a template that does")
            labels[begin:end] = ids[begin:end]
        return labels

    def _plain(self, text: str) -> list[int]:
        """Words with one for the whole video."""
        ids: list[int] = self.processor.tokenizer(text)["input_ids"]
        return ids

    def _visual_words(self, ids: Tensor) -> int:
        return int((ids == self.processor.video_token_id).nonzero()[-1])
