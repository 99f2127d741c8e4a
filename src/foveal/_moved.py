"""Modules under the names that they had before 0.2: ``foveal.training`` is ``foveal.lab.training``. For one minor version, with a warning."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "remember_old_names"]

MOVED = {f"foveal.{name}": f"foveal.lab.{name}" for name in ("catalogue", "compare", "data", "recipes", "tasks", "training")}
MOVED |= dict.fromkeys(("foveal.looking", "foveal.lab.looking", "foveal.lab.find", "foveal.lab.compare.inspect"), "foveal.lab.inspect")
"""Old name: the new one, of the module and of whatever lies in it."""


def _new_name(fullname: str) -> str | None:
    parts = fullname.split(".")
    for cut in range(len(parts), 1, -1):
        old = ".".join(parts[:cut])
        if old in MOVED:
            return ".".join([MOVED[old], *parts[cut:]])
    return None


class _Old(Loader):
    """Gives the module of the new name under the old one too."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = _new_name(spec.name)
        assert new is not None, "asked only for what was found"
        warnings.warn(f"{spec.name} is {new} now; the old name goes with the next minor version", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has put the old name's spec into the module, which is the new one's
        old = module.__spec__
        assert old is not None, "set by the import system"
        module.__spec__ = old.loader_state


class _OldNames(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if _new_name(fullname) is None:
            return None
        return ModuleSpec(fullname, _Old(), is_package=True)


def remember_old_names() -> None:
    """Once, when the package is imported."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        # the first: the files lie where the path finder would find them, as modules of their own
        sys.meta_path.insert(0, _OldNames())
