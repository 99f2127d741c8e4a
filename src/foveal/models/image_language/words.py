"""What captions that a network is given must be."""

from torch import Tensor

from ..._errors import InputError

__all__ = ["check_words"]


def check_words(captions: Tensor, words: int, length: int) -> None:
    """Refuse captions that are too long, or have a word of another vocabulary.

    Raises:
        ValueError: they are or have.
    """
    if captions.shape[1] > length:
        raise InputError(f"captions have {captions.shape[1]} words and the captioner places for {length}; build it with a larger length")
    # asked on the CPU alone: elsewhere the answer would have to be waited for
    if captions.device.type == "cpu" and captions.numel() and int(captions.max()) >= words:
        raise InputError(f"captions have the word {int(captions.max())}, and the vocabulary has {words} words; give a captioner of the set's vocabulary")
