"""Packages of the lab under the names that they had before 0.2: ``foveal.training`` is ``foveal.lab.training``. For one minor version, with a warning."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "remember_old_names"]

MOVED = ("catalogue", "compare", "data", "looking", "recipes", "tasks", "training")


class _Old(Loader):
    """Gives the module of the new name under the old one too."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = spec.name.replace("foveal.", "foveal.lab.", 1)
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
        package, _, rest = fullname.partition(".")
        if package != "foveal" or rest.partition(".")[0] not in MOVED:
            return None
        return ModuleSpec(fullname, _Old(), is_package=True)


def remember_old_names() -> None:
    """Once, when the package is imported."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        # the first: the files lie where the path finder would find them, as modules of their own
        sys.meta_path.insert(0, _OldNames())
