"""Files that are read are damaged: each is refused by one line that names it, or left out and named; nothing runs, nothing is deleted, nothing hangs."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foveal import InputError

from .campaign import Size, Trial, campaign
from .damage import DAMAGES
from .forks import Child
from .formats import FORMATS, Read

__all__ = ["files"]

SHORT = ("images, unchecked", "CIFAR-10's pickles", "ModelNet40, text")
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "socket.bind"}
"""What no file may bring about. FFmpeg is linked in and starts no process."""
GONE = {"os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.move"}
SHORTER = {".txt", ".csv", ".tsv"}
"""Lists by line: half of one is a shorter list if it ends in a line's middle that happens to be whole."""


class Evil:
    """Leaves a mark when it is unpickled by whoever lets it."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@campaign
def files(work: Path, size: Size) -> Iterator[Trial]:
    """Every format of data, damaged in eleven ways, a folder or a link to nothing in its place, and a pickle that would run a command."""
    for name in SHORT if size.short else FORMATS:
        place = work / name.replace(" ", "-").replace(",", "")
        place.mkdir(parents=True)
        found = place / "found.jsonl"
        child = Child(lambda name=name, place=place, found=found: _tried(name, place, found), place / "log")  # type: ignore[misc]
        code = child.wait(600)
        rows = [json.loads(line) for line in found.read_text(encoding="utf8").splitlines()] if found.exists() else []
        for what, fault, counted in rows:
            yield Trial(f"data: {name}", what, fault, counted)
        if code != 0:
            yield Trial(f"data: {name}", f"behind {rows[-1][0] if rows else 'the start'}", f"the process ended with {code}: {child.said()[-600:]}")
        shutil.rmtree(place)


def _tried(name: str, place: Path, found: Path) -> int:
    form, seen = FORMATS[name], list[str]()
    source = place / "whole"
    # which must be read before anything can be said of a damaged one
    baseline = list(form.make(source)())
    _watch(seen, place)
    with found.open("w", encoding="utf8") as out:
        for pattern in form.victims:
            fitting = sorted(source.glob(pattern))
            if not fitting:
                print(json.dumps([pattern, "there is no such file to damage", ""]), file=out, flush=True)
                continue
            victim = fitting[0].relative_to(source)
            for damage in (*DAMAGES, "a folder", "a link to nothing", "a pickle of a command"):
                what, fault, counted = _one(form.make, place / "set", victim, damage, seen, baseline, form.whole)
                print(json.dumps([f"{victim}, {what}", fault, counted]), file=out, flush=True)
    return 0


def _one(make: Any, root: Path, victim: Path, damage: str, seen: list[str], baseline: list[str], whole: tuple[str, ...]) -> tuple[str, str, str]:
    shutil.rmtree(root, ignore_errors=True)
    read, path, mark = make(root), root / victim, root.with_name("PWNED")
    # where files are found by looking, what is no file is not there
    certain = damage != "a folder"
    if damage in DAMAGES:
        certain = DAMAGES[damage].certain and damage not in whole
        content = path.read_bytes()
        changed = DAMAGES[damage].change(content)
        if changed == content:
            return damage, "", "no change"
        path.write_bytes(changed)
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage == "a link to nothing":
            path.symlink_to(path.with_name("nothing"))
        else:
            path.write_bytes(pickle.dumps({"data": Evil(str(mark))}, protocol=2))
    before = {str(one): (one.lstat().st_size, one.lstat().st_mtime_ns) for one in root.rglob("*")}
    seen.clear()
    fault, counted = judged(read, path, certain and not (damage == "half" and path.suffix in SHORTER), baseline)
    if {str(one): (one.lstat().st_size, one.lstat().st_mtime_ns) for one in root.rglob("*")} != before:
        fault = fault or "files of the set were changed"
    if mark.exists() or seen:
        fault = f"it ran or reached out: {seen[:3]}"
    return damage, fault, counted


def judged(read: Read, path: Path, certain: bool, baseline: Sequence[str] = ()) -> tuple[str, str]:
    """What is wrong with how a file was taken, empty if nothing, and what that counts as."""
    try:
        notes = list(read())
    except InputError as error:
        said = str(error)
        if "\n" in said:
            return f"more than one line: {said[:300]!r}", ""
        if path.name not in said and str(path.relative_to(path.parents[1])) not in said:
            return f"it does not name the file: {said[:300]}", ""
        return "", "refused"
    except Exception as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in where if "/foveal/" in frame.filename]
        return f"{type(error).__name__}: {str(error)[:200]} at {ours[-1:]}", ""
    new = [note for note in notes if note not in baseline]
    if any(path.name in note for note in new):
        return "", "left out and named"
    if any("passed over" in note or "left out" in note for note in new):
        return "", "left out and counted"
    if certain:
        return f"it was read as if it were whole; notes: {notes[:3]}"[:400], ""
    return "", "read: no reader could tell"


def _watch(seen: list[str], place: Path) -> None:
    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            seen.append(f"{event} {arguments[:2]}"[:200])
        # the campaign clears its own folders away by these, outside of a trial
        elif event in GONE and str(arguments[0]).startswith(str(place / "set")) and not _own(sys._getframe(1)):
            seen.append(f"{event} {arguments[0]}"[:200])

    sys.addaudithook(audit)


def _own(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == __file__ and frame.f_code.co_name == "_one":
            # a reader is called from judged(), which stands between
            return True
        if frame.f_code.co_name == "judged":
            return False
        frame = frame.f_back
    return True
