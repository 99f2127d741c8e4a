"""``foveal list``."""

from rich.console import Console
from rich.table import Table

from ._base import Nothing, parse

__all__ = ["list_everything"]


def list_everything(words: list[str]) -> None:
    """Attentions, recipes, and kinds of official checkpoints."""
    parse(Nothing, "list", words)
    from ..attention import FAMILIES, attention_class, list_attentions
    from ..official import list_kinds
    from ..recipes import list_recipes

    console = Console()
    table = Table("attention", "on", "family", "how tokens meet", title="Attentions: foveal.create_attention(NAME, …)", title_justify="left")
    for name in list_attentions():
        cls = attention_class(name)
        table.add_row(name, cls.form, cls.family, FAMILIES[cls.family])
    console.print(table)
    table = Table("recipe", "what it trains", title="Recipes: foveal train NAME", title_justify="left")
    for name, about in list_recipes().items():
        table.add_row(name, about)
    console.print(table)
    console.print("Official checkpoints, foveal.official.load(KIND, …): " + ", ".join(list_kinds()))
