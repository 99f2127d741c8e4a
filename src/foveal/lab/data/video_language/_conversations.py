"""Conversations about videos, in the JSON of rjccv/DnA ``viscop/``: read and checked, all before a video is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...._errors import InputError
from .._foreign import read_json

__all__ = ["PLACE", "Conversation", "read_conversations"]

PLACE = "<video>"
"""Stands in a first question for the video."""


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about one video."""

    id: str
    video: Path
    turns: tuple[tuple[str, str], ...]
    """Question and answer, in turn."""


def read_conversations(path: Path, root: Path) -> list[Conversation]:
    """A file like ``[{"id": …, "video": ["a.mp4"], "conversations": [{"from": "human", "value": "<video>\\n…"}, {"from": "gpt", "value": …}]}]``.

    Args:
        path: of the file.
        root: the folder that paths of videos begin in.

    Raises:
        ValueError: there is no such file, or it is none; an entry lacks a field, has no answer or several videos; its first question has no place for the
            video; a video is not there. The message names the entry.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; expected the JSON of conversations about videos")
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of conversations, at least one, got {type(entries).__name__} {repr(entries)[:60]}")
    found, names = [_read(entry, f"{path}, entry {number}", root) for number, entry in enumerate(entries)], set[str]()
    for one in found:
        if one.id in names:
            raise InputError(f"{path}: two conversations are {one.id}; give each an id of its own")
        names.add(one.id)
    return found


def _read(entry: Any, where: str, root: Path) -> Conversation:
    if not isinstance(entry, dict) or not {"id", "video", "conversations"} <= set(entry):
        got = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise InputError(f"{where}: expected id, video and conversations, got {got}")
    where = f"{where} ({entry['id']})"
    videos = entry["video"] if isinstance(entry["video"], list) else [entry["video"]]
    if len(videos) != 1 or not isinstance(videos[0], str) or not videos[0]:
        raise InputError(f"{where}: expected one video, as a path, got {entry['video']!r}")
    turns = _turns(entry["conversations"], where)
    if turns[0][0].count(PLACE) != 1 or any(PLACE in text for turn in turns for text in turn[1:]) or any(PLACE in turn[0] for turn in turns[1:]):
        raise InputError(f"{where}: expected {PLACE} once, in the first question, got {turns[0][0][:60]!r}")
    video = root / videos[0]
    if not video.exists():
        raise InputError(f"{where}: its video {video} does not exist; give the folder that paths begin in as --data.root")
    return Conversation(str(entry["id"]), video, turns)


def _turns(said: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(said, list) or len(said) < 2 or len(said) % 2:
        count = f"{len(said)} of them" if isinstance(said, list) else type(said).__name__
        raise InputError(f"{where}: expected questions and answers in turn, got {count}")
    for number, part in enumerate(said):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(part, dict) or part.get("from") != speaker or not isinstance(part.get("value"), str) or not part["value"].strip():
            raise InputError(f"{where}, turn {number}: expected words from {speaker}, got {repr(part)[:80]}")
    return tuple((said[at]["value"], said[at + 1]["value"]) for at in range(0, len(said), 2))
