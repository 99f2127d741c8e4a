"""A small language model that answers questions about clips, by what a frozen tower and probes tell it: the network of embedded tasks.

Shapes     B clips, T frames, N tokens of a frame with those in front of the grid, L words of a question, A words of an answer
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from ...attention import config_from_dict
from .._config import Arm, ModelConfig, register_model
from ..probes import ProbeForm, VisualProbes
from .model import VideoLanguageModel, VisualTokens
from .towers import Seen

__all__ = ["QuestionReader", "VideoLanguage"]


class QuestionReader(nn.Module):
    """Puts words for visual tokens and probes in front of a question, and reads the answer behind it.

    Args:
        language: a causal language model of transformers.
        video: the same with a tower, or None: the question is all that there is.
        pad: the word of padding.
        begin: the word that everything begins with.
        end: the word that ends an answer.
        answer_words: A, the most words of an answer with the one that ends it.
    """

    def __init__(self, language: nn.Module, video: VideoLanguageModel | None, *, pad: int, begin: int, end: int, answer_words: int) -> None:
        super().__init__()
        # one of the two holds it: a module under two names would be there twice in a state dict
        self.alone, self.video = language if video is None else None, video
        self.pad, self.begin, self.end, self.answer_words = pad, begin, end, answer_words

    def forward(self, inputs: Mapping[str, Tensor], answers: Tensor) -> Tensor:
        """Logits of each word of an answer after the words before it, ``(B, A, words)``.

        Args:
            inputs: ``question``, words ``(B, L)``; ``layers``, what comes out of each of the tower's, ``(B, layers, T, N, C)``.
            answers: words ``(B, A)``, −100 behind the end.

        Raises:
            ValueError: a word of an answer is not in the vocabulary; clips without frames.
        """
        ids = self._words(inputs)
        given = torch.cat([ids, answers.clamp_min(0)], dim=1)
        try:
            if self.video is None:
                assert self.alone is not None, "there without a video"
                out = self.alone(input_ids=given)
            else:
                out = self.video(given, self.seen(inputs))
        except IndexError as error:
            # not asked before, as a device would have to be waited for
            if answers.max() < self.vocabulary:
                raise
            raise InputError(
                f"answers have the word {int(answers.max())}, and the vocabulary has {self.vocabulary} words; give a model of the set's vocabulary"
            ) from error
        return out.logits[:, ids.shape[1] - 1 : -1]

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The likeliest words one after the other, ``(B, A)``, −100 behind the end."""
        ids = self._words(inputs)
        options: dict[str, Any] = {"max_new_tokens": self.answer_words, "do_sample": False}
        if self.video is None:
            assert self.alone is not None, "there without a video"
            said = self.alone.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[:, ids.shape[1] :]  # type: ignore[operator]
        else:
            said = self.video.generate(ids, self.seen(inputs), **options)
        said = nn.functional.pad(said, (0, self.answer_words - said.shape[1]), value=self.end)
        behind = (said == self.end).cumsum(1) - (said == self.end).long() > 0
        return said.masked_fill(behind, -100)

    def seen(self, inputs: Mapping[str, Tensor]) -> Seen:
        """What the tower made of all frames, as it is read."""
        assert self.video is not None, "asked where there is one"
        layers = inputs["layers"].transpose(0, 1).flatten(1, 2)
        tower: Any = self.video.tower
        with torch.no_grad():
            last = tower.norm(layers[-1])
        return Seen(list(layers), last[:, tower.num_prefix_tokens :], last[:, : tower.num_prefix_tokens])

    def read_probes(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The probes of each clip, ``(B, P, C)``; None without any."""
        if self.video is None or self.video.probes is None:
            return None
        return self.video.read_probes(self.seen(inputs), _frames(inputs))

    def probe_maps(self, inputs: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Where each probe looks, by layer, ``(B, H, P, T, N)`` each; nothing without probes."""
        if self.video is None or self.video.probes is None:
            return {}
        found, frames = self.video.probe_maps(self.seen(inputs), _frames(inputs)), _frames(inputs).shape[1]
        return {layer: {name: value.unflatten(-1, (frames, -1)) for name, value in maps.items()} for layer, maps in found.items()}

    @property
    def vocabulary(self) -> int:
        """How many words there are."""
        language: Any = self.alone if self.video is None else self.video.language
        return int(language.config.vocab_size)

    def _words(self, inputs: Mapping[str, Tensor]) -> Tensor:
        question, row = inputs["question"], [(self.begin, 1)]
        if self.video is not None:
            _, _, frames, tokens, _ = inputs["layers"].shape
            prefix: Any = self.video.tower.num_prefix_tokens
            if self.video.video_token is not None:
                row.append((self.video.video_token, frames * (tokens - int(prefix) if self.video.tokens == "patches" else 1)))
            if self.video.probe_token is not None and self.video.probes is not None:
                row.append((self.video.probe_token, self.video.probes.num_probes))
        return torch.cat([*(question.new_full((len(question), count), token) for token, count in row), question], dim=1)


def _frames(inputs: Mapping[str, Tensor]) -> Tensor:
    batch, _, frames, *_ = inputs["layers"].shape
    return torch.ones(batch, frames, dtype=torch.bool, device=inputs["layers"].device)


@register_model
@dataclass(frozen=True, kw_only=True)
class VideoLanguage(ModelConfig):
    """A tower that the data bring, probes, and a Qwen2 from scratch on a closed vocabulary. The tower is frozen; everything else is trained."""

    targets: ClassVar[str] = "answers"
    about: ClassVar[str] = "a small language model that is shown clips"
    baseline: ClassVar[str] = "softmax"
    default_arms: ClassVar[tuple[str, ...]] = (
        *("question-only", "cls", "patches", "softmax", "softmax-wide", "denoising", "denoising-frozen"),
        *("denoising-time", "softmax-published", "denoising-published"),
    )
    rivals: ClassVar[dict[str, str]] = {"denoising": "softmax-wide"}
    ranges: ClassVar[Mapping[str, Range]] = {"num_probes": Range(at_least=0), "time_std": Range(at_least=0)}

    attention: str = "denoising"
    """By which probes read: an attention that reads a context."""
    options: dict[str, Any] | None = None
    """Options of the attention, as in its ``Config``."""
    num_probes: int = 4
    """Probes of a clip; 0 for none."""
    form: ProbeForm = "residual"
    """``residual``, ours, or ``published``."""
    time: bool = False
    """Whether a learned vector of the frame is added to its tokens, without which probes are blind to the order of frames."""
    time_std: float = 0.5
    """Of what these vectors start from, with time."""
    train_probes: bool = True
    """Train the probes themselves; the published optimizer leaves them out."""
    start_from_tower: bool = True
    """Start the probes' attentions from the tower's own."""
    tokens: VisualTokens = "none"
    """What of the tower's last layer is given beside probes: all ``patches``, their mean a frame (``pooled``), the class token (``cls``), or ``none``."""
    width: int = 64
    """Of the language model."""
    depth: int = 2
    """Its layers."""
    num_heads: int = 4
    """Its heads."""

    def build(  # type: ignore[override]
        self, *, tower: nn.Module, words: int, pad: int, begin: int, end: int, video: int, probe: int, answer_words: int, num_frames: int
    ) -> QuestionReader:
        """The network.

        Args:
            tower: a vision transformer of timm's kind, whose layers the data hold.
            words: size of the vocabulary.
            pad: of these the word of padding.
            begin: the one that all begins with.
            end: the one that ends an answer.
            video: the one that stands for a visual token.
            probe: the one that stands for a probe.
            answer_words: most words of an answer, with its end.
            num_frames: T.

        Raises:
            ValueError: an attention that reads no context; time without probes.
        """
        if not self.num_probes and (self.time or not self.train_probes):
            raise InputError("time and train_probes are of probes, and num_probes is 0; leave them out")
        language = _language(self.width, self.depth, self.num_heads, words, pad, begin, end)
        options = {"pad": pad, "begin": begin, "end": end, "answer_words": answer_words}
        if not self.num_probes and self.tokens == "none":
            return QuestionReader(language, None, **options)
        # the data keep theirs
        tower = copy.deepcopy(tower)
        blocks: Any = tower.blocks
        probes, dim = None, blocks[0].attn.proj.out_features
        if self.num_probes:
            probes = VisualProbes(
                dim,
                blocks[0].attn.num_heads,
                range(len(blocks)),
                self.num_probes,
                config_from_dict({"attention": self.attention, **(self.options or {})}),
                self.form,
                time=num_frames if self.time else None,
                time_std=self.time_std if self.time else 0.0,
                depth=len(blocks),
            )
            if self.start_from_tower:
                norms = [block.norm1 for block in blocks] if probes.norm else None
                probes.start_from([block.attn for block in blocks], norms=norms)
            probes.probes.requires_grad_(self.train_probes)
        stand = {"video_token": None if self.tokens == "none" else video, "probe_token": probe if probes is not None else None}
        return QuestionReader(language, VideoLanguageModel(tower, language, dim, probes=probes, tokens=self.tokens, **stand), **options)

    def plain(self) -> ModelConfig:
        """The baseline in this one's form, and with its start: probes of another deviation are no weights to lend."""
        return replace(self, attention="softmax", options=None)

    def arms(self) -> dict[str, Arm]:
        """What is told to the language model, and by which attention."""
        probed = replace(self, num_probes=self.num_probes or 4, tokens="none", form="residual", time=False, train_probes=True, start_from_tower=True)
        none = replace(probed, num_probes=0)
        wide: dict[str, Any] = {"attention": "softmax", "options": {"attn_head_dim": 24}}
        found = {
            "question-only": ("no clip at all", none),
            "cls": ("the tower's class token of each frame", replace(none, tokens="cls")),
            "pooled": ("the mean of the tower's patches of each frame", replace(none, tokens="pooled")),
            "patches": ("all patches of the tower's last layer", replace(none, tokens="patches")),
            "softmax": ("softmax probes that start from the tower", replace(probed, attention="softmax", options=None)),
            "softmax-wide": ("softmax probes with heads half as wide again: as many weights as denoising", replace(probed, **wide)),
            "denoising": ("denoising probes that start from the tower", replace(probed, attention="denoising", options=None)),
            "differential": ("differential probes", replace(probed, attention="differential", options=None, start_from_tower=False)),
        }
        for name, words, change in _CHANGES:
            for attention in ("softmax", "denoising"):
                found[f"{attention}-{name}"] = (f"{found[attention][0]}, {words}", replace(found[attention][1], **change))
        return {name: Arm(name, about, model) for name, (about, model) in found.items()}


_CHANGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("frozen", "and are not trained themselves", {"train_probes": False}),
    ("random", "but with random weights", {"start_from_tower": False}),
    ("time", "with learned vectors of the frame", {"time": True}),
    ("published", "in the published form", {"form": "published"}),
    ("and-patches", "beside all patches", {"tokens": "patches"}),
)


def _language(width: int, depth: int, num_heads: int, words: int, pad: int, begin: int, end: int) -> nn.Module:
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ImportError as error:
        raise missing_extra("transformers", "hf", "a language model that answers questions") from error
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            num_key_value_heads=num_heads,
            max_position_embeddings=256,
            pad_token_id=pad,
            bos_token_id=begin,
            eos_token_id=end,
        )
    )
