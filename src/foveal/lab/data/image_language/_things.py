"""What scenes are composed of: cut-out photographs with names and classes, or handwritten digits in color, which need nothing fetched."""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._bundle import seed_of
from ..cutouts import CLASSES, _read, split_cutouts
from ..digits import load_digits

__all__ = ["Source", "Thing", "Things", "load_things", "tokens_of", "with_article"]

Source = Literal["stamps", "digits"]
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_COLORS = {"red": (0.95, 0.25, 0.2), "green": (0.3, 0.85, 0.35), "blue": (0.3, 0.55, 1.0), "yellow": (0.95, 0.85, 0.2)}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PER_DIGIT = {"known": 12, "unseen": 4}
_LONGEST_NAME = 5


def tokens_of(text: str) -> list[str]:
    """Words in lower case, punctuation dropped."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@dataclass(frozen=True)
class Thing:
    """One picture of a thing."""

    label: int
    """Of its class."""
    name: str
    """A noun phrase with its article."""
    read: Any
    """Makes its pixels, color and alpha, ``(4, h, w)`` from 0 to 1, of a longer side that is given."""
    mirrors: bool
    """Whether it is the same thing mirrored."""


@dataclass(frozen=True)
class Things:
    """Known things, and others of the same classes that are kept for tests."""

    classes: list[str]
    known: list[Thing]
    unseen: list[Thing]
    notes: list[str]
    files: list[Path]

    def class_of_word(self) -> tuple[dict[str, int], list[str]]:
        """The class that a noun names: a class's own word, or the last word of a name; and nouns that things of several classes have, which name none."""
        found: dict[str, set[int]] = defaultdict(set)
        for label, name in enumerate(self.classes):
            found[name].add(label)
        for thing in self.known:
            found[tokens_of(thing.name)[-1]].add(thing.label)
        ambiguous = sorted(word for word, labels in found.items() if len(labels) > 1)
        return {word: next(iter(labels)) for word, labels in found.items() if len(labels) == 1}, ambiguous


def load_things(source: Source, folder: str | None, seed: int) -> Things:
    """Read what things there are; their pictures are read when they are needed.

    Raises:
        ValueError: the cut-outs were not fetched.
    """
    return _stamps(folder, seed) if source == "stamps" else _colored_digits(seed)


def _stamps(folder: str | None, seed: int) -> Things:
    parts, left_out = split_cutouts(folder, seed), 0
    found: dict[str, list[Thing]] = {"known": [], "unseen": []}
    for part, (files, labels) in parts.items():
        for path, label in zip(files, labels, strict=True):
            name = _noun_phrase(path)
            if name is None:
                left_out += 1
                continue
            found["unseen" if part == "test" else "known"].append(Thing(label, name, partial(_read, path), mirrors=True))
    classes = ["instrument" if name == "music" else name for name in CLASSES]
    notes = [
        f"{len(found['known'])} known cut-outs and {len(found['unseen'])} unseen ones; "
        f"{left_out} left out whose sentence is no short noun phrase with an article"
    ]
    return Things(classes, found["known"], found["unseen"], notes, [path for files, _ in parts.values() for path in files])


def _noun_phrase(path: Path) -> str | None:
    """Of a sentence like "A sports car."; None of others."""
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf8").splitlines() if text.exists() else []
    sentence = lines[0].strip() if lines else ""
    words = tokens_of(sentence)
    odd = any(mark in sentence for mark in "!(,") or "." in sentence[:-1]
    return None if odd or not 2 <= len(words) <= _LONGEST_NAME or words[0] not in ("a", "an") else " ".join(words)


def _colored_digits(seed: int) -> Things:
    images, labels = load_digits("digits")
    rng, found = np.random.default_rng(seed_of("colored digits", seed)), dict[str, list[Thing]]()
    drawn = {label: rng.permutation(np.flatnonzero(labels == label)) for label in range(10)}
    first = 0
    for part, count in _PER_DIGIT.items():
        chosen = [(label, int(index)) for label in range(10) for index in drawn[label][first : first + count]]
        colors = [list(_COLORS)[place % len(_COLORS)] for place in range(len(chosen))]
        found[part] = [
            Thing(label, f"a {color} {_DIGITS[label]}", partial(_glyph, images[index], color), mirrors=False)
            for (label, index), color in zip(chosen, colors, strict=True)
        ]
        first += count
    return Things(list(_DIGITS), found["known"], found["unseen"], [], [])


def _glyph(image: Any, color: str, side: int) -> Tensor:
    alpha = torch.nn.functional.interpolate(torch.from_numpy(image.astype(np.float32) / 255)[None, None], size=(side, side), mode="bilinear")[0]
    return torch.cat([torch.tensor(_COLORS[color]).view(3, 1, 1).expand(3, side, side), alpha])
