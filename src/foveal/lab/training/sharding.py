"""Weights, gradients and the optimizer's state in pieces, one a process: PyTorch's ``fully_shard``, which is FSDP2.

accelerate brings FSDP2 too, but takes it on accelerators alone: on processors it passes over its plugin without a word and trains replicas. So ``fully_shard``
is called here, on every device in the same way, and what is tested on processors is what runs on GPUs; device, precision and processes are accelerate's.
"""

import copy
from collections import Counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..._errors import InputError
from .pieces import in_pieces
from .recipe import Recipe

__all__ = ["Whole", "check_sharding", "is_sharded", "shard_", "units"]


def is_sharded(recipe: Recipe, accelerator: Accelerator) -> bool:
    """Whether this run lies in pieces; one process has nobody to share with, and trains the same run whole."""
    return recipe.fsdp and accelerator.num_processes > 1


def check_sharding(recipe: Recipe) -> None:
    """Refuse what cannot lie in pieces, before anything is made.

    Raises:
        ValueError: which setting, and what to do.
    """
    if not recipe.fsdp:
        return
    task, kind = recipe.task, type(recipe.task).__name__
    optim, reasons = recipe.optim, []
    if len(task.phases()) > 1:
        reasons.append(f"{kind} trains in {len(task.phases())} phases with an optimizer each")
    elif task.refresh_steps(recipe.steps):
        reasons.append(f"{kind} runs the whole network between steps")
    elif not task.shards():
        reasons.append(f"{kind} reads weights beside the pass that is trained, with these settings or always")
    if optim.ema is not None:
        reasons.append("optim.ema keeps an average of whole weights")
    if optim.optimizer == "lamb":
        reasons.append("LAMB looks at whole weights; take adamw, adam or sgd")
    if recipe.precision == "fp16":
        reasons.append("float16 needs a scaler of losses that all processes share; take bf16")
    if recipe.compile or recipe.channels_last:
        reasons.append("compile and channels_last were never tried with it")
    if getattr(recipe.model, "lora", 0):
        reasons.append("low-rank adapters are small beside what they adapt")
    if reasons:
        raise InputError(f"fsdp is not for this run: {'; '.join(reasons)}; leave fsdp out, or change that")


def units(model: nn.Module) -> list[nn.Module]:
    """What is gathered for itself when it is its turn: the blocks of a network, which are modules of a kind that stand in a row.

    Only the outermost, and none where modules share weights, which must lie in one unit: then the network is gathered at once.
    """
    shared = len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.named_parameters()))
    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in [] if shared else model.modules():
        if id(module) in inside or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        # a single layer is too little for a message of its own
        blocks = [child for child in module.children() if any(True for _ in child.children()) and any(True for _ in child.parameters())]
        kinds = Counter(map(type, blocks))
        for block in blocks:
            if kinds[type(block)] > 1 and not isinstance(block, (nn.ModuleList, nn.ModuleDict)):
                found.append(block)
                inside |= {id(part) for part in block.modules()}
    return found


def shard_(forward: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> nn.Module:
    """What a step calls, with its weights in pieces from now on, and the optimizer's with them.

    Args:
        forward: with all parameters of the optimizer; it is changed in place.
        optimizer: before its first step.
        accelerator: of this process.

    Raises:
        ValueError: a weight that cannot be cut; processes that begin with different weights.
    """
    # here, because those who train whole need not wait for these to be imported
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for name, value in forward.named_parameters():
        if not value.ndim or value.dtype != torch.float32 or not value.is_contiguous():
            what = f"{tuple(value.shape)} in {value.dtype}{'' if value.is_contiguous() else ', not contiguous'}"
            raise InputError(f"fsdp cuts weights along their first axis, of float32 in a row, and {name} is {what}; leave fsdp out")
    _check_alike(forward)
    names = {id(value): name for name, value in forward.named_parameters()}
    device = accelerator.device
    # precision by autocast, as in every run; nothing is copied to the device before it is cut
    trained: nn.Module = accelerator.prepare_model(forward, device_placement=False, evaluation_mode=True)
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    # the outermost too: evaluations and checkpoints must find every weight in pieces
    for module in (*units(forward), forward):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    pieces = dict(forward.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [pieces[names[id(value)]] for value in group["params"]]
    return trained


def _check_alike(forward: nn.Module) -> None:
    """Replicas are made alike by the first process; of pieces nobody would see that they are of different networks."""
    sums = torch.stack([value.detach().double().sum() for value in forward.parameters()]).tolist()
    if any(other != sums for other in gather_object([sums])):
        raise InputError("the processes begin with different weights; see that all read the same files and run the same versions")


class Whole:
    """A network with all weights, to be evaluated and published; between evaluations it lies on the host.

    Args:
        model: before it is cut.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module: Any = copy.deepcopy(model).requires_grad_(False).to("cpu")

    @torch.no_grad()
    def take_(self, model: nn.Module, device: torch.device) -> None:
        """The weights of the network that is trained; every process must call this."""
        self.module.to(device)
        own = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            own[name].copy_(value.full_tensor() if in_pieces(value) else value)  # type: ignore[attr-defined]

    def rest_(self) -> None:
        """Make room on the device."""
        self.module.to("cpu")
