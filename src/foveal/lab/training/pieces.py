"""Checkpoints of runs that lie in pieces: each process writes and reads its own, through PyTorch's distributed checkpoint.

In safetensors, which cannot hold code: the distributed checkpoint's own form keeps its index as a pickle. What does not lie in pieces (buffers, counts of
steps) is in ``state.pt``. Any number of processes may go on from it, one that trains whole among them.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

__all__ = ["SHARD", "Pieces", "in_pieces", "is_of_pieces", "optimizer_by_name", "own_part", "place_optimizer_", "read_optimizer_", "read_whole", "whole_parts"]

SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""What a process writes, by PyTorch's naming."""
_MODEL, _OPTIMIZER = "model.", "optimizer."

Moments = dict[str, dict[str, Any]]
"""Of a parameter by its name, what the optimizer keeps, by key."""


def in_pieces(value: Any) -> bool:
    """Whether a weight lies in pieces: it is a DTensor, which is not imported to be asked for."""
    return hasattr(value, "full_tensor")


def own_part(value: Tensor) -> Tensor:
    """What of a weight lies in this process: all of it, where it is not in pieces."""
    return value.to_local() if in_pieces(value) else value  # type: ignore[attr-defined]


def is_of_pieces(files: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with these files was written in pieces."""
    return any(SHARD.fullmatch(name) for name in files)


class Pieces:
    """What the processes write together. The first leads: it says where to, as often as it tries, and when it has ended.

    Args:
        model: the network, in pieces.
        moments: of its optimizer.
    """

    def __init__(self, model: nn.Module, moments: Moments) -> None:
        named = {f"{_MODEL}{name}": value.detach() for name, value in model.named_parameters()}
        named |= {f"{_OPTIMIZER}{name}/{key}": value for name, kept in moments.items() for key, value in kept.items()}
        self._tensors = {name: value for name, value in named.items() if in_pieces(value)}

    @contextmanager
    def leading(self) -> Iterator[None]:
        """In the first process, around all its tries, however they end."""
        try:
            yield
        finally:
            _told("")

    def write(self, folder: Path) -> None:
        """In the first process.

        Raises:
            OSError: any process was refused, by its disk or otherwise.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        _told(str(folder))
        try:
            self._save(folder)
        except CheckpointException as error:
            refused = [found for found, _ in error.failures.values() if isinstance(found, OSError)]
            if not refused:
                raise RuntimeError(f"a process could not write its piece of {folder}: {next(iter(error.failures.values()))[0]!r}") from error
            raise refused[0] from error

    def follow(self) -> None:
        """In the others: write where the first says, until it has ended, with success or without, of which it tells itself."""
        from torch.distributed.checkpoint.api import CheckpointException

        while folder := _told(None):
            with suppress(CheckpointException):
                self._save(Path(folder))

    def _save(self, folder: Path) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(self._tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _told(word: str | None) -> str:
    said = [word]
    broadcast_object_list(said, from_process=0)
    return said[0] or ""


def whole_parts(model: nn.Module, moments: Moments) -> tuple[dict[str, Tensor], Moments]:
    """What does not lie in pieces, of the network and of the optimizer."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items() if isinstance(value, Tensor) and not in_pieces(value)}
    small = {name: {key: value for key, value in kept.items() if not in_pieces(value)} for name, kept in moments.items()}
    return state, small


def read_whole(folder: Path) -> dict[str, Tensor]:
    """The weights that were written in pieces, whole, whoever asks.

    Raises:
        ValueError: the files are no such pieces.
    """
    reader = _reader(folder)
    found = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in _listed(reader).items() if name.startswith(_MODEL)}
    _load(found, folder, alone=True)
    return {name.removeprefix(_MODEL): value for name, value in found.items()}


def optimizer_by_name(model: nn.Module, optimizer: Any) -> Moments:
    """What the optimizer keeps, by the names of parameters."""
    state = optimizer.state
    return {name: dict(state[value]) for name, value in model.named_parameters() if value in state}


def read_optimizer_(model: nn.Module, optimizer: Any, folder: Path, small: Mapping[str, Mapping[str, Any]]) -> None:
    """The optimizer's state out of pieces, to pieces as they lie now or to whole weights. All processes call this.

    Args:
        model: the network, prepared.
        optimizer: of its parameters, without a state.
        folder: of the checkpoint.
        small: what of the state was not in pieces.

    Raises:
        ValueError: it is of another network.
    """
    named, listed = dict(model.named_parameters()), _listed(_reader(folder))
    kept = {name: dict(values) for name, values in small.items()}
    targets: dict[str, Tensor] = {}
    for full, about in listed.items():
        if not full.startswith(_OPTIMIZER):
            continue
        name, _, key = full.removeprefix(_OPTIMIZER).rpartition("/")
        if name not in named or about.size != named[name].shape:
            raise ValueError(f"{key} of the optimizer is {tuple(about.size)} for {name}, which is {tuple(named[name].shape) if name in named else 'not there'}")
        targets[full] = torch.empty_like(named[name].detach(), dtype=about.properties.dtype)
        kept.setdefault(name, {})[key] = targets[full]
    _load(targets, folder, alone=not any(in_pieces(value) for value in targets.values()))
    _put(named, optimizer, kept)


def place_optimizer_(model: nn.Module, optimizer: Any, saved: Sequence[Mapping[str, Any] | None]) -> None:
    """The optimizer's state out of a checkpoint that was written whole, to pieces.

    Args:
        model: the network, in pieces.
        optimizer: of its parameters, without a state.
        saved: of each parameter, in the order of the optimizer's groups.

    Raises:
        ValueError: it is of another network.
    """
    from torch.distributed.tensor import distribute_tensor

    names = {id(value): name for name, value in model.named_parameters()}
    owned = [value for group in optimizer.param_groups for value in group["params"]]
    if len(saved) != len(owned):
        raise ValueError(f"the optimizer's state is of {len(saved)} parameters, the run has {len(owned)}")
    kept: Moments = {}
    for parameter, state in zip(owned, saved, strict=True):
        for key, value in (state or {}).items():
            if isinstance(value, Tensor) and value.ndim:
                if value.shape != parameter.shape:
                    raise ValueError(f"{key} of the optimizer is {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
                # every process has read all of it, and keeps its own piece
                value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
            kept.setdefault(names[id(parameter)], {})[key] = value
    _put(dict(model.named_parameters()), optimizer, kept)


def _put(named: Mapping[str, nn.Parameter], optimizer: Any, kept: Moments) -> None:
    names = {id(value): name for name, value in named.items()}
    for group in optimizer.param_groups:
        counts_on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            for key, value in kept.get(names[id(parameter)], {}).items():
                if isinstance(value, Tensor) and not value.ndim:
                    value = value.to(parameter.device if counts_on_device else "cpu", copy=True)
                optimizer.state[parameter][key] = value


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    return HuggingFaceStorageReader(str(folder))


def _listed(reader: Any) -> dict[str, Any]:
    try:
        return dict(reader.read_metadata().state_dict_metadata)
    except Exception as error:
        # safetensors has errors of its own, and foreign headers make KeyError and TypeError
        raise ValueError(f"it holds no pieces of a network ({error!r})") from error


def _load(targets: dict[str, Tensor], folder: Path, *, alone: bool) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    if not targets:
        return
    try:
        with warnings.catch_warnings():
            # of a process that reads for itself, as it should
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            dcp.load(targets, storage_reader=_reader(folder), no_dist=alone)
    except CheckpointException as error:
        raise ValueError(f"its pieces cannot be read ({next(iter(error.failures.values()))[0]!r})") from error
