"""Modules that bring attentions from outside: named by the user, or by an installed package in the entry-point group ``foveal.attentions``.

They are imported when a name is looked up, once a process, and never by ``import foveal``. Those that the user names stand in the environment, so that the
processes of a comparison know them too.
"""

import importlib.util
import os
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

from ._errors import InputError

__all__ = ["GROUP", "VARIABLE", "import_extension", "load_extensions", "named_extensions"]

GROUP = "foveal.attentions"
"""Entry points of installed packages: ``[project.entry-points."foveal.attentions"] mine = "my_package.my_module"``."""
VARIABLE = "FOVEAL_IMPORT"
"""Environment variable: modules or files, with the separator of paths between them. ``foveal … --import`` adds to it."""

_loaded = False


def named_extensions() -> list[str]:
    """What the user named, in this process or one that started it."""
    return [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def import_extension(name: str) -> None:
    """Import a module, or a file that ends in ``.py``, and let processes that this one starts know it.

    Raises:
        ValueError: it cannot be imported, for whatever reason; the message says which.
    """
    is_file = name.endswith(".py")
    path = Path(name).resolve()
    try:
        if is_file:
            _import_file(path)
        else:
            # as `python -m` does: a module beside which one works is found
            if "" not in sys.path and os.getcwd() not in sys.path:
                sys.path.append(os.getcwd())
            importlib.import_module(name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be imported: {type(error).__name__}: {error}; give a module, or the path of a .py file") from error
    known, told = named_extensions(), str(path) if is_file else name
    if told not in known:
        os.environ[VARIABLE] = os.pathsep.join([*known, told])


def load_extensions() -> None:
    """Import all that is named or installed, once.

    A package whose entry point is broken is told of in a warning, and the others go on; what the user named must work.

    Raises:
        ValueError: what the user named cannot be imported.
    """
    global _loaded
    if _loaded:
        return
    # set first: a module that is being imported may look up names itself
    _loaded = True
    try:
        for name in named_extensions():
            import_extension(name)
    except InputError:
        _loaded = False
        raise
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist is not None else point.value
            why = f"{point.value} cannot be imported: {type(error).__name__}: {error}"
            warnings.warn(f"the attentions of the package {package} are left out: {why}", stacklevel=3)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} cannot be imported: there is no such file")
    name = path.stem
    there = sys.modules.get(name)
    if there is not None:
        if Path(getattr(there, "__file__", None) or "").resolve() == path:
            return
        raise InputError(f"{path} cannot be imported: another module is called {name}; choose another name for the file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    # by its name, so that what it defines can be pickled
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
