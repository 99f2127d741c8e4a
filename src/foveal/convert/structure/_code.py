"""Code that was made from a graph: called as a function, copied and pickled as text."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import fx

__all__ = ["Code", "led", "padded"]


def padded(amount: Any, index: int, code: Any = None) -> None:
    """Asked in a graph where something is done with an amount, as of padding, and with none as well.

    Args:
        amount: of it.
        index: which of all that are asked.
        code: what runs; knows for which of them none was proven to be the same.

    Raises:
        ValueError: there is none, which was never seen.
    """
    if not amount and code is not None:
        code.goes_on((index,), "nothing is left over, as where nothing is padded, and was read with such of which something is")


def led(value: Any, wanted: bool, index: int, others: Sequence[Any], wants: Sequence[bool], code: Any = None) -> None:
    """Asked in a graph where a condition leads to others, which make no difference if they are answered as where they were found.

    Args:
        value: of the condition.
        wanted: its answer where the code was read; the others are not asked then.
        index: which of all that are asked.
        others: values of the others.
        wants: their answers where they make no difference.
        code: what runs; knows which answers were proven to be the same.

    Raises:
        ValueError: others were given, which were never seen.
    """
    answers = tuple(bool(one) for one in others)
    if bool(value) != wanted and answers != tuple(wants) and code is not None:
        code.goes_on((-1 - index, *answers), "its conditions on sizes lead another way than where it was read")


class Code:
    """What a graph does.

    Args:
        graph: its nodes name modules and parameters by paths.
    """

    def __init__(self, graph: fx.Graph) -> None:
        code = graph.python_code("self")
        self.source, self.globals = code.src, dict(code.globals)
        self.function = self._made()

    def _made(self) -> Any:
        scope = dict(self.globals)
        exec(compile(self.source, "<foveal: a host's forward>", "exec"), scope)  # made from a graph, not from anything that was read
        return scope["forward"]

    def __call__(self, *args: Any) -> Any:
        """Without a module: of a graph that names none."""
        return self.function(None, *args)

    def __deepcopy__(self, memo: Any) -> "Code":
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("function", "globals")}
        return state | {
            "globals": {key: ("module", value.__name__) if isinstance(value, ModuleType) else ("value", value) for key, value in self.globals.items()}
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.globals = {key: importlib.import_module(value) if kind == "module" else value for key, (kind, value) in state["globals"].items()}
        self.function = self._made()
