"""A language model that is shown videos: visual tokens of a frozen tower, and probes that read its layers, in the places of words.

Papers     VisCoP (arXiv 2510.13808), DnA (arXiv 2606.27372)
Official   rjccv/DnA ``viscop/``: VideoLLaMA 3 with probes
Differs    Words and vectors are counted sample by sample, and another count is an error; the authors' code leaves words that do not match as they are.
           Any number of samples a batch, where the authors' generation takes one. Probes are trained, which the authors' optimizer has no group for.

Shapes     B videos, T frames, M patches of a frame, P probes, L words, D width of the language model
"""

import copy
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from ..._errors import InputError, unknown
from ...attention._linear import check_dtype
from ..probes import VisualProbes
from .new_parts import load_new, save_new
from .placeholders import put_in
from .towers import Seen, read_tower

__all__ = ["VideoLanguageModel", "VisualTokens"]

VisualTokens = Literal["patches", "pooled", "cls", "none"]
"""What of the tower's last layer the language model is given besides probes: all patches, their mean a frame, a frame's class token, or nothing."""


class VideoLanguageModel(nn.Module):
    """A tower, a language model, and what is between them. The tower is frozen and stays in evaluation mode; the language model is left as it is given.

    Args:
        tower: a vision transformer of timm or transformers, without a head, see :func:`~foveal.models.video_language.read_tower`.
        language: a causal language model of transformers, or one with peft's adapters.
        vision_dim: width of the tower's tokens.
        probes: read the tower's layers; None for a model without.
        tokens: see :data:`VisualTokens`.
        video_token: the word that stands for a visual token; None without any.
        probe_token: the word that stands for a probe; None without any.

    Raises:
        ValueError: neither tokens nor probes; a word for what is not there, or none for what is; words that are the same, or not in the vocabulary; probes of
            another width; unknown ``tokens``.
    """

    def __init__(
        self,
        tower: nn.Module,
        language: nn.Module,
        vision_dim: int,
        *,
        probes: VisualProbes | None = None,
        tokens: VisualTokens = "patches",
        video_token: int | None = None,
        probe_token: int | None = None,
    ) -> None:
        super().__init__()
        if tokens not in get_args(VisualTokens):
            raise unknown("kind of visual tokens", tokens, get_args(VisualTokens))
        if tokens == "none" and probes is None:
            raise InputError('a video language model needs something of the video: give probes, or tokens="patches", "pooled" or "cls"')
        table: Any = language.get_input_embeddings()  # type: ignore[operator]
        _check_word("video_token", video_token, "visual tokens", tokens != "none", table.num_embeddings)
        _check_word("probe_token", probe_token, "probes", probes is not None, table.num_embeddings)
        if video_token == probe_token:
            raise InputError(f"video_token and probe_token must be two words, got {video_token} for both")
        if probes is not None and probes.dim != vision_dim:
            raise InputError(f"probes read tokens of width {probes.dim}, and the tower's have {vision_dim}")
        self.tower, self.language, self.probes = tower.requires_grad_(False).eval(), language, probes
        self.tokens: VisualTokens = tokens
        self.video_token, self.probe_token = video_token, probe_token
        like: Tensor = table.weight
        factory: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        width = table.embedding_dim
        projector = nn.Sequential(nn.Linear(vision_dim, width, **factory), nn.GELU(), nn.Linear(width, width, **factory))
        self.project_probes = None if probes is None else copy.deepcopy(projector)
        self.project = None if tokens == "none" else projector

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation of all but the tower, which is frozen."""
        super().train(mode)
        self.tower.eval()
        return self

    def forward(
        self,
        input_ids: Tensor,
        videos: Tensor | Seen,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> Any:
        """What the language model answers, with ``loss`` where labels are given.

        Args:
            input_ids: words, ``(B, L)``, with as many ``video_token`` and ``probe_token`` in each sample as it has visual tokens and probes.
            videos: ``(B, T, 3, H, W)``, as the tower wants its images; or what :func:`~foveal.models.video_language.read_tower` once made of these B·T
                images, so that the tower, which is frozen, need not run again.
            attention_mask: ``(B, L)``, 1 where a word is; padding may stand on either side.
            labels: ``(B, L)``, the words to predict, −100 for all that is no answer.
            frames: bool ``(B, T)``, True where a frame is, at least one a video; all if None.

        Raises:
            ValueError: other numbers of words than of vectors in a sample; a video without frames; labels on words that stand for vectors; other shapes.
        """
        if labels is not None and bool((self._is_placeholder(input_ids) & (labels != -100)).any()):
            raise InputError("labels ask for words that stand for visual tokens or probes; give −100 there, and everywhere but in answers")
        embeds, mask = self.embed(input_ids, videos, attention_mask, frames)
        # counted from the first word, so that padding on the left changes nothing
        positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        return self.language(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, labels=labels)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, videos: Tensor | Seen, attention_mask: Tensor | None = None, frames: Tensor | None = None, **options: Any) -> Tensor:
        """New words alone, ``(B, new)``, by the language model's own ``generate`` with its cache.

        Args:
            input_ids: see :meth:`forward`; padded on the left.
            videos: and so on.
            attention_mask: and so on.
            frames: and so on.
            options: of transformers' ``generate``, as ``max_new_tokens``.

        Raises:
            ValueError: as in :meth:`forward`; padding on the right, behind which nothing can be said.
        """
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise InputError("a sample is padded on the right, and what is said begins behind the last word; pad on the left")
        embeds, mask = self.embed(input_ids, videos, attention_mask, frames)
        return self.language.generate(inputs_embeds=embeds, attention_mask=mask, **options)  # type: ignore[operator]

    def embed(self, input_ids: Tensor, videos: Tensor | Seen, attention_mask: Tensor | None = None, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the language model reads, ``(B, L, D)``, and its mask; arguments as in :meth:`forward`."""
        frames = self._checked(input_ids, videos, attention_mask, frames)
        seen = videos if isinstance(videos, Seen) else self._see(videos)
        embeds = self.language.get_input_embeddings()(input_ids)  # type: ignore[operator]
        if self.project is not None and self.video_token is not None:
            given = _by_video(self._given(seen), frames)
            present = frames.repeat_interleave(given.shape[1] // frames.shape[1], dim=1)
            embeds = put_in(embeds, input_ids, self.video_token, self._through(self.project, given), present, "visual tokens")
        if self.project_probes is not None and self.probe_token is not None:
            read = self.read_probes(seen, frames)
            embeds = put_in(embeds, input_ids, self.probe_token, self._through(self.project_probes, read), None, "probes")
        return embeds, torch.ones_like(input_ids) if attention_mask is None else attention_mask

    def read_probes(self, seen: Seen, frames: Tensor) -> Tensor:
        """The probes of each video, ``(B, P, C)``, before they are projected; for :meth:`VisualProbes.similarity`.

        Args:
            seen: what :func:`~foveal.models.video_language.read_tower` made of the frames of all videos.
            frames: bool ``(B, T)``, which of them there are.
        """
        return self._probes()(*self._probed(seen, frames))

    def probe_maps(self, seen: Seen, frames: Tensor) -> dict[int, dict[str, Tensor]]:
        """Where each probe looks, by layer: :meth:`VisualProbes.attention_map`, ``(B, H, P, T·N)`` each; arguments as in :meth:`read_probes`."""
        return self._probes().attention_map(*self._probed(seen, frames))

    @torch.no_grad()
    def calibrate_(self, videos: Tensor) -> float:
        """Scale the projectors' last layers so that vectors are as long as words, on the mean; returns that length.

        Some language models scale inside of their embedding (Gemma 3: by the root of its width), and would begin with vectors that are lost among words.

        Args:
            videos: some, ``(B, T, 3, H, W)``, all of whose frames are there.
        """
        frames = torch.ones(videos.shape[:2], dtype=torch.bool, device=videos.device)
        table: Any = self.language.get_input_embeddings()  # type: ignore[operator]
        words = table(torch.arange(min(table.num_embeddings, 4096), device=table.weight.device))
        wanted = float(words.float().norm(dim=-1).mean())
        seen = self._see(videos)
        if self.project is not None:
            _scale_to(self.project, self._through(self.project, self._given(seen)), wanted)
        if self.project_probes is not None:
            _scale_to(self.project_probes, self._through(self.project_probes, self.read_probes(seen, frames)), wanted)
        return wanted

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by what they are, for rates of their own: ``language``, ``projectors``, ``probe_modules``, ``probes``. Each in exactly one."""
        found: dict[str, list[nn.Parameter]] = {"language": [], "projectors": [], "probe_modules": [], "probes": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                inner = name.startswith(("probes.attentions.", "probes.norms."))
                found["probe_modules" if inner else "projectors" if name.startswith("project") else name.partition(".")[0]].append(parameter)
        return found

    def settings(self) -> dict[str, Any]:
        """How it was built, as values of JSON; of the hosts nothing but their weights' fingerprint is kept, by :meth:`save_new`."""
        own = {"tokens": self.tokens, "video_token": self.video_token, "probe_token": self.probe_token}
        return own | {"probes": None if self.probes is None else self.probes.settings()}

    def save_new(self, path: str | Path) -> list[str]:
        """Write what is no host's into one ``.safetensors``: probes, projectors and adapters, with the settings and a fingerprint of the hosts' weights.

        Returns:
            The names that were written.

        Raises:
            ValueError: a weight of a host is trained, which would be lost. Nothing is written.
        """
        return save_new(self, path, _is_host, self.settings())

    def load_new(self, path: str | Path) -> None:
        """Read what :meth:`save_new` wrote, into a model that was built alike around the same hosts.

        Raises:
            ValueError: no such file; other hosts; another build. The model is then as it was.
        """
        load_new(self, path, _is_host, self.settings())

    def _given(self, seen: Seen) -> Tensor:
        """Visual tokens of each image, ``(B·T, M, C)``."""
        if self.tokens != "cls":
            return seen.patches if self.tokens == "patches" else seen.patches.mean(1, keepdim=True)
        if seen.prefix is None or not seen.prefix.shape[1]:
            raise InputError('tokens="cls" needs a class token, and nothing stands in front of the patches of this tower; use "pooled"')
        return seen.prefix[:, :1]

    def _probes(self) -> VisualProbes:
        if self.probes is None:
            raise InputError("this model has no probes; make it with probes=")
        return self.probes

    def _probed(self, seen: Seen, frames: Tensor) -> tuple[dict[int, Tensor], Tensor, Tensor | None]:
        """What probes are called with."""
        probes, count = self._probes(), seen.layers[0].shape[1]
        times = None if probes.time is None else torch.arange(frames.shape[1], device=frames.device).repeat_interleave(count)
        if len(seen.layers) != (probes.depth or len(seen.layers)):
            raise InputError(f"the tower has {len(seen.layers)} layers, and its probes were made for {probes.depth}")
        hidden = {index: _by_video(layer, frames) for index, layer in enumerate(seen.layers) if index in probes.layers}
        return hidden, frames.repeat_interleave(count, dim=1), times

    def _see(self, videos: Tensor) -> Seen:
        like = next(self.tower.parameters())
        check_dtype("videos", videos, like)
        with torch.no_grad():
            return read_tower(self.tower, videos.flatten(0, 1))

    def _through(self, projector: Any, vectors: Tensor) -> Tensor:
        check_dtype("what is projected", vectors, projector[0].weight)
        return projector(vectors)

    def _is_placeholder(self, input_ids: Tensor) -> Tensor:
        words = [word for word in (self.video_token, self.probe_token) if word is not None]
        return torch.isin(input_ids, torch.tensor(words, device=input_ids.device))

    def _checked(self, input_ids: Tensor, videos: Tensor | Seen, attention_mask: Tensor | None, frames: Tensor | None) -> Tensor:
        batch = len(input_ids)
        if isinstance(videos, Seen):
            check_dtype("what the tower saw", videos.patches, next(self.tower.parameters()))
            if not len(videos.patches) or len(videos.patches) % batch:
                raise InputError(
                    f"expected what a tower saw of as many images for each of {batch} samples, at least one, got "
                    f"{len(videos.patches)} images; leave videos without frames out"
                )
            shape, device = (batch, len(videos.patches) // batch), videos.patches.device
        elif videos.ndim != 5 or not videos.is_floating_point() or len(videos) != batch:
            raise InputError(f"expected videos (B, T, 3, H, W) with B={batch} in floating point, got {tuple(videos.shape)} of {videos.dtype}")
        else:
            shape, device = (batch, videos.shape[1]), videos.device
        if not shape[1]:
            raise InputError(f"expected videos of at least one frame, got {shape[1]} frames")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise InputError(f"expected attention_mask (B, L) = {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}")
        if frames is None:
            return torch.ones(shape, dtype=torch.bool, device=device)
        if frames.dtype != torch.bool or tuple(frames.shape) != shape:
            raise InputError(f"expected frames as bool (B, T) = {shape}, got {frames.dtype} of {tuple(frames.shape)}")
        if empty := [index for index, some in enumerate(frames.any(1).tolist()) if not some]:
            raise InputError(f"video {empty[0]} has no frames; leave it out")
        return frames


def _is_host(name: str) -> bool:
    return name.startswith(("tower.", "language.")) and ".lora_" not in name


def _check_word(name: str, word: int | None, what: str, there: bool, vocabulary: int) -> None:
    if there and word is None:
        raise InputError(f"{name} is the word that stands for {what}; give its id")
    if not there and word is not None:
        raise InputError(f"{name}={word} stands for {what}, and this model has none; leave it out")
    if word is not None and not 0 <= word < vocabulary:
        raise InputError(f"{name}={word} is not in the vocabulary of {vocabulary} words; resize the embeddings first (resize_token_embeddings)")


def _by_video(tokens: Tensor, frames: Tensor) -> Tensor:
    """``(B·T, N, C) -> (B, T·N, C)``."""
    return tokens.unflatten(0, tuple(frames.shape)).flatten(1, 2)


def _scale_to(projector: Any, vectors: Tensor, wanted: float) -> None:
    factor = wanted / float(vectors.float().norm(dim=-1).mean())
    for parameter in projector[-1].parameters():
        parameter.mul_(factor)
