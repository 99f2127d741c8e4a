"""A network that is gone on with from inside: what lies below the first module that learns runs once an image, and its outcome is kept.

Any network is cut at the input of one module. Those that ran before it are skipped: they give what they gave for one image, whose values do not matter, since
the module gets the features that were kept. Whether that is the same function is not argued but tried, on images and with other weights of what learns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Cut", "attach_", "features_of", "find_cut"]

_TOLERANCE = 1e-4
"""Of the largest logit: batches of other sizes are summed in other orders."""
_NOISES = (0.0, 0.01, 0.1)
"""Added to the weights of what learns. None of it alone: without noise a weight that is zero hides what it leads to, and with much of it what learns drowns
what goes by it."""
_NAME = "_foveal_cut"


@dataclass
class Cut:
    """Where a network is gone on with."""

    name: str
    """Of the module whose first input is kept."""
    shape: tuple[int, ...]
    """Of what is kept of an image."""
    probe: Tensor
    """``(1, C, H, W)``, the image whose way is walked."""
    skipped: dict[str, list[Any]]
    """What modules below gave for it, by call."""
    alone: bool
    """Whether the module's output is the network's, as of a head."""


def find_cut(model: nn.Module, images: Tensor) -> tuple[Cut | None, str]:
    """The highest cut below all that learns, or why there is none.

    The model is left as it was: weights, buffers, mode and random numbers.

    Args:
        model: some of whose parameters do not learn.
        images: two or more different ones, ``(B, C, H, W)``.
    """
    learns = {name.rpartition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    if not learns:
        return None, "nothing learns"
    if "" in learns:
        return None, "a weight that the network uses by itself learns, outside of its modules"
    with _as_it_was(model), torch.no_grad():
        first = _first_called(model.eval(), images[:1], learns)
        if first is None:
            return None, "what learns is not called"
        parts = first.split(".")
        for count in range(len(parts), 0, -1):
            cut = _cut_at(model, ".".join(parts[:count]), images)
            if cut is not None:
                return cut, ""
    return None, f"{first} learns first, and the network cannot be gone on with from it, nor from a module around it"


@torch.no_grad()
def features_of(model: nn.Module, cut: Cut, images: Tensor) -> Tensor:
    """What is kept of images, ``(B, *cut.shape)``, of a model in evaluation mode."""
    found, _ = _input_of(model, cut.name, images)
    assert found is not None, "the cut was found in this model"
    return found


def attach_(model: nn.Module, cut: Cut) -> None:
    """Let the model take kept features in the place of images; with images it does what it did. Names and weights stay."""
    kind = type(model)

    def forward(self: Any, given: Any, *args: Any, **options: Any) -> Any:
        if given.shape[1:] == cut.probe.shape[1:]:
            return kind.forward(self, given, *args, **options)
        return _go_on(self, getattr(self, _NAME), given, lambda probe: kind.forward(self, probe, *args, **options))

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    # no buffer: state dicts and devices do not know it
    object.__setattr__(model, _NAME, cut)


def _go_on(model: nn.Module, cut: Cut, features: Tensor, walk: Callable[[Tensor], Any]) -> Any:
    at = model.get_submodule(cut.name)
    if cut.alone:
        return at(features)
    fed: list[bool] = []

    def feed(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if fed:
            return None
        fed.append(True)
        return (features, *args[1:]), kwargs

    handle = at.register_forward_pre_hook(feed, with_kwargs=True)
    patched = []
    try:
        for name, outputs in cut.skipped.items():
            module = model.get_submodule(name)
            module.forward = _giver(outputs, module.forward, features.device)
            patched.append(module)
        return walk(cut.probe.to(features.device))
    finally:
        handle.remove()
        for module in patched:
            del module.forward


def _giver(outputs: list[Any], otherwise: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    left = iter(outputs)

    def give(*args: Any, **kwargs: Any) -> Any:
        try:
            return _moved(next(left), device)
        except StopIteration:
            return otherwise(*args, **kwargs)

    return give


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(_moved(part, device) for part in value) if type(value) in (tuple, list) else value


def _first_called(model: nn.Module, image: Tensor, names: set[str]) -> str | None:
    called: list[str] = []
    handles = [model.get_submodule(name).register_forward_pre_hook(lambda module, args, name=name: called.append(name)) for name in names]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return called[0] if called else None


class _Reached(Exception):
    """Ends a forward pass whose rest is of no interest."""


def _input_of(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor | None, dict[str, list[Any]]]:
    """The first input of a module, and what the outermost modules that ended before it gave."""
    caught: list[Any] = []
    ended: dict[str, list[Any]] = {}

    def stop(module: nn.Module, args: Any) -> None:
        caught.extend(args[:1])
        raise _Reached

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: ended.setdefault(name, []).append(output)

    handles = [model.get_submodule(name).register_forward_pre_hook(stop)]
    handles += [module.register_forward_hook(note(key)) for key, module in model.named_modules() if key]
    try:
        model(images)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    outermost = {key: outputs for key, outputs in ended.items() if not any(key.startswith(f"{other}.") for other in ended)}
    return (caught[0] if caught and isinstance(caught[0], Tensor) else None), outermost


def _cut_at(model: nn.Module, name: str, images: Tensor) -> Cut | None:
    """The cut, if going on from it is the same function, and what is kept is the same in training."""
    one, skipped = _input_of(model, name, images[:1])
    kept, _ = _input_of(model, name, images)
    if one is None or kept is None or kept.shape[:1] != images.shape[:1] or one.shape[1:] != kept.shape[1:] or kept.shape[1:] == images.shape[1:]:
        return None
    if not _same(kept, _in_training(model, name, images)):
        return None
    for alone in (True, False):
        cut = Cut(name, tuple(kept.shape[1:]), images[:1].clone(), skipped, alone)
        if all(_goes_on(model, cut, kept, images, noise) for noise in _NOISES):
            return cut
    return None


def _goes_on(model: nn.Module, cut: Cut, kept: Tensor, images: Tensor, noise: float) -> bool:
    """Whether it is the same function from the cut on, with weights of what learns that are so far from its own; they are put back."""
    learned = [(value, value.clone()) for value in model.parameters() if value.requires_grad]
    _disturb_(model, noise)
    try:
        return _same(model(images), _go_on(model, cut, kept, model.forward))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        # what comes behind it does not fit together with what was skipped
        return False
    finally:
        for value, before in learned:
            value.copy_(before)


def _in_training(model: nn.Module, name: str, images: Tensor) -> Tensor | None:
    try:
        return _input_of(model.train(), name, images)[0]
    finally:
        model.eval()


def _same(wanted: Tensor, got: Any) -> bool:
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        return False
    return bool((got - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())


def _disturb_(model: nn.Module, noise: float) -> None:
    """Other weights for what learns: one that is zero would hide what it leads to."""
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        if value.requires_grad:
            value.add_(noise * torch.randn(value.shape, generator=generator).to(value))


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    learned: list[tuple[Tensor, Tensor]] = [(value, value.detach().clone()) for value in model.parameters() if value.requires_grad]
    learned += [(value, value.clone()) for value in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            with torch.no_grad():
                for value, before in learned:
                    value.copy_(before)
            for module, training in modes.items():
                module.training = training
