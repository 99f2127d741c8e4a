"""How a module calls an attention of its own, read off its source: nothing else says before the first run what queries, keys and values are made of.

Only what is certain is told. Where there is no source, or the tokens come from a caller whom nobody knows, an attention is taken to read the tokens that ask.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

__all__ = ["Called", "how_called", "methods_called"]


@dataclass(frozen=True)
class Called:
    reads_others: bool = False
    """Whether those who ask are other tokens than those that are read."""
    values_apart: bool = False
    """Whether values are made of other tokens than keys, as where positions are added to queries and keys alone."""


def how_called(owner: nn.Module, child: str) -> Called:
    """How ``owner`` calls ``self.child(query, key, value)``, in any of its methods."""
    kind: Any = type(owner)
    return _of_class(kind, child)


_ASIDE = ("__", "init", "_init", "reset", "set_", "load", "_load", "extra_repr", "no_weight_decay")
"""How names of methods begin that take no part in a forward pass."""


@lru_cache(maxsize=512)
def methods_called(kind: type, child: str) -> frozenset[str]:
    """Methods beside ``forward`` that a class calls of ``self.child`` when it runs."""
    found: set[str] = set()
    for base in kind.__mro__:
        # each class by itself: a method may call the one that it overrides
        for function in _functions(base) if issubclass(base, nn.Module) and base is not nn.Module else ():
            if function.name.startswith(_ASIDE):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    of = node.func.value
                    if isinstance(of, ast.Attribute) and of.attr == child and _is_name(of.value, "self"):
                        found.add(node.func.attr)
    return frozenset(found)


@lru_cache(maxsize=512)
def _of_class(kind: type, child: str) -> Called:
    calls = [call for function in _functions(kind) for call in _calls(function, child)]
    return Called(any(_reads_others(*call) for call in calls), any(_values_apart(*call) for call in calls))


def _functions(kind: type) -> Iterator[ast.FunctionDef]:
    seen: set[str] = set()
    for base in kind.__mro__:
        if base in (nn.Module, object):
            continue
        for name, value in vars(base).items():
            if name in seen or not inspect.isfunction(value):
                continue
            seen.add(name)
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
            except (OSError, TypeError, SyntaxError):
                # made at run time, or compiled: there is no source to read
                continue
            if tree.body and isinstance(tree.body[0], ast.FunctionDef):
                yield tree.body[0]


def _calls(function: ast.FunctionDef, child: str) -> Iterator[tuple[ast.expr, ast.expr, ast.expr]]:
    """Queries, keys and values of every such call, names replaced by what they stand for."""
    meaning = _meanings(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == child and _is_name(node.func.value, "self"):
            given = dict(zip(("query", "key", "value"), node.args, strict=False)) | {word.arg: word.value for word in node.keywords}
            if {"query", "key", "value"} <= given.keys() and not any(isinstance(part, ast.Starred) for part in node.args):
                query, key, value = (_meant(given[part], meaning) for part in ("query", "key", "value"))
                yield query, key, value


def _meanings(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """What local names stand for that are given once, as in ``q = k = x + pos``."""
    parameters = {argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
    bound: dict[str, list[ast.expr | None]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    bound.setdefault(target.id, []).append(node.value)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, []).append(None)
    # each plain assignment is met twice: as a statement, and as a name that is stored
    once = {name: values for name, values in bound.items() if len(values) == 2 and name not in parameters}
    return {name: value for name, values in once.items() for value in values if value is not None}


def _meant(expression: ast.expr, meaning: dict[str, ast.expr]) -> ast.expr:
    for _ in range(8):
        if not (isinstance(expression, ast.Name) and expression.id in meaning):
            break
        expression = meaning[expression.id]
    return expression


def _reads_others(query: ast.expr, key: ast.expr, value: ast.expr) -> bool:
    """Certain where keys and values are of one kind, and queries have nothing of them; or only some of them."""
    if not (_same(key, value) or _names(key) & _names(value)):
        return False
    some = any(isinstance(node, ast.Subscript) and _same(node.value, value) for node in ast.walk(query))
    return some or not _names(query) & (_names(key) | _names(value))


def _values_apart(query: ast.expr, key: ast.expr, value: ast.expr) -> bool:
    """Certain where both are made of the same, and one of them in another way."""
    return not _same(key, value) and bool(_names(key) & _names(value))


def _same(one: ast.expr, other: ast.expr) -> bool:
    return ast.dump(one) == ast.dump(other)


def _names(expression: ast.expr) -> set[str]:
    """Names of what it is made of; a module's own parameters by their names in it, its layers not."""
    called = {id(node.func) for node in ast.walk(expression) if isinstance(node, ast.Call)}
    plain = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name) and id(node) not in called and node.id != "self"}
    own = {f"self.{node.attr}" for node in ast.walk(expression) if isinstance(node, ast.Attribute) and id(node) not in called and _is_name(node.value, "self")}
    return plain | own


def _is_name(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Name) and expression.id == name
