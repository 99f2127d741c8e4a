"""Questions and sentences in LXMERT's JSON, read and checked as a whole before a region is.

VQA and GQA   ``[{"img_id": "COCO_train2014_000000458752", "question_id": 458752000, "sent": "What is …?", "label": {"net": 1, "netting": 0.3}}, …]``
NLVR2         ``[{"uid": "nlvr2_train_0", "img0": "train-10171-0-img0", "img1": …, "sent": "…", "label": 0}, …]``
answers       ``{"net": 0, "pitcher": 1, …}``, ``trainval_ans2label.json``
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...._errors import InputError
from .._foreign import read_json

__all__ = ["Question", "read_answers", "read_listed", "read_pairs", "read_questions"]


@dataclass(frozen=True)
class Question:
    """A sentence about images, and what each answer is worth."""

    name: str
    images: tuple[str, ...]
    text: str
    scores: Mapping[int, float]
    """By the number of the answer; all others are worth nothing."""


def read_answers(path: Path) -> list[str]:
    """Answers in the order of their numbers.

    Raises:
        ValueError: no such file; no mapping of answers to numbers from 0 without a gap, each once.
    """
    found = read_listed(path, "answers and their numbers")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: expected answers and their numbers, as in trainval_ans2label.json, got {_short(found)}")
    wrong = [(answer, number) for answer, number in found.items() if isinstance(number, bool) or not isinstance(number, int)]
    if wrong or sorted(found.values()) != list(range(len(found))):
        what = f"{wrong[0][0]!r}: {_short(wrong[0][1])}" if wrong else f"numbers {min(found.values())} to {max(found.values())} of {len(found)} answers"
        raise InputError(f"{path}: expected whole numbers from 0 without a gap, each once, got {what}")
    return sorted(found, key=found.__getitem__)


def read_questions(path: Path, answers: list[str]) -> list[Question]:
    """Of VQA or GQA.

    Args:
        path: of the file.
        answers: all there are.

    Raises:
        ValueError: no such file; an entry lacks a field; a question without letters; a score that is none; an answer that is not among ``answers``; a
            question that is there twice. The message names the entry.
    """
    numbers = {answer: number for number, answer in enumerate(answers)}

    def scores(label: Any, where: str) -> dict[int, float]:
        if not isinstance(label, dict):
            raise InputError(f"{where}: expected label as answers with their scores, such as {{'net': 1, 'netting': 0.3}}, got {_short(label)}")
        for answer, score in label.items():
            if answer not in numbers:
                raise InputError(f"{where}: its answer {answer!r} is none of the {len(answers)} in the file of answers; give the one that belongs to it")
            if isinstance(score, bool) or not isinstance(score, int | float) or not 0 < score <= 1:
                raise InputError(f"{where}: expected a score above 0 and up to 1 for {answer!r}, got {_short(score)}")
        return {numbers[answer]: float(score) for answer, score in label.items()}

    return _read(path, "question_id", ("img_id",), scores)


def read_pairs(path: Path) -> list[Question]:
    """Of NLVR2; answers are false and true.

    Raises:
        ValueError: as :func:`read_questions`; a label that is neither 0 nor 1.
    """

    def scores(label: Any, where: str) -> dict[int, float]:
        if isinstance(label, bool) or label not in (0, 1):
            raise InputError(f"{where}: expected label 0 or 1, got {_short(label)}")
        return {int(label): 1.0}

    return _read(path, "uid", ("img0", "img1"), scores)


def _read(path: Path, id_key: str, image_keys: tuple[str, ...], scores: Callable[[Any, str], dict[int, float]]) -> list[Question]:
    entries = read_listed(path, "a list of questions")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of questions, at least one, got {_short(entries)}")
    wanted, found, names = (id_key, *image_keys, "sent", "label"), [], set[str]()
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not set(wanted) <= set(entry):
            got = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            hint = "; files of tests come without answers, and cannot be judged here" if isinstance(entry, dict) and "label" not in entry else ""
            raise InputError(f"{where}: expected {', '.join(wanted)}, got {got}{hint}")
        name = str(entry[id_key])
        where = f"{where} ({name})"
        if name in names:
            raise InputError(f"{where}: this {id_key} is there a second time; give each question its own")
        names.add(name)
        images = tuple(entry[key] for key in image_keys)
        if not all(isinstance(image, str) and image for image in images):
            raise InputError(f"{where}: expected names of images as {', '.join(image_keys)}, got {_short(images)}")
        text = entry["sent"]
        if not isinstance(text, str) or not any(letter.isalnum() for letter in text):
            raise InputError(f"{where}: expected words as sent, got {_short(text)}")
        found.append(Question(name, images, text.strip(), scores(entry["label"], where)))
    return found


def read_listed(path: Path, what: str) -> Any:
    """What a file of LXMERT's holds, in JSON."""
    if not path.is_file():
        raise InputError(f"{path} is no file; expected {what} in JSON")
    return read_json(path)


def _short(value: Any) -> str:
    return f"{type(value).__name__} {repr(value)[:60]}"
