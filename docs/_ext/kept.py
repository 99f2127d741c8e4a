"""What takes long to compute and is asked by tests and site alike: computed once, kept in ``build``, and anew where the library is another one."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"


@cache
def _library() -> bytes:
    import torch

    found = hashlib.sha256(torch.__version__.encode())
    for path in sorted(path for path in (ROOT / "src" / "foveal").rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.digest()


def sign(*sources: Path) -> str:
    """Of the library, of torch, and of these files; another one where any of them is another one."""
    return hashlib.sha256(_library() + b"".join(path.read_bytes() for path in sources)).hexdigest()
