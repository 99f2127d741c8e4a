"""Linear maps as the attentions use them: some rows of a projection, on the fastest CPU path there is."""

from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .._errors import InputError
from .._fx import leaf
from ._apart import Apart

__all__ = ["check_dtype", "is_plain", "project"]

Layer = TypeVar("Layer", bound=nn.Module)

_CONVOLUTION_PAYS = 2**26
"""Multiply-adds from which oneDNN's packing is repaid; measured by ``benchmarks/projection.py``."""
_ONEDNN = torch.backends.mkldnn.is_available()
"""Asked once: torch.compile cannot ask."""


def is_plain(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Whether calling a layer is what its class says on its weights, and nothing more, so that the weights can be used without calling it.

    Adapters (LoRA), parametrizations and quantized layers are of another class or have a packed weight; hooks of the layer see calls; offloading
    (accelerate) puts another ``forward`` on the layer itself. None of these may be lost. Hooks on all modules at once are not asked for here: counters set
    them, and must count what is computed without them; :func:`project` shows them every call that costs nothing more.
    """
    # exact type: a subclass may have its own forward
    return (
        type(layer) is kind
        and "forward" not in layer.__dict__
        and type(layer.weight) in (nn.Parameter, Tensor)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
    )


@leaf
def project(linear: nn.Module, x: Tensor, rows: slice | None = None) -> Tensor:
    """``linear(x)[..., rows]``, where a plain ``nn.Linear`` computes only those rows.

    A layer that is more than that, see :func:`is_plain`, is called whole.

    Raises:
        ValueError: tokens and weights differ in dtype, outside of autocast.
    """
    if isinstance(linear, Apart):
        return linear(x, rows)
    if not is_plain(linear, nn.Linear) or (rows is None and _has_any_global_hook()):
        out = linear(x)
        return out if rows is None else out[..., rows]
    weight: Tensor = linear.weight
    bias: Tensor | None = linear.bias
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    check_dtype("tokens", x, weight)
    if _through_convolution(x, weight):
        # tokens in a row: in a column oneDNN's gradient of the weights takes twice as long at odd numbers of them
        image = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
        return F.conv2d(image, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


def check_dtype(what: str, x: Tensor, weight: Tensor) -> None:
    """Nothing is converted but by autocast.

    Raises:
        ValueError: input and weights differ in dtype, outside of autocast.
    """
    if x.dtype != weight.dtype and not (torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)):
        raise InputError(f"expected {what} in the dtype of the weights, {weight.dtype}, got {x.dtype}; convert the {what} or the module with .to(dtype)")


def _through_convolution(x: Tensor, weight: Tensor) -> bool:
    """PyTorch sends float32 linear maps to MKL and 1×1 convolutions to oneDNN, which was seen up to twice as fast on AMD CPUs, forward and backward.

    On one thread both go to MKL, and take the same time.

    ``torch.compile`` sends both to the same libraries, so it is told the same. An exported program is for other machines, and says what is meant.
    """
    return (
        not torch.compiler.is_exporting()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _ONEDNN
        and x.numel() * weight.shape[0] >= _CONVOLUTION_PAYS
    )
