"""What was kept of a reading becomes a host again: proven on the module that stands there now, without a run of its model."""

from typing import Any

from torch import nn

from ..._errors import InputError
from .._host import Host
from ._kept import kept_again
from ._read import read_again
from ._sister import sister_again

__all__ = ["recalled"]

_WAYS = {"beside": sister_again, "plan": read_again, "facts": kept_again}
"""By what is kept of each way of reading, the first that is there."""


def recalled(name: str, module: nn.Module, kept: dict[str, Any]) -> Host:
    """As it was when the conversion was saved.

    Args:
        name: of its place.
        module: what stands there.
        kept: see :attr:`foveal.convert._host.Host.reading`.

    Raises:
        ValueError: it does not hold here, or is damaged.
    """
    again = next((way for key, way in _WAYS.items() if key in kept), None)
    if again is None:
        raise InputError(f"what was kept of the structure of {name} is damaged, or was written by another version ({', '.join(kept) or 'nothing'} in it)")
    found = again(module, kept)
    if isinstance(found, str):
        raise InputError(
            f"{name} ({type(module).__name__}) does not compute what was read of it when the conversion was saved: {found}; build the model as it was then, "
            "with the version of its library that it had"
        )
    return found
