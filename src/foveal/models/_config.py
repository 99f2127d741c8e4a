"""What a recipe says of its model: settings that build it, and what a comparison may put in the place of its attention."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from .._old_members import accept_old_members
from .._ranges import Range, check_ranges
from .._registry import Registry

__all__ = ["MODELS", "NAMED_OPTIONS", "Arm", "ModelConfig", "register_model"]


_OLD = {"miniature": "smoke_model"}


class ModelConfig(ABC):
    """Settings of a network, a frozen dataclass. Which attention it has is a setting among them."""

    targets: ClassVar[str]
    """What it is made to predict. Data, model and task of a recipe must agree on it."""
    about: ClassVar[str]
    """What kind of network it is, in words that end a sentence, such as "a small vision transformer"."""
    trained_as: ClassVar[str] = ""
    """What tasks with the same targets tell networks apart by, such as ``a denoiser``; the targets say all if empty."""
    baseline: ClassVar[str]
    """The arm that comparisons hold the others against."""
    default_arms: ClassVar[tuple[str, ...]]
    brings_weights: ClassVar[bool] = False
    """Whether it begins with weights of its own, so that arms have none to share but those."""
    rivals: ClassVar[dict[str, str]] = {}
    """Arms with more parameters than the baseline, and the arm that has as many."""

    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("num_heads", "patch_size", "width", "depth", "stride", "embed_dim", "num_frames"), Range(at_least=1)),
        **dict.fromkeys(("drop_path", "dropout"), Range(at_least=0, below=1)),
    }
    """What its numbers may be, by field; subclasses add theirs. All others must be finite."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_old_members(cls, _OLD)

    def __post_init__(self) -> None:
        """Refuse settings that make no network."""
        check_ranges(self)

    @abstractmethod
    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> nn.Module:
        """The network, with random weights drawn from torch's random numbers.

        Raises:
            ValueError: settings that make no network for such images.
        """

    @abstractmethod
    def arms(self) -> dict[str, "Arm"]:
        """Everything that can be compared in this network, by name: what differs from this very model is its attention alone."""

    def new_parameters(self, model: nn.Module) -> frozenset[str]:
        """Names of the parameters of :meth:`build`'s model that nothing pretrained stands behind, in a model that is pretrained; none in others."""
        return frozenset()

    def begin_(self, model: nn.Module, split: Any, seed: int) -> list[str]:
        """What is done to the model with training samples, once and before the first step; notes of it for the reader. Nothing in most."""
        return []

    def keep(self, folder: Path) -> None:  # noqa: B027  # most have nothing to write
        """Write into a folder of the run whatever :meth:`rebuild` needs and this configuration does not say. Nothing in most."""

    def rebuild(self, folder: Path | None, *, img_size: int, in_chans: int, num_classes: int) -> nn.Module:
        """What :meth:`build` gives, for weights that do not matter or are filled in: nothing pretrained is read.

        Args:
            folder: of :meth:`keep`; where the network comes from is asked if None.
            img_size: as in :meth:`build`, and so are the others.
            in_chans: channels of images.
            num_classes: outputs.
        """
        return self.build(img_size=img_size, in_chans=in_chans, num_classes=num_classes)

    def blank(self) -> "ModelConfig":
        """The same network without a file that it begins with, for weights that are filled in: a run need not keep what it began with."""
        fields: Any = self
        return replace(fields, start=None) if getattr(self, "start", None) is not None else self

    def smoke_model(self) -> "ModelConfig":
        """A small network of the same kind without pretrained weights, with which a training is tried out in seconds; itself if it is small."""
        return self

    def plain(self) -> "ModelConfig":
        """The network of the baseline, which lends its initial weights to every arm that has the same."""
        return self.arms()[self.baseline].model


accept_old_members(ModelConfig, _OLD)

MODELS: Registry[type[ModelConfig]] = Registry("kind of model")
register_model = MODELS.register
"""Decorates a :class:`ModelConfig` class, so that recipes with it go to JSON and back."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    about: str
    model: Any


NAMED_OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "softmax-centered": ("softmax", "softmax less λ times the mean of the values: the control that what subtracts must beat", {"center": True}),
    "denoising-shared": ("denoising", "denoising whose two branches read the same values", {"shared_values": True}),
}
"""Arms of networks of tokens that are an attention with options: its name, what it is, and these."""
