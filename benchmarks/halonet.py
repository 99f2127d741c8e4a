"""Networks with halo attention against timm's, with the same weights: inference, and a training step.

What the rest of a network takes is the same on both sides and bounds what attention can give: the lines "no attention" say how much that is.

In halonet26t convolutions and norms take most of the time.

timm's attention holds its windows in memory, and much of its forward pass is waiting for the system to give that memory anew at every call. Where the allocator
keeps it, as for the last lines, timm is faster, and so the ratio lower.
"""

import copy
from collections.abc import Callable, Iterator

import timm
import torch
import torch.nn.functional as F
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

from foveal.models import build_timm_halonet

from ._harness import Row, check_equal, faster, inference, memory_kept

NETWORKS = ("halonet26t", "halonet_h1")
BATCH, SIDE, LIMIT = 2, 256, 2.0


class Thinned(nn.Module):
    """In place of an attention: every ``stride``-th pixel."""

    def __init__(self, attention: HaloAttn) -> None:
        super().__init__()
        self.stride = attention.block_stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride]


def without_attention(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, HaloAttn):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Thinned(module))
    return model


def step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    optimizer, labels = torch.optim.SGD(model.parameters(), 1e-3), torch.arange(len(images))

    def call() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return call


def rows() -> Iterator[Row]:
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    layouts = {"": torch.contiguous_format, ", channels-last": torch.channels_last}
    networks = {name: _pair(name) for name in NETWORKS}
    for name, pair in networks.items():
        for layout, memory_format in layouts.items():
            x = images.contiguous(memory_format=memory_format)
            a, b, bare = (copy.deepcopy(model).to(memory_format=memory_format) for model in (*pair, without_attention(pair[1])))
            setting = f"{tuple(images.shape)}{layout}"
            for what, call in _calls(x, a, b, bare):
                yield faster(f"{name}, {what} / timm", setting, call(a, x), call(b, x), LIMIT)
                bound = faster(f"{name} with no attention, {what} / timm", setting, call(bare, x), call(b, x), 0.0)
                yield Row(bound.what, bound.setting, bound.ours, bound.theirs, bound.ratio, "bound", True)
    # last, since the allocator does not become again what it was
    with memory_kept():
        for name, (a, b) in networks.items():
            for what, call in _calls(images, a, b):
                yield faster(f"{name}, {what} / timm", f"{tuple(images.shape)}, memory kept by the allocator", call(a, images), call(b, images), LIMIT)


def _pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs. Blocks that begin as nothing would hide their attention from the check."""
    theirs = timm.create_model(name, zero_init_last=False)
    ours = build_timm_halonet(name, zero_init_last=False)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def _calls(x: Tensor, ours: nn.Module, theirs: nn.Module, *others: nn.Module) -> Iterator[tuple[str, Callable[..., Callable[[], object]]]]:
    """Inference and training steps; before each, both are shown to compute the same."""
    for train, call in ((False, inference), (True, step)):
        for model in (ours, theirs, *others):
            model.train(train)
        # batch norms over two images make much of rounding
        check_equal(inference(ours, x), inference(theirs, x), tolerance=1e-3 if train else 1e-4)
        yield "training step" if train else "forward", call
