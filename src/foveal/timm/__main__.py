"""``python -m foveal.timm [NAME …]``: parameters and multiply-adds of the registered networks beside what their papers say, as a Markdown table."""

import sys

from .._errors import InputError
from . import PUBLISHED
from ._table import HEADER, rows


def main(names: list[str]) -> int:
    try:
        for name in names:
            PUBLISHED[name]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for line in (HEADER, ["---"] * len(HEADER), *rows(names or None)):
        print("| " + " | ".join(line) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
