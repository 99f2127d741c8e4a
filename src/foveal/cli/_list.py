"""``foveal list``."""

from typing import Any

from .._console import console, table
from ._options import Nothing, parse

__all__ = ["list_everything"]


def list_everything(words: list[str]) -> None:
    """Attentions, recipes, and kinds of official checkpoints."""
    parse(Nothing, "list", words)
    from ..attention import FAMILIES, attention_class, list_attentions
    from ..lab.recipes import list_recipes
    from ..official import list_kinds

    shown = console()
    classes = {name: attention_class(name) for name in list_attentions()}
    rows: Any = ((name, cls.form, cls.family, FAMILIES[cls.family]) for name, cls in classes.items())
    head = ("attention", "on", "family", "how tokens meet")
    shown.print(table(head, rows, title="Attentions: foveal.create_attention(NAME, …)", title_justify="left"))
    shown.print(table(("recipe", "what it trains"), list_recipes().items(), title="Recipes: foveal train NAME", title_justify="left"))
    shown.print("Official checkpoints, foveal.official.load(KIND, …): " + ", ".join(list_kinds()))
