"""What attentions are given at their places: one run of the model, on inputs that its signature and its configuration ask for, or that the user gives."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._capture import evaluating
from ._videos import packed_inputs

__all__ = ["Given", "given_at_place"]


@dataclass(frozen=True)
class Given:
    """One call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Enough(Exception):
    """Every module was called: the rest of the run is not needed."""


def given_at_place(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any = None) -> tuple[dict[str, Given], str]:
    """What each module is given in its first call, by name, and why the last run broke off; modules that no run reached are absent.

    A run that breaks off is no error: what was called before was called at its place.

    Args:
        model: with the modules.
        modules: by name.
        inputs: a batch, positional or by name; made up if None.
    """
    found: dict[str, Given] = {}
    before: dict[str, Given] = {}
    inside: list[str] = []
    broke = ""
    if any(value.is_meta for value in model.parameters()):
        return found, "its weights are on the meta device"

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.setdefault(name, Given(args, kwargs))
            inside.append(name)
            if len(found) == len(modules):
                raise _Enough

        return note

    def leaving(module: nn.Module, args: Any, made: Any) -> None:
        inside.pop()

    handles = [module.register_forward_pre_hook(noting(name), with_kwargs=True) for name, module in modules.items()]
    handles += [module.register_forward_hook(leaving) for module in modules.values()]
    devices = sorted({value.device.index or 0 for value in model.parameters() if value.device.type == "cuda"})
    try:
        with evaluating([model]), torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            for args, kwargs in _inputs(model) if inputs is None else [_as_call(inputs)]:
                try:
                    model(*args, **kwargs)
                except _Enough:
                    break
                except Exception as error:  # whatever a model of others raises; it is told with what was not reached
                    broke = f"the model raised {type(error).__name__}: {' '.join(str(error).split())[:120]}"
                    if not inside:
                        continue
                    # an attention itself could not do with it, as one whose table is of another size of images: other inputs may fit
                    before = before or dict(found)
                    found.clear()
                    inside.clear()
                    continue
                if found:
                    break
    finally:
        for handle in handles:
            handle.remove()
    return found or before, broke


def _as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _inputs(model: nn.Module) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    like = next((value for value in model.parameters() if value.is_floating_point()), torch.empty(0))
    parameters = list(inspect.signature(model.forward).parameters.values())
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    yield from packed_inputs(model, names, like)
    named = {"pixel_values", "pixel_values_videos", "input_ids", "decoder_input_ids", "bbox"} & set(names)
    for size in _sizes(model):
        if not named:
            yield (torch.randn(2, _channels(model), *size, device=like.device, dtype=like.dtype),), {}
            continue
        kwargs: dict[str, Any] = {}
        for name in named:
            if name == "bbox":
                kwargs[name] = torch.zeros(2, 8, 4, dtype=torch.long, device=like.device)
            elif name.startswith("pixel_values"):
                frames = next((getattr(one, "num_frames", None) for one in _configs(model) if getattr(one, "num_frames", None)), None)
                shape = (2, frames, _channels(model), *size) if frames and name in ("pixel_values", "pixel_values_videos") else (2, _channels(model), *size)
                kwargs[name] = torch.randn(shape, device=like.device, dtype=like.dtype)
            else:
                kwargs[name] = torch.ones(2, 8, dtype=torch.long, device=like.device)
        yield (), kwargs
        if "pixel_values" in kwargs and kwargs["pixel_values"].ndim == 5:
            yield (), kwargs | {"pixel_values": kwargs["pixel_values"][:, 0]}
            yield (), kwargs | {"pixel_values": kwargs["pixel_values"].flatten(0, 1)}


def _configs(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and not isinstance(config, nn.Module):
            yield config
            yield from (part for name in ("vision_config", "backbone_config") if (part := getattr(config, name, None)) is not None)
            return


def _channels(model: nn.Module) -> int:
    found = next((value for one in _configs(model) if isinstance(value := getattr(one, "num_channels", None), int)), None)
    first = next((module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))), None)
    return found or (first.in_channels if first is not None else 3)


def _sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Sides of images: what the model says, and then what many take."""
    said: list[Any] = [getattr(one, "image_size", None) for one in _configs(model)]
    embeds = [module for name, module in model.named_modules() if name.rpartition(".")[2] in ("patch_embed", "patch_embeddings", "embeddings")]
    said += [getattr(module, name, None) for module in [model, *embeds] for name in ("img_size", "image_size", "input_size")]
    tried: set[tuple[int, int]] = set()
    for value in [*said, 64, 224, 32, 96, 256]:
        if isinstance(value, (tuple, list)) and len(value) == 3:
            value = value[1:]
        size = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) and len(value) == 2 else None
        if size is not None and size not in tried and all(isinstance(side, int) and 0 < side <= 1024 for side in size):
            tried.add(size)
            yield size
