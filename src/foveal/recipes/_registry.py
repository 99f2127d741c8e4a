"""Names of recipes: those of their functions."""

from collections.abc import Callable

from .._errors import unknown
from ..training import Recipe

__all__ = ["get_recipe", "list_recipes", "recipe"]

_RECIPES: dict[str, Callable[[], Recipe]] = {}


def recipe(function: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Enter a function that needs no arguments to make a recipe."""
    _RECIPES[function.__name__.replace("_", "-")] = function
    return function


def list_recipes() -> dict[str, str]:
    """Names, and the first line of what each says of itself."""
    return {name: (function.__doc__ or "").splitlines()[0] for name, function in sorted(_RECIPES.items())}


def get_recipe(name: str) -> Recipe:
    """The recipe behind a name; underscores and hyphens are the same.

    Raises:
        ValueError: the name is unknown; the message lists near matches.
    """
    name = name.replace("_", "-")
    if name not in _RECIPES:
        raise unknown("recipe", name, _RECIPES)
    return _RECIPES[name]()
