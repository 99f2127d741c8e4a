"""Files of weights: read without running what may be in them, and given to a network whole or not at all."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ._errors import InputError, missing_extra
from ._files import replace_file

__all__ = ["fill", "misfits", "read_saved", "read_stamped", "read_weights", "write_stamped"]

_SHOWN = 6
"""Problems that an error lists."""
_LONGEST = 1000
"""Characters of an error of PyTorch's, which lists every tensor."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: the file is missing or is no safetensors file; safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise missing_extra("safetensors", "train", "reading weights") from error
    try:
        return load_file(path)
    except (OSError, SafetensorError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # besides its own error the reader raises what it comes upon, such as a type of numbers that PyTorch has not
        raise _unreadable(path, error) from error


def write_stamped(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], purpose: str) -> None:
    """A safetensors file that says what it is, put in place whole. A tensor that is stored under two names is written once a name: the file has no sharing.

    Raises:
        MissingExtra: safetensors is not installed; ``purpose`` says what needs it.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise missing_extra("safetensors", "train", purpose) from error
    replace_file(path, save({name: value.detach().clone().contiguous().cpu() for name, value in tensors.items()}, metadata=dict(metadata)))


def read_stamped(path: Path, form: str, *, made_by: str, otherwise: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What such a file says of itself, and its tensors.

    Args:
        path: of the file.
        form: what it must say under ``format``.
        made_by: what writes such files.
        otherwise: what one of another format is not, as ``is no delta``.

    Raises:
        ValueError: there is no file, it is damaged or of another format.
        MissingExtra: safetensors is not installed.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise missing_extra("safetensors", "train", f"reading what {made_by} wrote") from error
    if not path.is_file():
        raise InputError(f"{path} is no file; expected what {made_by} wrote")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{path} is no safetensors file, or is damaged: {error}") from None
    if metadata.get("format") != form:
        raise InputError(f"{path} {otherwise}: expected the format {form!r}, got {metadata.get('format')!r}")
    return metadata, tensors


def read_saved(path: Path) -> Any:
    """What a file holds: tensors by name if its suffix is ``.safetensors``, otherwise whatever ``torch.save`` put there, which may be more, or something else.

    Raises:
        ValueError: the file is missing, is damaged, or wants code to run; safetensors is not installed.
    """
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        with warnings.catch_warnings():
            # about how it was pickled, in the way of what is wrong with it
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # its own text advises to let the code run
        raise InputError(f"cannot read weights from {path}: it is no file of tensors, or wants code to run, of which none was run") from error
    except Exception as error:
        # a damaged pickle raises whatever it comes upon: UnicodeDecodeError, IndexError, struct.error
        raise _unreadable(path, error) from error


def fill(net: nn.Module, weights: Mapping[str, Tensor], path: Path, same: str) -> None:
    """Give a network the weights to start from that were read from a file.

    Args:
        net: the network.
        weights: every one of its tensors, and no other.
        path: of the file, for the message.
        same: what has to be the same here and there, as "sizes must be those of its run".

    Raises:
        ValueError: the weights are another network's.
    """
    wanted = net.state_dict()
    # copied into the network, whole numbers and the parts of complex ones would pass for weights
    other = [
        name for name, value in weights.items() if isinstance(value, Tensor) and isinstance(wanted.get(name), Tensor) and _kind(value) != _kind(wanted[name])
    ]
    if other:
        raise InputError(f"{path} holds {weights[other[0]].dtype} as {other[0]}, where {wanted[other[0]].dtype} belongs; take the file from a copy")
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise InputError(f"{path} holds weights of another network; {same}: {said[:_LONGEST] + ' …' * (len(said) > _LONGEST)}") from error


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def misfits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What keeps weights from being those that are wanted, the first few of it: names that are missing or left over, shapes that differ. Empty if they fit."""
    problems = [f"missing {key}" for key in wanted if key not in weights] + [f"left over {key}" for key in weights if key not in wanted]
    common = [(key, tuple(weights[key].shape), tuple(value.shape)) for key, value in wanted.items() if key in weights]
    problems += [f"{key} is {got}, wanted {shape}" for key, got, shape in common if got != shape]
    return "; ".join(problems[:_SHOWN]) + (" …" if len(problems) > _SHOWN else "")


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot read weights from {path}: {' '.join(str(error).split())[:_LONGEST] or type(error).__name__}")
