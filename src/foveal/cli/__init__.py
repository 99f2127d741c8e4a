"""The command line: ``foveal list | data | train | eval | sample | compare | study | inspect | bench | export | doctor |
info``, one file a verb.

Input that cannot be used ends with one line and exit code 2, an interruption with how to go on and exit code 130; everything else keeps its traceback.
"""

import sys
from collections.abc import Sequence

from .. import __version__
from .._console import lasting_output, plain
from .._errors import InputError, missing_module, unknown
from .._extensions import import_extension
from .._files import refused
from ._stopped import Stopped
from ._verbs import VERBS

__all__ = ["VERBS", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with lasting_output() as output:
        code = _run(words)
    if output.failed is not None:
        print(f"foveal: the output could not be written: {output.failed.strerror}", file=sys.stderr)
        return code or 1
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words == ["--version"]:
        print(f"foveal {__version__}")
        return 0
    try:
        if "" in words:
            raise InputError(f"word {words.index('') + 1} behind foveal is empty; leave it out, or give it a value")
        words = _import_named(words)
        if not words:
            raise InputError("--import is given without a command; see foveal --help")
        if words[0] == "--version":
            raise InputError(f"foveal --version takes no options, got {' '.join(words[1:])}")
        if words[0] not in VERBS:
            raise unknown("command", words[0], VERBS)
        VERBS[words[0]].load(words[0])(words[1:])
    except InputError as error:
        return _refuse(error)
    except ModuleNotFoundError as error:
        known = missing_module(error.name, f"foveal {words[0]}")
        if known is None:
            raise
        return _refuse(known)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"foveal: {plain(refused(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        print(f"foveal: {plain(str(stopped))}", file=sys.stderr)
        return 130
    return 0


def _import_named(words: list[str]) -> list[str]:
    """The words without ``--import MODULE``, which every command takes, once those modules are imported."""
    rest, coming = [], iter(words)
    for word in coming:
        if word == "--import" or word.startswith("--import="):
            name = next(coming, "") if word == "--import" else word.partition("=")[2]
            if not name or name.startswith("--"):
                raise InputError("--import needs a module or the path of a .py file behind it")
            import_extension(name)
        else:
            rest.append(word)
    return rest


def _refuse(error: Exception) -> int:
    print(f"foveal: {plain(' '.join(str(error).split()))}", file=sys.stderr)
    return 2


def _usage() -> str:
    lines = ["usage: foveal COMMAND …", "", *(f"  {name:<10}{verb.about}" for name, verb in VERBS.items())]
    lines += ["", "foveal COMMAND --help shows its options; foveal --version the version."]
    lines += ["Every command takes --import MODULE, a module or a .py file that registers attentions of your own."]
    return "\n".join([*lines, f"Example: {VERBS['compare'].example}"])
