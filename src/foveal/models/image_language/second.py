"""The second stream, as all hosts here take it: what it is, and the dictionary that it reads."""

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from ..._errors import unknown
from ...attention import CrossSampleDictionary
from ...attention.dictionary import DictionaryInit

__all__ = ["Catt", "Second", "SecondOptions"]

Catt = Literal["none", "dictionary", "in_sample", "skip"]
"""The second stream: ``dictionary`` is CATT's; ``in_sample`` reads the sample once more with weights of its own; ``skip`` reads nothing in self-attention."""


class SecondOptions(TypedDict, total=False):
    """The fields of :class:`Second` as keyword arguments; those that are left out have its defaults."""

    catt: Catt
    dictionary_size: int
    share: bool
    init: DictionaryInit
    trainable: bool


@dataclass(frozen=True)
class Second:
    """Which second stream a host has.

    Raises:
        ValueError: an unknown ``catt``.
    """

    catt: Catt = "none"
    dictionary_size: int = 500
    """K, entries of a dictionary."""
    share: bool = True
    """A dictionary is read with the weights of the sample; of no other second stream."""
    init: DictionaryInit = "normal"
    """How a dictionary starts; ``kmeans`` asks for :func:`foveal.fit_dictionaries_`."""
    trainable: bool = True
    """Dictionaries are trained; else they stay as they started, which with ``normal`` is a control."""

    def __post_init__(self) -> None:
        if self.catt not in get_args(Catt):
            raise unknown("second stream (catt)", self.catt, get_args(Catt))

    @property
    def unshared(self) -> bool:
        """Whether it reads a dictionary, or the sample again, with weights of its own. One set of weights would read the sample once."""
        return self.catt == "in_sample" or (self.catt == "dictionary" and not self.share)

    def dictionary(self, dim: int) -> CrossSampleDictionary | None:
        """Of tokens of width ``dim``, where there is one."""
        if self.catt != "dictionary":
            return None
        return CrossSampleDictionary(self.dictionary_size, dim, init=self.init, trainable=self.trainable)
