"""``foveal list``."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated

import tyro

from .._errors import InputError
from ._entries import Entry, entry_lines, fits, terminal_width
from ._options import parse, plain_words

__all__ = ["list_everything"]


@dataclass(frozen=True)
class _List:
    """Attentions, recipes, official checkpoints and published networks: all names, or those that fit, with what they are."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[WORD …]")] = ()
    """One of attentions, recipes, checkpoints, models to see these alone; other words must each be in the name, the group or the description. * and ? make a
    pattern of a name."""


def list_everything(words: list[str]) -> None:
    """Names that can be given elsewhere, as wide as the terminal.

    Raises:
        ValueError: nothing fits the words.
    """
    asked: tuple[str, ...] = parse(_List, "list", words).words
    kinds = [word for word in asked if word in _KINDS]
    sought = [word for word in asked if word not in _KINDS]
    width = terminal_width()
    # timm's networks take longest to import and are longest to read: they come where they are named
    read = {kind: list(_KINDS[kind][1]()) for kind in kinds or ("attentions", "recipes", "checkpoints")}
    found = {kind: [entry for entry in entries if all(fits(entry, word) for word in sought)] for kind, entries in read.items()}
    if not any(found.values()):
        raise _nothing(sought, kinds, read)
    for kind, entries in found.items():
        if entries:
            print("\n".join(entry_lines(_KINDS[kind][0], entries, width, full=bool(asked))))
    if not asked:
        print(textwrap.fill("What they are: foveal list recipes, foveal list WORD, foveal list 'coco-*'. Networks: foveal list models.", width))


def _nothing(sought: Sequence[str], kinds: Sequence[str], read: dict[str, list[Entry]]) -> InputError:
    names = [entry.name for entries in read.values() for entry in entries] + list(_KINDS)
    near = [name for word in sought for name in get_close_matches(word, names, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    where = " or ".join(kinds) if kinds else "attentions, recipes or checkpoints (models are asked with foveal list models WORD)"
    return InputError(f"nothing among {where} has {' and '.join(map(repr, sought))} in its name or description; {hint}foveal list shows all names")


def _attentions() -> Iterator[Entry]:
    from ..attention import FAMILIES, attention_class, list_attentions

    takes = {"tokens": "tokens", "2d": "feature maps"}
    for family, meeting in FAMILIES.items():
        for name in list_attentions(family=family):  # type: ignore[arg-type]
            cls = attention_class(name)
            about = plain_words((cls.__doc__ or "").strip().partition("\n\n")[0]).partition(". ")[0].rstrip(".")
            yield Entry(name, f"{family}: {meeting}", f"{about}; on {takes[cls.form]}.")


def _recipes() -> Iterator[Entry]:
    from ..lab.recipes import get_recipe, list_recipes

    entries = [Entry(name, _spaced(type(get_recipe(name).task).__name__), about) for name, about in list_recipes().items()]
    return iter(sorted(entries, key=lambda entry: entry.group))


def _spaced(name: str) -> str:
    """``VideoClassification`` in words."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _checkpoints() -> Iterator[Entry]:
    from ..official import list_kinds

    return (Entry(name, name.partition(".")[0], "") for name in list_kinds())


def _models() -> Iterator[Entry]:
    from ..timm import PUBLISHED

    for name in sorted(PUBLISHED):
        published = PUBLISHED[name]
        result = f"; {published.result} (the source's, not reproduced)" if published.result else ""
        yield Entry(name, "", f"{published.source}{result}.")


_KINDS = {
    "attentions": ("Attentions: foveal.create_attention(NAME, …)", _attentions),
    "recipes": ("Recipes: foveal train NAME", _recipes),
    "checkpoints": ("Official checkpoints: foveal.official.load(KIND, …)", _checkpoints),
    "models": ("Published networks: import foveal.timm; timm.create_model(NAME)", _models),
}
