"""What attentions are given at their places: one run of the model, on inputs that its signature and its configuration ask for, or that the user gives."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .._capture import evaluating
from ._forms import MOST_FORMS, form_of
from ._videos import packed_inputs

__all__ = ["Given", "Probe", "aside", "given_at_place", "in_several_places"]


@dataclass(frozen=True)
class Given:
    """One call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Probe:
    """What was seen in the runs of a model."""

    calls: dict[str, list[Given]] = field(default_factory=dict)
    """Of each module that was reached one call of every form, by name."""
    times: dict[str, int] = field(default_factory=dict)
    """How often each was called in that run."""
    cut: set[str] = field(default_factory=set)
    """Those that were seen in runs that broke off alone: the rest of their calls was not seen."""
    broke: str = ""
    """Why the first run broke off; empty where one came to its end."""
    inside: bool = False
    """Whether it broke off inside one of the modules."""

    def given(self, name: str, shared: bool) -> list[Given] | str:
        """One call of every form, or why what was seen of a module does not say how it is called.

        Args:
            name: of the module.
            shared: whether it stands in several places.
        """
        calls = self.calls.get(name, [])
        if not calls:
            return f"no run reached it{f' ({self.broke})' if self.broke else ''}: give a batch with convert_(…, inputs=…)"
        if len(calls) > MOST_FORMS:
            return f"it is called in more than {MOST_FORMS} forms in one run, and each would have to be proven"
        if name in self.cut and (self.times[name] > 1 or shared):
            return (
                f"it is called several times in a run, and the run broke off before all of its calls were seen ({self.broke}): give a batch with "
                "convert_(…, inputs=…)"
            )
        return calls


def given_at_place(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any = None) -> Probe:
    """What each module is given; modules that no run reached are absent.

    A run that breaks off is no error: what was called before was called at its place. Only what is called again and again may have been called otherwise in
    the rest of it; so each run goes on to the end of the model, and not to the last module that was not yet seen. Where a run breaks off inside one of the
    modules, inputs were of a size that is not the model's own, and others are tried first.

    Args:
        model: with the modules.
        modules: by name.
        inputs: a batch, positional or by name; made up if None.
    """
    if any(value.is_meta for value in model.parameters()):
        return Probe(broke="its weights are on the meta device")
    now, best, first = Probe(), Probe(), ""
    forms: dict[str, set[str]] = {}
    depth: list[str] = []

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            depth.append(name)
            now.times[name] = now.times.get(name, 0) + 1
            known, form = forms.setdefault(name, set()), form_of(args, kwargs)
            if form not in known and len(known) <= MOST_FORMS:
                known.add(form)
                now.calls.setdefault(name, []).append(Given(args, kwargs))

        return note

    def leaving(module: nn.Module, args: Any, made: Any) -> None:
        depth.pop()

    handles = [module.register_forward_pre_hook(noting(name), with_kwargs=True) for name, module in modules.items()]
    handles += [module.register_forward_hook(leaving) for module in modules.values()]
    devices = sorted({value.device.index or 0 for value in model.parameters() if value.device.type == "cuda"})
    try:
        with evaluating([model]), torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            for args, kwargs in _inputs(model) if inputs is None else [_as_call(inputs)]:
                now = Probe()
                forms.clear()
                depth.clear()
                try:
                    model(*args, **kwargs)
                except Exception as error:  # whatever a model of others raises; it is told with what was not reached
                    now.broke, now.inside, now.cut = (
                        f"the model raised {type(error).__name__}: {' '.join(str(error).split())[:120]}",
                        bool(depth),
                        set(now.calls),
                    )
                    first = first or now.broke
                    best = max(best, now, key=_reached)
                    if not depth and len(now.calls) == len(modules) and max(now.times.values()) == 1:
                        # all of them, and none of them twice: nothing is missing
                        break
                    continue
                if now.calls:
                    # this run came to its end, so that there were no further calls; what an earlier one reached stands
                    earlier = {name: calls for name, calls in best.calls.items() if name not in now.calls}
                    return Probe(earlier | now.calls, best.times | now.times, set(earlier), first if earlier else "")
    finally:
        for handle in handles:
            handle.remove()
    best.broke = first
    return best


def _reached(probe: Probe) -> tuple[bool, int]:
    """How far a run that broke off came; of those that are equal, the first is taken."""
    return bool(probe.calls) and not probe.inside, len(probe.calls)


def in_several_places(model: nn.Module) -> set[int]:
    """Identities of modules that have more than one name."""
    seen: set[int] = set()
    return {id(module) for _, module in model.named_modules(remove_duplicate=False) if id(module) in seen or seen.add(id(module))}  # type: ignore[func-returns-value]


@contextmanager
def aside(module: nn.Module) -> Iterator[None]:
    """Nothing of what is drawn or computed here is seen outside."""
    devices = [value.device.index or 0 for value in module.parameters() if value.device.type == "cuda"]
    with torch.random.fork_rng(devices=sorted(set(devices))), torch.inference_mode(False), torch.no_grad():
        yield


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


_READ_AT_MOST = 448
"""Side of an image, in pixels, of timm's settings that a network is read at."""


def _sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Sides of images: what the model says, and then what many take."""
    said: list[Any] = [getattr(one, "image_size", None) for one in _configs(model)]
    embeds = [module for name, module in model.named_modules() if name.rpartition(".")[2] in ("patch_embed", "patch_embeddings", "embeddings")]
    said += [getattr(module, name, None) for module in [model, *embeds] for name in ("img_size", "image_size", "input_size")]
    cfg = getattr(model, "pretrained_cfg", None)
    own = cfg.get("input_size") if isinstance(cfg, Mapping) else None
    # timm's, of networks that hold it nowhere else; larger ones take too long to be read, and take others as well
    said.append(own if own and max(own) <= _READ_AT_MOST else None)
    tried: set[tuple[int, int]] = set()
    for value in [*said, 64, 224, 32, 96, 256, 128, 384]:
        if isinstance(value, (tuple, list)) and len(value) == 3:
            value = value[1:]
        size = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) and len(value) == 2 else None
        if size is not None and size not in tried and all(isinstance(side, int) and 0 < side <= 1024 for side in size):
            tried.add(size)
            yield size
