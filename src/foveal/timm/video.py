"""A TimeSformer as the model of a recipe, with any attention in space and in time, begun from images or from other videos."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from .._errors import InputError
from .._ranges import Range
from .._weights import fill, read_saved
from ..attention import FAMILIES, attention_class, list_attentions
from ..models import Arm, ModelConfig, TimeSformer, register_model
from ..models._config import NAMED_OPTIONS
from ..models.timesformer import AttentionType
from .timesformer import checkpoint_filter_fn

__all__ = ["VideoTransformer"]

_SMOKE = 24
"""Width of what smoke runs train; that of ``test_fov_timesformer``."""


@register_model
@dataclass(frozen=True, kw_only=True)
class VideoTransformer(ModelConfig):
    """TimeSformer. As it stands it is ``fov_timesformer_base_patch16_224``; with ``attention="denoising"`` ``fov_dna_timesformer_base_patch16_224``."""

    targets: ClassVar[str] = "actions"
    about: ClassVar[str] = "a vision transformer on video"
    baseline: ClassVar[str] = "softmax"
    default_arms: ClassVar[tuple[str, ...]] = ("softmax", "softmax-wide", "denoising", "denoising-space", "denoising-time")
    rivals: ClassVar[dict[str, str]] = {"denoising": "softmax-wide"}

    ranges: ClassVar[Mapping[str, Range]] = {"time_std": Range(at_least=0)}

    attention: str = "softmax"
    """Over the patches of a frame, out of ``foveal list``, on tokens."""
    options: dict[str, Any] | None = None
    """Its options, as in its ``Config``."""
    time_attention: str | None = None
    """Over the frames of a patch; that of space, with its options, if None."""
    time_options: dict[str, Any] | None = None
    """Options of the attention over time, as in its Config."""
    attention_type: AttentionType = "divided_space_time"
    """How space and time meet: in turns, together, or not at all."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    embed_dim: int = 768
    """Width of the tokens."""
    depth: int = 12
    """Blocks."""
    num_heads: int = 12
    """Heads of the attention."""
    drop_path: float = 0.0
    """Stochastic depth, which grows from 0 to this."""
    num_frames: int | None = None
    """Frames of a clip; the data's if None."""
    time_std: float = 0.0
    """Standard deviation of the positions in time at the start. The published 0 is for networks that begin as an image model's. One that begins with random
    weights cannot tell before from after until these positions have grown, and stays there for long."""
    start: Path | None = None
    """Weights to begin with, ``model.safetensors`` of a run on images or on videos, or a file of ``torch.save``, in timm's or in the DnA authors' names. An
    image model is inflated, with space as it is there, and time as a copy that is not yet listened to. The classifier always begins anew."""

    def build(self, *, img_size: int, in_chans: int, num_classes: int, num_frames: int | None = None) -> TimeSformer:
        """The network.

        Args:
            img_size: side of the frames.
            in_chans: their channels.
            num_classes: of the classifier.
            num_frames: of the data's clips.

        Raises:
            ValueError: frames that patches do not tile; another number of frames than the data's; settings that make no network; weights to start from that are
                not there or are another network's.
        """
        if self.num_frames is not None and num_frames not in (None, self.num_frames):
            raise InputError(
                f"the model is for {self.num_frames} frames, the data have clips of {num_frames}; make them equal, or leave the model's num_frames out"
            )
        if self.patch_size < 1 or img_size % self.patch_size:
            raise InputError(f"patches of {self.patch_size} do not tile frames of side {img_size}; give another patch_size or img_size")
        if min(self.embed_dim, self.depth, self.num_heads) < 1 or self.time_std < 0:
            raise InputError(f"expected embed_dim, depth and num_heads of at least 1, and time_std of at least 0, got {self}")
        net = TimeSformer(
            attention=self.attention,
            options=self.options,
            time_attention=self.time_attention,
            time_options=self.time_options,
            attention_type=self.attention_type,
            num_frames=self.num_frames or num_frames or 8,
            img_size=img_size,
            patch_size=self.patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
            drop_path_rate=self.drop_path,
        )
        if self.time_std and net.time_embed is not None:
            nn.init.normal_(net.time_embed, std=self.time_std)
        if self.start is not None:
            _load(net, Path(self.start))
        return net

    def smoke_model(self) -> "VideoTransformer":
        return replace(self, embed_dim=_SMOKE, depth=3, num_heads=2, patch_size=min(self.patch_size, 16), num_frames=None, start=None)

    def arms(self) -> dict[str, Arm]:
        """Every attention on tokens in both places, and in one beside softmax in the other; softmax with more heads; and no attention over time."""
        found = {}
        for name in list_attentions(form="tokens"):
            about = FAMILIES[attention_class(name).family]
            if name == self.baseline:
                found[name] = self._arm(name, f"{about}, in space and in time", name)
                continue
            if name != "halo":
                # windows are of a grid, which the frames of a patch are not
                found[name] = self._arm(name, f"{about}, in space and in time", name)
                found[f"{name}-time"] = self._arm(f"{name}-time", f"{about}, in time; softmax in space", self.baseline, time=name)
            found[f"{name}-space"] = self._arm(f"{name}-space", f"{about}, in space; softmax in time", name, time=self.baseline)
        for name, (attention, about, options) in NAMED_OPTIONS.items():
            found[name] = Arm(name, f"{about}, in space and in time", replace(self._plain(), attention=attention, options=options))
        width, twice = self.embed_dim // self.num_heads, replace(self._plain(), num_heads=2 * self.num_heads)
        if width % 4 == 0:
            about = "softmax with twice the heads, of three quarters of the width, in space and in time: as many weights as denoising, and as many maps"
            found["softmax-many"] = Arm("softmax-many", about, replace(twice, options={"attn_head_dim": width * 3 // 4}))
        about = "softmax with twice the heads in space and in time: denoising without its ties, and a third more weights"
        found["softmax-2H"] = Arm("softmax-2H", about, replace(twice, options={"attn_head_dim": width}))
        if self.num_heads % 2 == 0:
            wide = replace(self._plain(), num_heads=self.num_heads * 3 // 2, options={"attn_head_dim": width})
            found["softmax-wide"] = Arm("softmax-wide", "softmax with 1.5 × the heads in space and in time: as many weights as denoising", wide)
        lone = replace(self._plain(), attention_type="space_only")
        found["space-only"] = Arm("space-only", "softmax in space, and frames that do not meet before they are averaged", lone)
        return found

    def _plain(self) -> "VideoTransformer":
        return replace(self, attention=self.baseline, options=None, time_attention=None, time_options=None, attention_type="divided_space_time")

    def _arm(self, name: str, about: str, space: str, time: str | None = None) -> Arm:
        return Arm(name, about, replace(self._plain(), attention=space, time_attention=time))


def _load(net: TimeSformer, path: Path) -> None:
    """Everything but the classifier, which keeps its own."""
    own, saved = net.state_dict(), read_saved(path)
    if not isinstance(saved, dict):
        raise InputError(f"{path} holds a {type(saved).__name__}, expected a state dict")
    weights = checkpoint_filter_fn(saved, net)
    head = {key: value for key, value in own.items() if key.startswith("head.")}
    weights = {key: value for key, value in weights.items() if not key.startswith("head.")} | head
    if net.time_embed is not None and "time_embed" in weights and weights["time_embed"].shape[1:2] != net.time_embed.shape[1:2]:
        weights["time_embed"] = F.interpolate(weights["time_embed"].mT, size=net.time_embed.shape[1], mode="linear").mT
    fill(net, weights, path, "attentions and sizes must be those it was trained with")
