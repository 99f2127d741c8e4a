"""How dataclasses become options: one rule gives every option its help in plain words and its placeholder, and passes on what a class refuses."""

import ast
import contextlib
import inspect
import io
import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from .._errors import InputError
from ._verbs import VERBS

__all__ = ["help_of", "parse", "plain_words", "summary"]

_PLACEHOLDERS: dict[Any, str] = {str: "NAME", Path: "PATH", int: "INT", float: "FLOAT"}
_FOLDERS = ("root", "out", "folder")
_NONE = re.compile(r"- <class 'NoneType'>: \[.*?\] does not match choices \('None',\) |<class '\w+(?:\.\w+)*'>: |\{None\}\|")
_CHOICES = re.compile(r"Expected one of \(([^()]*)\)")
_ROLE = re.compile(r":[\w:]+:`~?([^`]+)`")


def plain_words(text: str) -> str:
    """A docstring's text without its markup: roles and quotes of code are for the pages, and not for a terminal."""
    return " ".join(_ROLE.sub(lambda match: match[1].rpartition(".")[2], text).replace("``", "").split())


@cache
def help_of(cls: type) -> dict[str, str]:
    """What stands below each field of a dataclass and of those it inherits from, in plain words."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):
            continue
        assert isinstance(tree, ast.ClassDef), f"{base} is no class"
        for node, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(below, ast.Expr):
                found[node.target.id] = plain_words(str(ast.literal_eval(below.value)))
    return found


class _Refused(Exception):
    """Carries an error past tyro, which would draw a box around it."""

    def __init__(self, error: InputError) -> None:
        super().__init__(str(error))
        self.error = error


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        cls = info.type
        if not (isinstance(cls, type) and is_dataclass(cls)):
            return None
        hints, helps = get_type_hints(cls, include_extras=True), help_of(cls)
        made = []
        for item in fields(cls):
            if is_dataclass(info.default) and not isinstance(info.default, type):
                default = getattr(info.default, item.name)
            elif item.default is not MISSING:
                default = item.default
            else:
                default = item.default_factory() if item.default_factory is not MISSING else tyro.MISSING
            kind = hints[item.name]
            part = type(default) if is_dataclass(default) else kind
            nested = isinstance(part, type) and is_dataclass(part)
            text = summary(part) if nested else helps.get(item.name)
            shown: Any = kind if nested else Annotated[kind, _shown(item.name, kind, default)]
            made.append(StructFieldSpec(item.name, shown, default, text))
        return StructConstructorSpec(_refusing(cls), tuple(made))

    return registry


def _refusing(cls: type) -> Callable[..., Any]:
    def make(**values: Any) -> Any:
        try:
            return cls(**values)
        except InputError as error:
            raise _Refused(error) from error

    return make


def summary(cls: type) -> str:
    """The first paragraph of what a class says of itself."""
    return plain_words((inspect.getdoc(cls) or "").partition("\n\n")[0])


def _shown(name: str, kind: Any, default: Any) -> Any:
    """The placeholder without None among what can be given, and nothing for a default of None, of which the help says what it means."""
    while get_origin(kind) is Annotated:
        if any(getattr(part, "metavar", None) for part in kind.__metadata__):
            return tyro.conf.arg(help_behavior_hint=_hint(default))
        kind = get_args(kind)[0]
    parts = [part for part in get_args(kind) if part is not type(None)] if get_origin(kind) in (Union, UnionType) else [kind]
    optional = len(parts) == 1 and parts[0] is not kind
    metavar = None
    if name in _FOLDERS and Path in parts:
        metavar = "DIR"
    elif optional and get_origin(parts[0]) is Literal:
        metavar = "{" + ",".join(map(str, get_args(parts[0]))) + "}"
    elif get_origin(parts[0]) is tuple and get_args(parts[0]) == (str, ...):
        metavar = "[NAME …]"
    elif get_origin(parts[0]) is dict and get_args(parts[0]) == (str, float):
        metavar = "[NAME NUMBER …]"
    elif parts[0] in _PLACEHOLDERS and len(parts) == 1:
        metavar = _PLACEHOLDERS[parts[0]]
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=_hint(default))


def _hint(default: Any) -> Callable[[str], str] | None:
    if default is None or default == () or default is tyro.MISSING:
        return lambda label: ""
    return None


@cache
def _rules() -> ConstructorRegistry:
    return _registry()


def parse(kind: Any, verb: str, words: list[str], *, flags: bool = False, about: str | None = None, example: str | None = None, **options: Any) -> Any:
    """Words as a value of a dataclass: ``verb`` is what stands before them, and ``options`` are those of ``tyro.cli``.

    What is true or false takes a value, ``--memory False``; with ``flags`` only where a field is marked so.

    Raises:
        ValueError: words that are no options, values that are not of their kind, an option that is given twice, and what the dataclass refuses.
    """
    _once(words)
    markers = (tyro.conf.AvoidSubcommands,) if flags else (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    known = VERBS.get(verb.partition(" ")[0])
    example = known.example if known and example is None else example
    text = summary(kind) if about is None else about
    text = f"{text}\n\nExample: {example}" if example else text
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=words, prog=f"foveal {verb}", description=text, config=markers, registry=_rules(), **options)
    except _Refused as refused:
        raise refused.error from None
    except SystemExit as left:
        if left.code:
            raise InputError(f"{_unboxed(said.getvalue())}; foveal {verb} --help lists the options") from None
        raise


def _once(words: list[str]) -> None:
    """The last of two would win, and the first be forgotten without a word."""
    seen: set[str] = set()
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name = word.partition("=")[0].replace("_", "-")
            if name in seen:
                raise InputError(f"{name} is given twice; give it once")
            seen.add(name)


def _unboxed(text: str) -> str:
    """tyro's message out of its box, on one line."""
    rows = (re.sub(r"^[\s│|]+|[\s│|]+$", "", row) for row in text.splitlines())
    # to tyro an option that may be left out is one that may be None; to people it is one less word to read
    kept = [row for row in rows if row and not re.fullmatch(r"[─━╭╮╰╯+\-]+.*[─━╭╮╰╯+\-]+", row)]
    text = _NONE.sub("", " ".join(" ".join(kept).split("For full helptext")[0].split()))
    return _CHOICES.sub(_choices, text).rstrip(" .;")


def _choices(match: re.Match[str]) -> str:
    # tyro names them in the order of a set, another one in every process
    return f"Expected one of ({', '.join(sorted(word for word in match[1].split(', ') if word != repr('None')))})"
