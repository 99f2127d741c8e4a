"""Weights of a finished run as the beginning of another."""

from pathlib import Path

from torch import nn

from ..._errors import InputError
from ..._weights import misfits, read_weights

__all__ = ["begin_with"]


def begin_with(model: nn.Module, run: Path) -> str:
    """Load the weights that a run left, all of them and no others; a note of it.

    Raises:
        ValueError: the folder holds no weights, or those of another network.
    """
    path = run / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{run} holds no model.safetensors; expected the folder of a finished run to begin with")
    state = read_weights(path)
    if problems := misfits(state, model.state_dict()):
        raise InputError(f"{path} holds another network: {problems}; begin with a run of the same model and data")
    model.load_state_dict(state)
    return f"it begins with the weights of {run}"
