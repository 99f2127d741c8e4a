"""All rows, by library."""

from collections.abc import Callable, Iterable

from tests.sweep import of_others, of_timm, of_torchvision, of_transformers
from tests.sweep.rows import Row

__all__ = ["LIBRARIES", "all_rows"]

LIBRARIES: dict[str, Callable[[], list[Row]]] = {
    "timm": of_timm.rows,
    "torchvision": of_torchvision.rows,
    "others": of_others.rows,
    "transformers": of_transformers.rows,
}


def all_rows(libraries: Iterable[str]) -> list[Row]:
    return [row for library in libraries for row in LIBRARIES[library]()]
