"""The command line: ``foveal list | data | train | eval | compare | inspect | bench | export | info``, one file a verb.

Input that cannot be used ends with a message and exit code 2, an interruption with how to go on and exit code 130; everything else keeps its traceback.
"""

import sys
from collections.abc import Callable, Sequence

from .._errors import InputError, unknown
from .._files import refused
from ._base import Stopped  # the first: it says which package is missing
from ._bench import bench
from ._compare import compare
from ._data import data
from ._eval import evaluate_run
from ._export import export
from ._info import info
from ._inspect import inspect
from ._list import list_everything
from ._train import train

__all__ = ["main"]

VERBS: dict[str, Callable[[list[str]], None]] = {
    "list": list_everything,
    "data": data,
    "train": train,
    "eval": evaluate_run,
    "compare": compare,
    "inspect": inspect,
    "bench": bench,
    "export": export,
    "info": info,
}
"""In the order of the usage; the first line of a verb's docstring is its line there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    try:
        if words[0] not in VERBS:
            raise unknown("command", words[0], VERBS)
        VERBS[words[0]](words[1:])
    except InputError as error:
        print(f"foveal: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"foveal: {refused(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        print(f"foveal: {stopped}", file=sys.stderr)
        return 130
    return 0


def _usage() -> str:
    lines = ["usage: foveal COMMAND …", "", *(f"  {name:<10}{(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items())]
    return "\n".join([*lines, "", "foveal COMMAND --help says more."])
