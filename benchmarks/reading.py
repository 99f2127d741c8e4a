"""Reading ImageNet on one core: images out of shards, drawn from torch's random numbers, against timm's own dataset and transforms on the same files."""

import io
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._harness import Row, at_most, check_equal

COUNT, SIZE = 16, (500, 375)
# timm at magnitude 9 now and then asks Pillow 13 to keep no bit, which stops it
AUGMENT = "rand-m6-mstd0.5-inc1"


def rows() -> Iterator[Row]:
    from timm.data import ImageDataset, create_transform

    from foveal.lab.data import ImageNet

    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        os.environ["FOVEAL_CACHE"] = str(root / "cache")
        _write(root)
        bundle = ImageNet(root=root / "shards", auto_augment=AUGMENT, random_erasing=0.25).load()
        train = create_transform(224, is_training=True, auto_augment=AUGMENT, interpolation="bicubic", re_prob=0.25, re_mode="pixel")
        evaluate = create_transform(224, crop_pct=0.875, interpolation="bicubic")
        for what, ours, transform in (("training", bundle.train, train), ("evaluation", bundle.val, evaluate)):
            theirs = ImageDataset(str(root / "folder"), transform=transform)
            setting = f"{COUNT} JPEGs of {SIZE[0]} by {SIZE[1]}, to 224 pixels"
            check_equal(_all(ours, seeded=False), _all(theirs, seeded=ours.augments))
            yield at_most(f"{what} images out of shards / timm's dataset and transforms on a folder", setting, _all(ours, False), _all(theirs, False), 1.1)


def _all(split: Any, seeded: bool) -> Callable[[], Tensor]:
    """All images of a split; the other side is seeded by hand where ours seeds itself."""

    def call() -> Tensor:
        # as in a process that reads for training
        torch.set_num_threads(1)
        torch.manual_seed(0)
        images = []
        for index in range(COUNT):
            if seeded:
                seed = int(torch.randint(2**32, ()))
                random.seed(seed)
                np.random.seed(seed)
            images.append(split[index][0])
        return torch.stack(images)

    return call


def _write(root: Path) -> None:
    """Photographs out of scikit-image, as files and as shards of train and val."""
    import skimage.data
    from PIL import Image

    photographs = [
        Image.fromarray(read()).resize(SIZE, Image.Resampling.BICUBIC) for read in (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea)
    ]
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "train.tar", "w") as train, tarfile.open(root / "shards" / "val.tar", "w") as val:
        for index in range(COUNT):
            label = 2 * index // COUNT
            content = io.BytesIO()
            photographs[index % 3].save(content, "JPEG", quality=95)
            file = root / "folder" / str(label) / f"{index:04d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.getvalue())
            for tar in (train, val):
                for ending, part in (("jpg", content.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{index:04d}.{ending}")
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))
