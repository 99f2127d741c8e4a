"""What happens to files: cut, zeroed, flipped, replaced."""

from collections.abc import Callable
from dataclasses import dataclass

from .campaign import dice

__all__ = ["DAMAGES", "Damage"]


@dataclass(frozen=True)
class Damage:
    change: Callable[[bytes], bytes]
    certain: bool
    """Whether what comes out is no file of its kind any more. A flipped bit of a pixel or of a word is another picture or word, which nobody can see."""


def _flip(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[min(place, len(changed) - 1)] ^= 1 << (place % 8)
    return bytes(changed)


def _noise(content: bytes) -> bytes:
    rng, changed = dice("noise", len(content)), bytearray(content)
    for _ in range(max(1, len(changed) // 50)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


DAMAGES: dict[str, Damage] = {
    "empty": Damage(lambda content: b"", True),
    "half": Damage(lambda content: content[: len(content) // 2], True),
    "all but the last byte": Damage(lambda content: content[:-1], False),
    "zeros": Damage(lambda content: bytes(max(64, len(content))), True),
    "a sentence": Damage(lambda content: b"this is a sentence and nothing else\n", True),
    "every byte once": Damage(lambda content: bytes(range(256)), True),
    "one bit": Damage(lambda content: _flip(content, len(content) // 2), False),
    "one bit of the head": Damage(lambda content: _flip(content, 3), False),
    "noise in a fiftieth": Damage(_noise, False),
    "brackets, 100,000 deep": Damage(lambda content: b"[" * 100_000, True),
    "a web page": Damage(lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n", True),
}
