"""Fit what a conversion put in to what it replaced, layer by layer, on unlabeled images."""

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._console import console
from .._errors import InputError, missing_extra
from ._capture import Calls, evaluating, order_of_calls, stored
from ._fit import Student, least_squares, relative_error, take_steps
from ._record import Converted, record_of, standing
from ._revert import steps_back
from ._wrapped import refuse_wrapped
from .report import ConversionReport, Swap

__all__ = ["CalibrationReport", "LayerFit", "calibrate_"]

_ENOUGH = 1e-3
"""Relative error from which a layer counts as the one it replaced: the warm start of denoising attention stays below it."""


@dataclass(frozen=True)
class LayerFit:
    """One module that was fitted, or left as it was."""

    name: str
    attention: str
    before: float
    """Relative error on the held-out batches, the norm of the difference to the original's outputs over their norm."""
    after: float
    by: str
    """``least squares``, ``steps``, ``steps, least squares``, or ``unchanged``: left as it was."""
    note: str
    """Why it was left so, or what could not be tried."""


@dataclass(frozen=True)
class CalibrationReport:
    """All modules that were to be fitted, in the order in which they are called, and the settings."""

    layers: list[LayerFit]
    steps: int
    lr: float
    ridges: tuple[float, ...]
    seed: int
    batches: tuple[int, int]
    """Fitted to, and held out."""

    def table(self) -> str:
        """As text, a line a module."""
        head = ["module", "is", "error before", "after", "by"]
        rows = [head, *([fit.name, fit.attention, f"{fit.before:.4f}", f"{fit.after:.4f}", fit.by] for fit in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"note: {fit.name}: {fit.note}" for fit in self.layers if fit.note]
        fitted = sum(fit.by != "unchanged" for fit in self.layers)
        return "\n".join([*lines, f"{fitted} of {len(self.layers)} modules fitted to {self.batches[0]} batches, judged on {self.batches[1]} others"])

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "CalibrationReport":
        values = json.loads(text)
        # reports of before say "start" of a layer that stays as it was
        layers = [LayerFit(**(layer | {"by": "unchanged"} if layer["by"] == "start" else layer)) for layer in values.pop("layers")]
        return CalibrationReport(**(values | {"layers": layers, "batches": tuple(values["batches"]), "ridges": tuple(values["ridges"])}))


def calibrate_(
    model: nn.Module,
    report: ConversionReport | None,
    batches: Iterable[Any],
    *,
    steps: int = 300,
    lr: float = 3e-4,
    ridges: tuple[float, ...] = (1e-4, 1e-2, 1.0),
    held_out: float = 0.25,
    memory: int = 2**30,
    seed: int = 0,
    progress: bool | None = None,
) -> CalibrationReport:
    """Fit each converted module, in place, to the outputs of the module it replaced.

    Layer by layer, in the order of the forward pass. A layer's inputs are those that it has in this model, behind the layers that were fitted before it; its
    target is what the original makes of the very same inputs. So nothing but the converted model runs, every layer is fitted where it will work, and an error
    of an earlier layer is not something that a later one is asked to explain. First ``proj`` is solved for (ridge regression on what the mechanism gives, by
    normal equations that are summed batch by batch), then all parameters of the attention take Adam steps, then ``proj`` is solved for again. Whichever of
    these is best on held-out batches is taken, and the start where none is better: no layer gets worse there.

    Parameters that do not require gradients stay as they are; so do device, dtype, mode and ``requires_grad`` of everything. Weights that the attention shares
    with the module it replaced change in both, as in training, and are what they are now when it is asked for its outputs: :func:`convert` a copy to keep the
    original. An error leaves the model as it was.

    Args:
        model: one that :func:`convert_` was given.
        report: what :func:`convert_` returned: these modules are fitted. None for all that were converted.
        batches: at least two. Each is a tensor of images, a tuple that begins with one, or a mapping of named inputs, as transformers' processors give; labels
            are not looked at. All are held in memory, and of each layer's inputs as much as ``memory`` allows; the rest is computed again when needed.
        steps: of Adam for each layer, a batch a step; 0 for least squares alone.
        lr: of Adam for weights that came from the host; ten times as much for those that are new.
        ridges: how strongly ``proj`` is held to what it was, relative to the mean square of what goes into it; each is tried.
        held_out: share of the batches, one at least, that judge.
        memory: bytes for the inputs and targets of a layer.
        seed: of the order of batches.
        progress: a bar, where rich is installed; None shows one in a terminal.

    Returns:
        The relative error of every layer before and after.

    Raises:
        ValueError: a model that was not converted, or is compiled or wrapped, adapters on layers that the original does not have, a report of another model,
            fewer than two batches or an empty one, NaN or infinity in the inputs or outputs of a layer, a layer that these batches do not reach, or settings
            that make no sense.

    Example:
        >>> from foveal import ExternalAttention, convert_
        >>> model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 4, batch_first=True), 2, enable_nested_tensor=False)
        >>> report = convert_(model, ExternalAttention.Config(slots=8))
        >>> fits = calibrate_(model, report, torch.randn(32, 10, 16).split(4), steps=10)
    """
    if steps < 0 or lr <= 0 or not ridges or min(ridges) < 0 or not 0 < held_out < 1 or memory < 0:
        raise InputError(
            f"expected steps, ridges and memory of at least 0, lr above 0 and 0 < held_out < 1, got {steps}, {ridges}, {memory}, {lr} and {held_out}"
        )
    refuse_wrapped(model, "calibrate")
    parts = _parts(model, report)
    given = stored(batches)
    every = max(2, round(1 / held_out))
    judging = list(range(every - 1, len(given), every)) or [len(given) - 1]
    fitting = [index for index in range(len(given)) if index not in judging]
    generator = torch.Generator().manual_seed(seed)
    undo: list[tuple[Tensor, Tensor]] = []
    layers = []
    originals = _originals(parts)
    with torch.inference_mode(False), evaluating([model, *originals]):
        times = order_of_calls(model, {name: part.replacement for name, (part, _) in parts.items()}, given[0])
        with _bar(len(parts) * steps, progress) as tick:
            try:
                for name in times:
                    part, new = parts[name]
                    calls = Calls(model, part.replacement, part.original, name, given, times[name], memory)
                    fit, best = _fit(part, name, calls, fitting, judging, steps=steps, lr=lr, ridges=ridges, new=new, generator=generator, tick=tick)
                    layers.append(fit)
                    if best is not None:
                        _take_over(part.replacement, best, undo)
            except BaseException:
                with torch.no_grad():
                    for value, old in reversed(undo):
                        value.copy_(old)
                raise
    return CalibrationReport(layers, steps, lr, tuple(ridges), seed, (len(fitting), len(judging)))


def _parts(model: nn.Module, report: ConversionReport | None) -> dict[str, tuple[Converted, list[str]]]:
    """What is to be fitted, and the names of its new parameters."""
    record_of(model)
    known = {names[0]: part for names, part in standing(model)}
    if report is None:
        return {name: (part, []) for name, part in known.items()}
    if not isinstance(report, ConversionReport):
        raise InputError(f"expected the report that convert_ returned, or None for all that was converted, got a {type(report).__name__}")
    if not report.swaps:
        raise InputError("the report names no module: the model had been converted before; give the report of that conversion, or None for all")
    for swap in report.swaps:
        if swap.name not in known or not _describes(swap, known[swap.name]):
            raise InputError(
                f"the report is of another model: it has {swap.to['attention']} at {swap.name} with {swap.parameters[1]} parameters, "
                f"this model was converted at {', '.join(known)}; give the report of its conversion, or None for all"
            )
    return {swap.name: (known[swap.name], swap.new) for swap in report.swaps}


def _describes(swap: Swap, part: Converted) -> bool:
    return swap.to["attention"] == part.wanted.attention and swap.parameters[1] == sum(p.numel() for p in part.replacement.parameters())


def _originals(parts: dict[str, tuple[Converted, list[str]]]) -> list[nn.Module]:
    """As :func:`revert_` would put them back: the model may have been moved, trained or loaded since, and what both share is to be the same in both."""
    steps = [step for name, (part, _) in parts.items() for step in steps_back(name, part)]
    with torch.no_grad():
        for step in steps:
            step()
    return [part.original for part, _ in parts.values()]


def _fit(
    part: Converted, name: str, calls: Calls, fitting: list[int], judging: list[int], *, steps: int, ridges: Sequence[float], tick: Any, **options: Any
) -> tuple[LayerFit, Student | None]:
    student = Student(part.replacement)
    before = relative_error(student, calls, judging)
    attention = part.wanted.attention

    def left(why: str) -> tuple[LayerFit, None]:
        for _ in range(steps):
            tick()
        return LayerFit(name, attention, before, before, "unchanged", why), None

    if before < _ENOUGH:
        return left(f"is the one it replaced to {_ENOUGH:g} already")
    if not student.trainable():
        return left("none of its parameters requires gradients")
    proj, note = getattr(student.attention, "proj", None), ""
    how = student.proj_comes_last(calls[judging[0]][0]) if type(proj) is nn.Linear and proj.weight.requires_grad else None
    if how is None:
        note = "no least squares: " + (
            "its host does more behind proj" if type(proj) is nn.Linear and proj.weight.requires_grad else "proj is not free or not plain"
        )
    tried: list[tuple[float, str, Student]] = []

    def judge(by: str, *candidates: Student) -> None:
        rounded = (candidate.rounded() for candidate in candidates)
        tried.append(min(((relative_error(candidate, calls, judging), by, candidate) for candidate in rounded), key=lambda entry: entry[0]))

    if how is not None:
        judge("least squares", *least_squares(student, calls, fitting, ridges, how))
        if tried[0][0] < before:
            student = copy.deepcopy(tried[0][2])
    if steps:
        with torch.enable_grad():
            take_steps(student, calls, fitting, steps=steps, tick=tick, **options)
        judge("steps", student)
        if how is not None:
            judge("steps, least squares", *least_squares(student, calls, fitting, ridges, how))
    if not tried:
        return left("nothing to try without steps and least squares")
    error, by, best = min(tried, key=lambda entry: entry[0])
    if not error < before:
        return LayerFit(name, attention, before, before, "unchanged", f"no fit was better on the held-out batches, the best had {error:.4f}"), None
    return LayerFit(name, attention, before, error, by, note), best


@torch.no_grad()
def _take_over(replacement: nn.Module, student: Student, undo: list[tuple[Tensor, Tensor]]) -> None:
    for value, fitted in zip(replacement.parameters(), student.module.parameters(), strict=True):
        if not torch.equal(value, fitted.to(value)):
            undo.append((value, value.detach().clone()))
            value.copy_(fitted)


@contextmanager
def _bar(total: int, wanted: bool | None) -> Iterator[Any]:
    """Calls to what it gives move the bar by one."""
    try:
        from rich.progress import Progress
    except ImportError as error:
        if wanted:
            raise missing_extra("rich", "train", "a progress bar") from error
        yield lambda: None
        return
    shown = console(stderr=True)
    with Progress(console=shown, transient=True, disable=wanted is False or (wanted is None and not shown.is_terminal)) as bar:
        task = bar.add_task("calibrate", total=total)
        yield lambda: bar.advance(task)
