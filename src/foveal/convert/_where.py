"""Which modules of a model: globs, expressions, predicates, and the presets that users ask for."""

import fnmatch
import re
from collections.abc import Callable

from torch import nn

from .._errors import InputError
from ._host import find_host, known_hosts
from ._layouts import TEXT, causal_mask_above

__all__ = ["Where", "every_nth", "global_only", "is_everywhere", "last_stage", "matcher"]

Where = str | re.Pattern[str] | Callable[[str, nn.Module], bool]
"""Which modules: a glob on their names (``"blocks.*.attn"``), a compiled regex that must match the whole name, or a predicate on name and module.
The words ``"all"``, ``"last_stage"`` and ``"global_only"`` are presets."""

_STAGE = re.compile(r"(?:^|\.)(?:(?:stages?|layers)\.(\d+)\.blocks|features\.(\d+)\.\d+)\.")
"""timm's stages, and torchvision's."""


def is_everywhere(where: Where) -> bool:
    return where in ("*", "all")


def matcher(where: Where, model: nn.Module | None = None) -> Callable[[str, nn.Module], bool]:
    """Whether a module, given its name and itself, is one of those. The presets are known where the model is."""
    if isinstance(where, str):
        if model is not None and where in _PRESETS:
            return _PRESETS[where](model)
        return lambda name, module: fnmatch.fnmatchcase(name, where)
    if isinstance(where, re.Pattern):
        return lambda name, module: where.fullmatch(name) is not None
    return where


def every_nth(step: int, offset: int = 0) -> Callable[[str, nn.Module], bool]:
    """Every ``step``-th block, counted by the last number in the name, from ``offset``; for ``where``."""
    if step < 1:
        raise InputError(f"step must be at least 1, got {step}")

    def choose(name: str, module: nn.Module) -> bool:
        numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", name)
        return find_host(module) is not None and bool(numbers) and int(numbers[-1]) >= offset and (int(numbers[-1]) - offset) % step == 0

    return choose


def last_stage(model: nn.Module, share: float = 0.25) -> Callable[[str, nn.Module], bool]:
    """The attentions of the last stage, or where there are no stages, of the last ``share`` of the blocks; for ``where``."""
    names = [name for name, _ in _known(model)]
    stages = sorted({_number(match) for name in names if (match := _STAGE.search(name))})
    last = [name for name in names if stages and (match := _STAGE.search(name)) and _number(match) == stages[-1]]
    chosen = set(last or names[-max(1, round(share * len(names))) :])
    return lambda name, module: name in chosen


def _number(match: re.Match[str]) -> int:
    return int(next(group for group in match.groups() if group))


def global_only(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """The attentions over the whole image, without those in windows; for ``where``. A window that covers the map counts as the whole.

    Raises:
        ValueError: there is none.
    """
    chosen = set()
    known = _known(model)
    for name, module in known:
        host = find_host(module)
        assert host is not None, "the known ones have hosts"
        try:
            place = host.read(module, model, name)
        except InputError:
            # it cannot be converted, so that there is nothing to choose
            continue
        of_text = place is not None and (place.no_grid == TEXT or causal_mask_above(model, name))
        if place is not None and place.windows == 1 and not of_text:
            chosen.add(name)
    if not chosen:
        raise InputError(f"the model has no attention over the whole image, its {len(known)} attentions look at windows; choose by name, or all of them")
    return lambda name, module: name in chosen


def _known(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found = [(name, module) for name, module in model.named_modules() if find_host(module) is not None]
    if not found:
        raise InputError(f"the model has no attention that is known; known: {', '.join(known_hosts())}")
    return found


_PRESETS: dict[str, Callable[[nn.Module], Callable[[str, nn.Module], bool]]] = {
    "all": lambda model: lambda name, module: True,
    "last_stage": last_stage,
    "global_only": global_only,
}
