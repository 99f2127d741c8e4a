"""What every verb uses: how words become options, and how work that was stopped says so."""

from dataclasses import dataclass
from typing import Any

from .._errors import missing_extra

try:
    import rich  # noqa: F401  # the verbs print their tables with it
    import tyro
except ImportError as error:
    raise missing_extra(error.name or "tyro", "train", "the command line") from error

__all__ = ["Nothing", "Stopped", "parse"]


class Stopped(Exception):
    """Work was interrupted and saved; the message says how to go on."""


@dataclass(frozen=True)
class Nothing:
    """No options."""


def parse(kind: Any, verb: str, words: list[str], *, flags: bool = False, **options: Any) -> Any:
    """Words as a value of a dataclass: ``verb`` is what stands before them, and ``options`` are those of ``tyro.cli``.

    What is true or false takes a value, ``--memory False``; with ``flags`` only where a field is marked so.
    """
    markers = (tyro.conf.AvoidSubcommands,) if flags else (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    return tyro.cli(kind, args=words, prog=f"foveal {verb}", config=markers, **options)
