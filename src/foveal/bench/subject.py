"""What can be measured: an attention by its registered name, or a model by the name that timm knows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from ..analysis import cost
from ..attention import attention_class, list_attentions
from ..attention._grid import set_grid

__all__ = ["Subject", "subject"]


@dataclass(frozen=True)
class Subject:
    """A thing to be measured at several sizes; picklable, so that another process can measure its memory."""

    name: str
    unit: str
    """What a size counts: ``tokens``, or ``pixels`` of an image's side."""
    build: Callable[[int], nn.Module]
    """The module for a size, in float32 on the CPU, with weights that its seed decides."""
    shape: Callable[[int], tuple[int, ...]]
    """Shape of one sample of a size."""
    macs: Callable[[int], int]
    """Multiply-adds of one sample of a size."""

    def module(self, size: int, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.build(size)

    def sample(self, size: int, batch: int, seed: int = 0) -> Tensor:
        return torch.randn(batch, *self.shape(size), generator=torch.Generator().manual_seed(seed))


def subject(name: str, *, dim: int = 384, num_heads: int = 6, frames: int | None = None) -> Subject:
    """The attention or model of a name.

    Args:
        name: out of :func:`foveal.list_attentions`, or of ``timm.list_models()``; an attention comes first.
        dim: width of tokens, or channels of feature maps; models have their own.
        num_heads: heads of attentions on tokens.
        frames: of a clip, for networks on videos; what they are built for if None.

    Raises:
        ValueError: the name is unknown; timm, for a model, is not installed; frames for a network on images.
    """
    if name in list_attentions(form="tokens"):
        return Subject(name, "tokens", partial(_token_attention, name, dim, num_heads), partial(_tokens, dim), partial(_token_macs, name, dim, num_heads))
    if name in list_attentions(form="2d"):
        build, shape = partial(_attention_2d, name, dim), partial(_feature_map, dim)
        return Subject(name, "tokens", build, shape, partial(_counted, build, shape))
    try:
        timm = _timm()
    except ImportError as error:
        raise missing_extra("timm", "timm", f"a model by name ({name}); an attention would be one of {', '.join(list_attentions())}") from error
    if not timm.is_model(name):
        raise unknown("attention or timm model", name, [*list_attentions(), *timm.list_models()])
    built_for = _frames_of(name)
    if frames is not None and built_for is None:
        raise InputError(f"frames are of networks for videos, and {name} is for images; leave frames out")
    build, shape = partial(_model, name), partial(_image, name, built_for if frames is None else frames)
    return Subject(name, "pixels", build, shape, partial(_counted, build, shape))


def _timm() -> Any:
    """timm with our networks in its registry."""
    import timm

    from .. import timm as _ours  # noqa: F401

    return timm


def _side(tokens: int) -> int:
    side = round(tokens**0.5)
    if side * side != tokens:
        raise InputError(f"attentions on a grid are measured on squares: expected a square number of tokens, got {tokens}; try {side * side}")
    return side


def _token_attention(name: str, dim: int, num_heads: int, tokens: int) -> nn.Module:
    config = attention_class(name).Config()
    told = set_grid(config, 0, None)
    if told is not config:
        _side(tokens)
    module: nn.Module = told.build(dim, num_heads)
    return module


def _tokens(dim: int, tokens: int) -> tuple[int, ...]:
    return tokens, dim


def _token_macs(name: str, dim: int, num_heads: int, tokens: int) -> int:
    with torch.device("meta"):
        module: Any = _token_attention(name, dim, num_heads, tokens)
    return int(module.macs(tokens))


def _attention_2d(name: str, channels: int, tokens: int) -> nn.Module:
    _side(tokens)
    module: nn.Module = attention_class(name)(channels)
    # a gate that starts at zero multiplies, and hides, what is to be measured and checked
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() == 1:
                parameter.fill_(1.0)
    return module


def _feature_map(channels: int, tokens: int) -> tuple[int, ...]:
    return channels, _side(tokens), _side(tokens)


def _model(name: str, side: int) -> nn.Module:
    timm = _timm()
    config = timm.get_pretrained_cfg(name)
    # a model that says it is built for one size of image takes that size
    fixed = config is not None and config.fixed_input_size
    model: nn.Module = timm.create_model(name, **({"img_size": side} if fixed else {}))
    return model


def _image(name: str, frames: int | None, side: int) -> tuple[int, ...]:
    config = _timm().get_pretrained_cfg(name)
    channels = 3 if config is None else config.input_size[0]
    return (channels, side, side) if frames is None else (channels, frames, side, side)


@cache
def _frames_of(name: str) -> int | None:
    """Frames that a network on videos is built for; None of one on images, as all of timm's own are."""
    timm = _timm()
    if not timm.model_entrypoint(name).__module__.startswith("foveal."):
        return None
    frames = getattr(timm.create_model(name), "num_frames", None)
    return frames if isinstance(frames, int) else None


def _counted(build: Callable[[int], nn.Module], shape: Callable[[int], tuple[int, ...]], size: int) -> int:
    return cost(build(size), shape(size)).macs
