"""Reads of a tensor's value by the host. On an accelerator each waits until the device has done all that it was given, and none belongs in a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HostRead", "no_host_reads"]

_ATEN = torch.ops.aten
_READS = {
    _ATEN._local_scalar_dense.default: "item, bool, int or float",
    _ATEN.nonzero.default: "nonzero",
    _ATEN.masked_select.default: "masked_select",
    _ATEN.equal.default: "equal",
    _ATEN.allclose.default: "allclose",
    _ATEN._unique2.default: "unique",
    _ATEN.unique_dim.default: "unique",
    _ATEN.unique_consecutive.default: "unique_consecutive",
    _ATEN.repeat_interleave.Tensor: "repeat_interleave by a tensor without output_size",
    _ATEN.bincount.default: "bincount",
}
"""Operators whose outcome, or its size, the host must know. A size that is given is none that it waits for."""
# these read memory without an operator, so that no dispatch sees them
_METHODS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.__bool__: "bool", Tensor.__array__: "numpy", Tensor.cpu: "cpu"}
# numbers of the host that become a tensor on a device are a copy that waits
_COPIES = {torch.tensor: "torch.tensor", torch.as_tensor: "torch.as_tensor", torch.asarray: "torch.asarray"}
# with a given number of classes it looks at values on the processor alone
_LOOKS_ON_THE_PROCESSOR = {torch.nn.functional.one_hot}


class HostRead(AssertionError):
    """The host read a tensor's value where it should not."""


class _Operators(TorchDispatchMode):
    watching = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        what = _READS.get(function)
        if function is _ATEN.repeat_interleave.Tensor and options.get("output_size") is not None:
            what = None
        if function in (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default):
            masks = [one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)]
            # a number that is put where a mask says is no more than a where
            filled = function is not _ATEN.index.Tensor and args[2].numel() == 1
            what = "indexing by a mask" if masks and not filled else None
        if what is not None and self.watching:
            raise HostRead(f"the host reads a value in {what}")
        return function(*args, **options)


class _Methods(TorchFunctionMode):
    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self.operators = operators

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function in _METHODS:
            raise HostRead(f"the host reads a value in {_METHODS[function]}")
        if function is Tensor.new_tensor and not isinstance((*args[1:], *options.values())[0], Tensor):
            raise HostRead("numbers of the host are copied to the device in new_tensor")
        if function is Tensor.__setitem__ and isinstance(args[2], Tensor) and _has_mask(args[1]):
            # a number of the host would be filled in; a tensor's place there is looked up, also that of a single number
            raise HostRead("the host reads a value in indexing by a mask")
        if function in _COPIES and not isinstance((*args, *options.values())[0], Tensor):
            raise HostRead(f"numbers of the host are copied to the device in {_COPIES[function]}")
        if function in _LOOKS_ON_THE_PROCESSOR and (args[1:2] or (options.get("num_classes", -1),))[0] > 0:
            self.operators.watching = False
            try:
                return function(*args, **options)
            finally:
                self.operators.watching = True
        return function(*args, **options)


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in parts)


@contextmanager
def no_host_reads(device: torch.device | str = "cpu") -> Iterator[None]:
    """Whatever in this block makes the host read a tensor raises. On CUDA PyTorch itself watches; elsewhere operators and methods that would wait are known
    by name, so that a computer without an accelerator tells as much.

    Raises:
        HostRead: a value is read (``RuntimeError`` of PyTorch's on CUDA).
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return
    operators = _Operators()
    with _Methods(operators), operators:
        yield
