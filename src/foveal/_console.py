"""The last metre of output: what is printed is printed, whatever a name holds and wherever it goes.

Names of classes, files and attentions are other people's text. They are shown letter by letter: no markup of rich, no emoji, no control characters, and
bytes that are no UTF-8 as escapes. A reader that went away (``| head``) ends the printing and not the work.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ._errors import missing_extra

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Output", "console", "lasting_output", "plain", "table"]

_CONTROLS = {
    **{code: f"\\x{code:02x}" for code in (*range(32), 127, *range(0x80, 0xA0))},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
"""What moves the cursor, colors a terminal or turns the order of letters around, so that a name reads as another. A line break has no place in one either."""


def plain(text: str) -> str:
    """Text of other people's on one line: control characters as escapes, as ``\\x1b``."""
    return text.translate(_CONTROLS)


def console(**options: Any) -> "Console":
    """A console that prints what it is given: brackets are brackets and ``:dog:`` is five letters.

    Raises:
        ValueError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise missing_extra("rich", "train", "printing tables") from error
    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def table(head: Sequence[str], rows: Iterable[Sequence[str]], **options: Any) -> "Table":
    """A table of plain text for :func:`console`; ``options`` are those of rich's ``Table``."""
    from rich.table import Table
    from rich.text import Text

    made = Table(**options)
    for title in head:
        made.add_column(Text(plain(title)))
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


class Output:
    """What became of it."""

    failed: OSError | None = None
    """Why it could not be written, such as a full disk. A reader that went away is no failure."""


class _Lasting:
    """A stream that is dropped once nobody takes it: its reader went away, or the disk is full."""

    def __init__(self, stream: TextIO, output: Output) -> None:
        self._stream, self._output = stream, output

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self._output.failed = error
        # what the stream still holds is flushed again when Python ends, and must find somebody who takes it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[Output]:
    """Inside, standard output and error take every text and outlive their readers."""
    before, output = (sys.stdout, sys.stderr), Output()
    for stream in before:
        encoding, errors = str(getattr(stream, "encoding", "")).lower().replace("-", ""), getattr(stream, "errors", "")
        # with surrogateescape in UTF-8 the bytes of a name go out as they came in; anything else would refuse some name
        if errors != "backslashreplace" and not (encoding == "utf8" and errors == "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # a standard stream that the caller closed is None, and print takes that
    sys.stdout, sys.stderr = (stream if stream is None else _Lasting(stream, output) for stream in before)
    try:
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
