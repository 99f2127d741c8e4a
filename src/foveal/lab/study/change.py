"""Change detection on photographs: two views of a scene of pieces cut out of photographs, one of which is another in the second view.

The views differ in light, which is of a view, in noise and by a shift of a pixel at most. One attention layer reads it: a query for each cell, which has a
place and no content, looks at the pieces of both views, and draws by how much its cell differs, nothing where it is the same. Nothing goes past the layer.
The cell with the largest drawn difference is the answer. Photographs that train, that choose rates and that judge are different ones.

Shapes     B scenes, K cells, C width
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention import create_attention
from ..data.stereo.shifts import TRAIN_PHOTOS, VAL_PHOTOS, photo
from .kinds import KINDS, Kind
from .registration import Layer, Part
from .single_layer import one_cycle
from .unit import Unit

__all__ = ["ChangeHead", "changed_scenes", "run_change"]

TEST_PHOTOS = ("camera.png", "clock_motion.png", "moon.png", "motorcycle_left.png")
PHOTOS = {"train": TRAIN_PHOTOS, "val": VAL_PHOTOS, "test": TEST_PHOTOS}
SIDE, PIECE = 96, 4
"""Of a photograph, made smaller, and of a piece, in pixels."""
NOISE = 0.05
_DEVIATION = 0.27
_TEST = 1_000_000


@cache
def _photos(split: str) -> Tensor:
    """``(P, 3, 96, 96)``, 0 to 1."""
    read = [torch.from_numpy(np.array(photo(name))).permute(2, 0, 1)[None].float() / 255 for name in PHOTOS[split]]
    return torch.cat([F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False) for image in read])


def changed_scenes(split: str, count: int, cells: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of both views ``(B, 2, K, 3·4·4)``, of about zero mean and unit deviation; which cell is another, ``(B,)``; and by how much it is, without light,
    noise and shift, ``(B, K, 3·4·4)``, 0 in all other cells."""
    photos, room = _photos(split), SIDE - PIECE - 1

    def whole(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=generator)

    which = whole(len(photos), count, cells)
    first = whole(room - 1, 2, count, cells) + 1
    second = first.clone()
    changed = whole(cells, count)
    scene = torch.arange(count)
    second[:, scene, changed] = whole(room - 1, 2, count) + 1
    before = _cut(photos, which, *first)
    difference = (_cut(photos, which, *second) - before).flatten(2) / _DEVIATION
    views = torch.stack([before, _cut(photos, which, *(second + whole(3, 2, count, 1) - 1))], 1)
    # light is of a view, the same in all of its cells
    gain = 0.7 + 0.6 * torch.rand(count, 2, 1, 3, 1, generator=generator)
    offset = 0.2 * torch.rand(count, 2, 1, 3, 1, generator=generator) - 0.1
    seen = views * gain + offset + NOISE * torch.randn(views.shape, generator=generator)
    return ((seen - 0.45) / _DEVIATION).flatten(3), changed, difference


def _cut(photos: Tensor, which: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """``(B, K, 3, 16)``."""
    line = torch.arange(PIECE)
    rows, columns = (top[..., None] + line)[..., :, None], (left[..., None] + line)[..., None, :]
    pixels: Tensor = photos[which[..., None, None], :, rows, columns]
    return pixels.flatten(2, 3).transpose(2, 3)


class ChangeHead(nn.Module):
    """Pieces to tokens, one attention layer asked by the cells, and what it drew for each; all maps beside the attention are linear.

    Shape:
        ``(B, 2, K, 48) -> (B, K, 48)``.
    """

    def __init__(self, layer: Layer, width: int, cells: int) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * PIECE**2, width - cells - 2)
        self.draw = nn.Linear(width, 3 * PIECE**2)
        # last: what lies before begins alike in every arm
        self.attn = create_attention(layer.attention, width, layer.heads, qkv_bias=True, **layer.options)

    def forward(self, views: Tensor) -> Tensor:
        count, cells = views.shape[0], views.shape[2]
        content = self.stem(views)
        # behind the content a mark of its cell and of its view, as in the tasks of one layer
        places = torch.eye(cells).expand(count, 2, -1, -1)
        of_view = torch.eye(2)[:, None].expand(count, -1, cells, -1)
        asks = F.pad(torch.eye(cells), (content.shape[-1], 2)).expand(count, -1, -1)
        drawn: Tensor = self.draw(self.attn(asks, context=torch.cat([content, places, of_view], -1).flatten(1, 2)))
        return drawn


def run_change(unit: Unit, folder: Path) -> dict[str, float]:
    """A run of the study: how often the cell is named, on photographs of the test and on those that choose rates."""
    part = unit.part
    torch.manual_seed(unit.seed)
    net = ChangeHead(unit.layer, part.width, part.cells)
    generator = torch.Generator().manual_seed(unit.seed)

    def loss() -> Tensor:
        views, _, difference = changed_scenes("train", part.batch, part.cells, generator)
        return F.mse_loss(net(views), difference)

    one_cycle(net, loss, part.steps, unit.rate)
    judged, tuning = (_judge(net.eval(), part, split, unit.seed) for split in ("test", "val"))
    return judged | {f"val_{name}": value for name, value in tuning.items()}


@torch.no_grad()
def _judge(net: nn.Module, part: Part, split: str, seed: int) -> dict[str, float]:
    """How often the changed cell is named, and the error of what was drawn, relative to drawing nothing."""
    views, changed, difference = changed_scenes(split, part.test_scenes, part.cells, torch.Generator().manual_seed(_TEST + seed))
    drawn = net(views)
    named = (drawn.square().sum(-1).argmax(1) == changed).float().mean()
    return {"accuracy": float(named), "error": float((drawn - difference).square().mean() / difference.square().mean())}


def _build(part: Part, arm: str, layer: Layer, setting: str) -> nn.Module:
    return ChangeHead(layer, part.width, part.cells)


KINDS.add("change", Kind(run_change, _build, "val_accuracy"))
