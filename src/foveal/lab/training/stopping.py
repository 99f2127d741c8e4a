"""How a run is asked to stop, and how processes agree on it without waiting for each other at every step."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

__all__ = ["Stopping", "signals"]

_SECONDS = 2.0
"""About how often processes ask each other."""
_MOST_STEPS = 100


class Stopping:
    """Whether to leave the loop, of which all processes must leave the same step.

    One process alone looks at its signal after every step. Several ask each other at every checkpoint and evaluation and at the end, where they wait for each
    other anyway, and in between about every two seconds, as many steps as fit into them: each question makes the host wait for the device.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._next, self._last, self._asked = 1, 0, time.monotonic()

    def agreed(self, flag: bool, step: int, due: bool) -> bool:
        """Whether any process wants to stop after this step, its count from the start of this process.

        Args:
            flag: whether this one wants to.
            step: how many were done.
            due: ask now, in any case.
        """
        if self._accelerator.num_processes == 1:
            return flag
        if not due and step < self._next:
            return False
        now = time.monotonic()
        said = torch.tensor([float(flag), now - self._asked], device=self._accelerator.device)
        flags, seconds = self._accelerator.reduce(said, "sum").tolist()
        # the same numbers in all processes, so that all ask at the same step again
        each = seconds / self._accelerator.num_processes / max(step - self._last, 1)
        self._next = step + min(max(1, round(_SECONDS / max(each, 1e-6))), _MOST_STEPS)
        self._last, self._asked = step, now
        return flags > 0


@contextmanager
def signals() -> Iterator[dict[str, bool]]:
    """Ctrl-C and SIGTERM ask the loop to stop after its step. A second Ctrl-C stops at once."""
    asked = {"asked": False}

    def ask(number: int, frame: Any) -> None:
        if asked["asked"] and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked["asked"] = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # only the main thread may listen to signals; in another the caller decides
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
