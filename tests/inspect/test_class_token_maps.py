"""What compare keeps of maps: rows of class tokens, the same as out of all maps together, in memory that grows with neither layers nor images."""

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foveal.analysis import attention_maps
from foveal.lab.inspect import class_token_maps
from foveal.models import ViT

SIDE = 48
TOKENS = (SIDE // 4) ** 2 + 1


def model(depth: int = 3, attention: str = "denoising"):
    torch.manual_seed(0)
    vit = ViT(attention=attention, patch_size=4).build(img_size=SIDE, in_chans=1, num_classes=3).eval()
    vit.blocks = torch.nn.Sequential(*(copy.deepcopy(vit.blocks[n % 3]) for n in range(depth)))
    return vit


class Living(TorchDispatchMode):
    """How many bytes are in tensors that are alive, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in self.known:
                size = x.untyped_storage().nbytes()
                self.known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(x.untyped_storage(), self._gone, key, size)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak(depth: int, images: int) -> int:
    vit, batch = model(depth), torch.randn(images, 1, SIDE, SIDE)
    gc.collect()
    with torch.no_grad(), Living() as living:
        class_token_maps(vit, batch)
    return living.most


@pytest.mark.case("R12")
@pytest.mark.parametrize("attention", ["denoising", "softmax", "halo"])
def test_rows_are_those_of_the_whole_maps(attention) -> None:
    vit, images = model(attention=attention), torch.randn(21, 1, SIDE, SIDE)
    whole = attention_maps(vit, images)
    got = class_token_maps(vit, images)
    assert list(got) == list(whole)
    for layer, maps in whole.items():
        assert list(got[layer]) == list(maps)
        for name, value in maps.items():
            torch.testing.assert_close(got[layer][name], value[:, :, 0, 1:], rtol=1e-5, atol=1e-7)
            # what is kept is no view of a whole map
            assert got[layer][name].untyped_storage().nbytes() == got[layer][name].numel() * 4


@pytest.mark.case("R12")
def test_memory_grows_with_neither_layers_nor_images() -> None:
    heads, maps = 6, 3
    whole = 16 * heads * TOKENS**2 * 4
    row = heads * maps * TOKENS * 4
    few, deep, many = peak(2, 32), peak(6, 32), peak(2, 96)
    assert few > maps * whole, "what is measured are the maps"
    # rows are kept, twice while they are joined, and images that are given
    assert deep < few + 2 * 4 * 32 * row + whole / 8
    assert many < few + 2 * 2 * 64 * row + whole / 8
