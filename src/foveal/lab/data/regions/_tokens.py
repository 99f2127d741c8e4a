"""Sentences as pieces of words, by a tokenizer of transformers."""

from collections.abc import Sequence
from typing import Any

from ...._errors import InputError, missing_extra

__all__ = ["pieces_of", "tokenizer_of"]


def tokenizer_of(base: str) -> Any:
    """Of a folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: there is none.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "hf", "questions in words") from error
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer could be read at {base}: {str(error).splitlines()[0]}; give its folder as --data.base") from None


def pieces_of(tokenizer: Any, texts: Sequence[str], most: int, split: str) -> tuple[list[list[int]], list[str]]:
    """Numbers of the pieces of each sentence, at most so many with what begins and ends it; and a note of how many were cut off, if any."""
    words = [list(ids) for ids in tokenizer(list(texts))["input_ids"]]
    cut = sum(len(ids) > most for ids in words)
    notes = [f"{cut} of {len(words)} sentences of {split} are longer than {most} pieces of words and were cut off"] if cut else []
    # the last piece is what ends a sentence
    return [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in words], notes
