"""Probes in transformers' own VideoLLaMA 3: the model stays what it is, with its ``generate``, processor and Trainer, and reads probes in the places of words.

Papers     VisCoP (arXiv 2510.13808), DnA (arXiv 2606.27372)
Official   rjccv/DnA ``viscop/``
Differs    Probes may stand anywhere behind the last visual token of their image or video and before the next; each must have its words, in its own sample.
           There a mismatch leaves words as they are.

Shapes     S images and videos, N_s patches of each, P probes, L words
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ..probes import VisualProbes, pad
from .new_parts import load_new, save_new

__all__ = ["AttachedProbes", "attach_probes_", "attached_probes", "load_attached", "save_attached", "with_probe_words"]

NAME = "visual_probes"
"""Under which the new parts stand in ``VideoLlama3Model``."""


_READ = "foveal_probes"
"""Under which probes go with what transformers keeps of a tower."""


@dataclass(frozen=True)
class _Read:
    kind: str
    vectors: Tensor
    """``(S, P, C)``."""
    sizes: list[int]
    """Visual tokens of each."""


def _expanded(kind: str, out: Any, vectors: Tensor) -> _Read:
    """Beams repeat what belongs to a sample: the same tensors again, in lists."""
    first: dict[int, int] = {}
    rows = [first.setdefault(id(tokens), len(first)) for tokens in out.pooler_output]
    return _Read(kind, vectors[rows], [len(tokens) for tokens in out.pooler_output])


class AttachedProbes(nn.Module):
    """Probes and their projector, as they stand in a VideoLLaMA 3. Made by :func:`attach_probes_`.

    Args:
        probes: read the tower's layers.
        project: to the width of the language model.
        probe_token: the word that stands for a probe.
        tokens: those that stand for visual tokens, of an ``image`` and of a ``video``.
    """

    def __init__(self, probes: VisualProbes, project: nn.Module, probe_token: int, tokens: Mapping[str, int]) -> None:
        super().__init__()
        self.probes, self.project, self.probe_token, self.tokens = probes, project, probe_token, dict(tokens)
        self.similarity: Tensor | None = None
        """How alike the probes of an image or video were in the last call, see :meth:`VisualProbes.similarity`."""
        self._ids: Tensor | None = None
        self._compressed: Tensor | None = None
        self._asked: tuple[Any, Any] | None = None
        self._kinds: list[str] = []
        self._read: list[_Read] = []

    # hooks, in the order in which they are called; generate calls those of the tower alone, and later the others with what came out

    def _begin(self, model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Of the whole model: remember its words, and what was seen before."""
        self._ids = options.get("input_ids", args[0] if args else None)
        self._compressed = options.get("video_compression_mask")
        # transformers looks at images first
        self._kinds = [kind for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")) if options.get(name) is not None]
        known = (options.get("mm_encoder_outputs") or {}).items()
        self._read = [_expanded(kind, out, getattr(out, _READ)) for kind, out in known if getattr(out, _READ, None) is not None]
        if (self._kinds or self._read) and self._ids is None:
            raise InputError("inputs_embeds were given beside pixels, and where probes belong is told by words; give input_ids")

    def _before_tower(self, tower: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of the tower: ask for its layers."""
        self._asked = options["grid_thw"], options["merge_sizes"]
        return args, options | {"output_hidden_states": True}

    def _behind_tower(self, tower: Any, args: tuple[Any, ...], options: dict[str, Any], out: Any) -> None:
        """Of the tower: read."""
        assert self._asked is not None, "asked before"
        (grid, merge), self._asked = self._asked, None
        lengths = grid.prod(dim=1).tolist()
        padded = {layer: pad(out.hidden_states[1 + layer], lengths) for layer in self.probes.layers}
        _, mask = padded[self.probes.layers[0]]
        frame = None
        if self.probes.time is not None:
            times = [torch.arange(t, device=grid.device).repeat_interleave(h * w) for t, h, w in grid.tolist()]
            frame = nn.utils.rnn.pad_sequence(times, batch_first=True)
        # alone where there is no padding, so that fused kernels need no mask
        vectors = self.probes({layer: tokens for layer, (tokens, _) in padded.items()}, None if len(set(lengths)) == 1 else mask, frame)
        self.similarity = VisualProbes.similarity(vectors.detach()) if vectors.shape[1] > 1 else None
        # it goes with what is kept of the tower, as generate does not come back with grids
        setattr(out, _READ, vectors)
        if self._ids is not None and self._kinds:
            self._read.append(_Read(self._kinds.pop(0), vectors, (grid.prod(dim=1) // merge**2).tolist()))

    def _before_language(self, language: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of the language model: put probes where their words stand."""
        ids, read, embeds = self._ids, self._read, options.get("inputs_embeds")
        self._ids, self._read, self._kinds = None, [], []
        if ids is None or embeds is None:
            return args, options
        if not read:
            # the word itself may be said while answering; of a question it wants something to look at
            if ids.shape[1] > 1 and bool((ids == self.probe_token).any()):
                raise InputError(f"there are words {self.probe_token} for probes, and neither an image nor a video; give pixels, or leave the words out")
            return args, options
        order = _places(ids, self.probe_token, self.probes.num_probes, self._spans(ids, read))
        vectors = torch.cat([one.vectors for one in read])[order]
        projected = self.project(vectors.flatten(0, 1)).to(embeds.dtype)
        return args, options | {"inputs_embeds": embeds.masked_scatter((ids == self.probe_token)[..., None], projected)}

    def _spans(self, ids: Tensor, read: "list[_Read]") -> list[tuple[int, int]]:
        """Of each image and video, in turn, the places of its first and last word in all samples' words one after the other."""
        spans = []
        for one in read:
            sizes = one.sizes
            if one.kind == "video" and self._compressed is not None:
                sizes = [int(part.sum()) for part in self._compressed.split(sizes)]
            places = (ids.flatten() == self.tokens[one.kind]).nonzero().flatten().tolist()
            ends = list(accumulate(sizes))
            spans += [(places[end - size], places[end - 1]) for size, end in zip(sizes, ends, strict=True)]
        return spans

    def settings(self) -> dict[str, Any]:
        """How it was built, as values of JSON."""
        return {"probes": self.probes.settings(), "probe_token": self.probe_token}


def _places(ids: Tensor, token: int, count: int, rows: list[tuple[int, int]]) -> list[int]:
    """Which image or video each group of words in turn is for.

    Raises:
        ValueError: an image or video has more or less words than probes behind it, before the next or the end of its sample.
    """
    length, words = ids.shape[1], (ids.flatten() == token).nonzero().flatten().tolist()
    order = sorted(range(len(rows)), key=lambda row: rows[row])
    at = 0
    for turn, row in enumerate(order):
        last = rows[row][1]
        sample = last // length
        following = rows[order[turn + 1]][0] if turn + 1 < len(order) else ids.numel()
        end = min(following, (sample + 1) * length)
        own = [place for place in words if last < place < end]
        if len(own) != count:
            raise InputError(
                f"sample {sample} has {len(own)} words {token} for probes behind one of its images or videos, and {count} probes; put one word for each "
                "behind its visual tokens, see foveal.models.video_language.with_probe_words"
            )
        at += len(own)
    if at != len(words):
        known = {place for row in order for place in words if rows[row][1] < place}
        stray = next((place for place in words if place not in known), words[-1])
        raise InputError(f"sample {stray // length} has words {token} for probes that stand behind no image or video of its own; leave them out")
    return order


def attach_probes_(host: Any, probes: VisualProbes, probe_token: int) -> AttachedProbes:
    """Put probes into a VideoLLaMA 3, in place.

    The model is called as before; every image and video needs ``num_probes`` words ``probe_token`` behind its visual tokens. The probes' projector starts as a
    copy of that of visual tokens. Nothing of the host is changed or frozen.

    Args:
        host: ``VideoLlama3ForConditionalGeneration``, or one with peft's adapters.
        probes: read the tower's layers; :meth:`VisualProbes.start_from` starts them from its attentions.
        probe_token: the word that stands for a probe; a row of the embeddings that no other word has.

    Returns:
        What was put in, which stands in ``host`` as ``model.visual_probes``.

    Raises:
        ValueError: another host; probes are there; probes of another width or of other layers; a word that is not in the vocabulary or has another meaning.
    """
    model = _inner(host)
    if hasattr(model, NAME):
        raise InputError(f"this model has {NAME} already; load it anew to attach others")
    config, tower = model.config, model.vision_model
    if probes.dim != config.vision_config.hidden_size or max(probes.layers) >= config.vision_config.num_hidden_layers:
        raise InputError(
            f"expected probes of width {config.vision_config.hidden_size} for layers 0 to {config.vision_config.num_hidden_layers - 1}, "
            f"got width {probes.dim} and layers {list(probes.layers)}"
        )
    if probes.depth not in (None, config.vision_config.num_hidden_layers):
        raise InputError(f"probes were made for a tower of {probes.depth} layers (depth), and this one has {config.vision_config.num_hidden_layers}")
    known, table = {"image": config.image_token_id, "video": config.video_token_id}, model.get_input_embeddings()
    if probe_token in known.values() or not 0 <= probe_token < table.num_embeddings:
        raise InputError(
            f"probe_token must be a word of the {table.num_embeddings} that there are, and neither that of images nor of videos {tuple(known.values())}; "
            f"got {probe_token}"
        )
    like = next(model.projector.parameters())
    attached = AttachedProbes(probes.to(like.device, like.dtype), copy.deepcopy(model.projector).requires_grad_(True), probe_token, known)
    setattr(model, NAME, attached)
    # bound methods of a part of the model: copies and pickles of it bring their own
    model.register_forward_pre_hook(attached._begin, with_kwargs=True)
    tower.register_forward_pre_hook(attached._before_tower, with_kwargs=True)
    tower.register_forward_hook(attached._behind_tower, with_kwargs=True)
    model.language_model.register_forward_pre_hook(attached._before_language, with_kwargs=True)
    return attached


def attached_probes(host: Any) -> AttachedProbes:
    """What :func:`attach_probes_` put into a model.

    Raises:
        ValueError: nothing.
    """
    found = getattr(_inner(host), NAME, None)
    if found is None:
        raise InputError("this model has no probes; attach them first, with foveal.models.video_language.attach_probes_")
    return found


def with_probe_words(text: str, place: str, word: str, num_probes: int) -> str:
    """A prompt with ``num_probes`` words behind each place of an image or video, before the processor makes visual tokens of that place.

    Args:
        text: a prompt, as a chat template makes it.
        place: what stands for a video or image in it, as ``processor.video_token``.
        word: the word that stands for a probe, of the tokenizer's vocabulary.
        num_probes: P.

    Raises:
        ValueError: there is no such place.

    Example:
        >>> with_probe_words("<video>What?", "<video>", "<probe>", 2)
        '<video><probe><probe>What?'
    """
    if place not in text:
        raise InputError(f"expected {place!r} in the prompt, behind which probes belong; got {text[:80]!r}")
    return text.replace(place, place + word * num_probes)


def save_attached(host: Any, path: str | Path) -> list[str]:
    """Write probes, their projector and adapters, with a fingerprint of the host's weights, see :meth:`VideoLanguageModel.save_new`.

    Raises:
        ValueError: a weight of the host is trained, which would be lost; nothing is written.
    """
    return save_new(host, path, _is_host, attached_probes(host).settings())


def load_attached(host: Any, path: str | Path) -> None:
    """Read what :func:`save_attached` wrote, into a model with the same host and probes built alike.

    Raises:
        ValueError: no such file; another host; another build. The model is then as it was.
    """
    load_new(host, path, _is_host, attached_probes(host).settings())


def _is_host(name: str) -> bool:
    return f".{NAME}." not in f".{name}" and ".lora_" not in name


def _inner(host: Any) -> Any:
    """transformers' ``VideoLlama3Model``, out of what is around it."""
    base = host.get_base_model() if hasattr(host, "get_base_model") else host
    model = getattr(base, "model", base)
    if type(model).__name__ != "VideoLlama3Model":
        raise InputError(f"expected a VideoLlama3ForConditionalGeneration of transformers, got {type(host).__name__}; VideoLanguageModel takes other hosts")
    return model
