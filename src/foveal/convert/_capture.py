"""What a converted module is given in its model, and what the module that it replaced makes of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError

__all__ = ["Call", "Calls", "each_tensor", "evaluating", "first_tensor", "order_of_calls", "stored"]


@dataclass(frozen=True)
class Call:
    """One call of a module: its arguments, and what the original answers to them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Tensor


class _Enough(Exception):
    """Ends a forward pass whose rest nobody needs."""


class Calls:
    """The calls of one module, batch by batch: kept while there is room, made anew by running the model up to the module where there is not.

    Args:
        model: with the module in its place, in evaluation mode.
        replacement: the module.
        original: what it replaced, in evaluation mode.
        name: of the module, for errors.
        batches: as :func:`stored` gives them.
        times: how often one pass calls the module.
        room: bytes that may be kept.
    """

    def __init__(
        self, model: nn.Module, replacement: nn.Module, original: nn.Module, name: str, batches: Sequence[dict[str, Any]], times: int, room: int
    ) -> None:
        self._model, self._replacement, self._original, self._name = model, replacement, original, name
        self._batches, self._times, self._room = batches, times, room
        self._kept: dict[int, list[Call]] = {}

    def __getitem__(self, index: int) -> list[Call]:
        """The calls of a batch.

        Raises:
            ValueError: NaN or infinity in what goes in or is to come out.
        """
        if index in self._kept:
            return self._kept[index]
        calls = self._made(index)
        size = sum(t.numel() * t.element_size() for call in calls for t in each_tensor((call.args, call.kwargs, call.target)))
        if size <= self._room:
            self._room -= size
            self._kept[index] = calls
        return calls

    def _made(self, index: int) -> list[Call]:
        calls: list[Call] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # forward and not call: hooks of the module go on in the replacement, this one among them
            target = first_tensor(self._original.forward(*args, **kwargs))
            for what, value in (("what goes in", first_tensor((args, kwargs))), ("what it gave before the conversion", target)):
                if not value.isfinite().all():
                    raise InputError(f"{self._name}: {what} holds NaN or infinity for batch {index}; look at the images and the weights before")
            calls.append(Call(args, kwargs, target))
            if len(calls) == self._times:
                raise _Enough

        handle = self._replacement.register_forward_pre_hook(note, with_kwargs=True)
        try:
            run(self._model, self._batches[index])
        except _Enough:
            pass
        finally:
            handle.remove()
        return calls


def run(model: nn.Module, batch: dict[str, Any]) -> None:
    like = next(model.parameters())

    def placed(x: Tensor) -> Tensor:
        return x.to(like.device, like.dtype if x.is_floating_point() else None)

    with torch.no_grad():
        model(*(placed(x) for x in batch.get("", ())), **{key: placed(x) if isinstance(x, Tensor) else x for key, x in batch.items() if key})


def stored(batches: Any) -> list[dict[str, Any]]:
    """Batches as keyword arguments of the model; images by themselves under ``""``.

    They are held: a loader that shuffles would else show held-out images in its next turn.

    Raises:
        ValueError: fewer than two, an empty one, or what is no batch of images.
    """
    if isinstance(batches, (Tensor, Mapping)):
        raise InputError(f"expected batches, such as a data loader or a list, got one {type(batches).__name__}; try images.split(16)")
    out = []
    for index, batch in enumerate(batches):
        if isinstance(batch, Mapping):
            # what follows from labels is the loss, which nobody asks for here
            given: dict[str, Any] = {str(key): value for key, value in batch.items() if key not in ("labels", "label")}
        else:
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            given = {"": [images]}
        tensors = list(each_tensor(given))
        if not tensors:
            raise InputError(f"batch {index} holds no tensor: expected images, a tuple that begins with images, or named inputs; got {type(batch).__name__}")
        if any(x.ndim == 0 or len(x) == 0 for x in tensors):
            raise InputError(f"batch {index} is empty")
        out.append(given)
    if len(out) < 2:
        raise InputError(f"calibration needs at least two batches, one to fit and one held out to judge the fit; got {len(out)}")
    return out


def order_of_calls(model: nn.Module, replacements: dict[str, nn.Module], batch: dict[str, Any]) -> dict[str, int]:
    """How often each module is called in one pass; in the order of their first calls.

    Raises:
        ValueError: one is not called.
    """
    times: dict[str, int] = {}

    def counter(name: str) -> Callable[..., None]:
        def count(module: nn.Module, args: Any) -> None:
            times[name] = times.get(name, 0) + 1

        return count

    handles = [module.register_forward_pre_hook(counter(name)) for name, module in replacements.items()]
    try:
        run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if silent := [name for name in replacements if name not in times]:
        raise InputError(
            f"{', '.join(silent)}: not called for these batches, so there is nothing to fit to; give batches that reach it, or a report without it"
        )
    return times


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """All of them in evaluation mode, and afterwards each part as it was."""
    before = {part: part.training for module in modules for part in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in before.items():
            part.training = training


def each_tensor(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from each_tensor(part)
    elif isinstance(value, Mapping):
        yield from each_tensor(list(value.values()))


def first_tensor(value: Any) -> Tensor:
    """Tokens, of what an attention is given or gives."""
    return next(each_tensor(value))
