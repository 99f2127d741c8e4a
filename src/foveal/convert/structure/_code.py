"""Code that was made from a graph: called as a function, copied and pickled as text."""

import importlib
from types import ModuleType
from typing import Any

from torch import fx

__all__ = ["Code"]


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
