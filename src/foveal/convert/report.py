"""What a conversion did."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from .._renamed import renamed_attribute, renamed_keys, warn_renamed

__all__ = ["OUTPUT", "ConversionReport", "Left", "Swap"]

OUTPUT = {"kept": "identical", "nearly kept": "within warm start", "changed": "changed"}
"""What a report says of the output, by the words that it had for it as ``function``."""
_FUNCTION = {new: old for old, new in OUTPUT.items()}


@dataclass(frozen=True)
class Swap:
    """One module that was replaced."""

    name: str
    was: str
    """Its class; empty where nothing stood."""
    to: dict[str, Any]
    """The configuration in its place, as :meth:`foveal.AttentionConfig.to_dict` gives it."""
    output: str
    """``identical``, ``within warm start`` (to its size) or ``changed``, against the module that was replaced; without training."""
    kept: list[str]
    """The host's own parameters: the same objects."""
    derived: list[str]
    """New parameters made from the host's, as one of its three for queries, keys and values."""
    new: list[str]
    dropped: list[str]
    parameters: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int] | None
    """Multiply-adds for one image before and after; None where the host does not say how many tokens there are."""
    notes: list[str]
    new_objects: list[str] = field(default_factory=list)
    """All that the host did not hold, as the model names them: derived and new. An optimizer that was made before does not train them."""

    @property
    def function(self) -> str:
        """Deprecated: ``output`` in the words of before, ``kept``, ``nearly kept`` or ``changed``."""
        warn_renamed("Swap", "function", "output")
        return _FUNCTION[self.output]

    mapped = renamed_attribute("Swap", "mapped", "derived")


@dataclass(frozen=True)
class Left:
    """One attention that was chosen and left as it is."""

    name: str
    was: str
    """Its class."""
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """All modules that were replaced; none where the model was converted before."""

    swaps: list[Swap]
    left: list[Left] = field(default_factory=list)
    """Attentions that were chosen with all others and not converted, and why: of classes that nobody knows, or that this attention cannot stand in for."""

    @property
    def parameters(self) -> tuple[int, int]:
        """Of the replaced modules, before and after."""
        return sum(swap.parameters[0] for swap in self.swaps), sum(swap.parameters[1] for swap in self.swaps)

    @property
    def new_objects(self) -> list[str]:
        """Names of all parameters that came into being, as the model has them; to be given to an optimizer that was made before: its ``add_param_group``."""
        return [name for swap in self.swaps for name in swap.new_objects]

    def table(self) -> str:
        """As text, a line a module."""
        head = ["module", "was", "is", "output", "kept", "derived", "new", "dropped", "parameters", "MACs"]
        rows = [head, *(_row(swap) for swap in self.swaps)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"note: {swap.name}: {note}" for swap in self.swaps for note in swap.notes]
        lines += [f"left as it is: {one.name} ({one.was.rpartition('.')[2]}): {one.reason}" for one in self.left]
        before, after = self.parameters
        if count := len(self.new_objects):
            lines.append(f"{count} parameters are new objects, which an optimizer made before does not hold")
        return "\n".join([*lines, f"{len(self.swaps)} modules, {before:,} → {after:,} parameters"])

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "ConversionReport":
        swaps, written = [], json.loads(text)
        for values in written["swaps"]:
            pairs = {key: None if values[key] is None else tuple(values[key]) for key in ("parameters", "macs")}
            swaps.append(Swap(**(_in_new_words(values) | pairs)))
        return ConversionReport(swaps, [Left(**values) for values in written.get("left", [])])


def _in_new_words(values: dict[str, Any]) -> dict[str, Any]:
    """A report that was written before its words changed."""
    if "function" in values and values["function"] in OUTPUT:
        values = values | {"function": OUTPUT[values["function"]]}
    return renamed_keys("the report", values, {"function": "output", "mapped": "derived"})


def _row(swap: Swap) -> list[str]:
    macs = "" if swap.macs is None else f"{swap.macs[1] / swap.macs[0] - 1:+.0%}"
    change = f"{swap.parameters[1] / swap.parameters[0] - 1:+.0%}" if swap.parameters[0] else f"+{swap.parameters[1]:,}"
    counts = [str(len(part)) for part in (swap.kept, swap.derived, swap.new, swap.dropped)]
    return [swap.name, swap.was.rpartition(".")[2] or "—", swap.to["attention"], swap.output, *counts, change, macs]
