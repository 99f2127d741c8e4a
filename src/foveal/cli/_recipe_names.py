"""Names of recipes for a help text: read off their files, since to import them takes torch and all that trains, which is seconds."""

import ast
from importlib.resources import files

from .._extensions import named_extensions

__all__ = ["recipe_names"]


def recipe_names() -> dict[str, str]:
    """As :func:`foveal.lab.recipes.list_recipes`; where the user named modules, which may register recipes of their own, it is asked."""
    if named_extensions():
        from ..lab.recipes import list_recipes

        return list_recipes()
    found: dict[str, str] = {}
    for file in files("foveal").joinpath("lab", "recipes").iterdir():
        if not file.name.endswith(".py"):
            continue
        for node in ast.parse(file.read_text(encoding="utf8")).body:
            if isinstance(node, ast.FunctionDef) and any(isinstance(mark, ast.Name) and mark.id == "recipe" for mark in node.decorator_list):
                found[node.name.replace("_", "-")] = (ast.get_docstring(node) or "").splitlines()[0]
    return dict(sorted(found.items()))
