"""The one error that is the user's to mend."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["InputError", "missing_extra", "unknown"]


_SHOWN = 60
"""Names of a registry that an error lists; timm alone has more than a thousand."""


class InputError(ValueError):
    """Something given to Foveal cannot be used. The message says what was expected, what came, and the remedy.

    The command line prints it without a traceback and exits with code 2; every other exception is a defect of ours and keeps its traceback.
    """


def unknown(what: str, got: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry, with near matches first."""
    names = sorted(known)
    near = get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    shown = names if len(names) <= _SHOWN else [*names[:_SHOWN], f"… and {len(names) - _SHOWN} more"]
    return InputError(f"unknown {what} {got!r}; {hint}known: {', '.join(shown)}")


def missing_extra(package: str, extra: str, purpose: str) -> InputError:
    """The error for an optional dependency that is not installed."""
    return InputError(f"{purpose} needs {package}, which is not installed; remedy: pip install 'foveal[{extra}]'")
