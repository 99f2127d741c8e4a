"""Which share of a training step is spent waiting for data: small recipes as they are, and two trainings on images of the size of benchmarks'.

A step is the training loop's: samples of the recipe's order, its task's loss, gradients and optimizer. What is counted as waiting is the time in which the loop
asks its loader for the next batch. For the last rows files are written first, photographs of scikit-image with discs for things, 500×375 and 640×480 as in
PASCAL VOC and COCO; their networks are a light one and Mask R-CNN with a ResNet-50. On a GPU a step is shorter and the wait is the same, so it is given per
image; processes that read (``--workers``) are for that. Where a set keeps the boxes it has found, the first time round its samples takes longest, and this is
the one that is measured here.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from foveal.lab.data import CocoFolder, MaskFolder
from foveal.lab.data.detection._miniature import run_lengths
from foveal.lab.data.stereo.shifts import TRAIN_PHOTOS, photo
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import Detection, Segmentation
from foveal.lab.training import Optim, Recipe, load_data
from foveal.lab.training.optimizing import make_optimizer
from foveal.lab.training.order import Order, Seeded, StepSampler
from foveal.models import MAResUNet, PyramidDetector

from ._harness import Row

SMALL = ("flag-swap", "nuclei", "brain", "digit-detection", "flag-detection", "nuclei-detection", "shift-stereo")
MOST = 0.1
WORKERS = 1
"""Of the two trainings on large images: one core reads, the other trains."""


@dataclass(frozen=True)
class Wait:
    """Seconds of all steps, and of these, seconds of waiting."""

    total: float
    waiting: float
    images: int

    @property
    def share(self) -> float:
        return self.waiting / self.total


def measure(recipe: Recipe, *, steps: int, workers: int, skip: int = 2) -> Wait:
    """Train for some steps, the first of which, with processes and memory yet to come, do not count."""
    bundle = load_data(recipe.data)
    torch.manual_seed(recipe.seed)
    model = recipe.model.build(**recipe.task.model_kwargs(bundle)).train()
    optimizer = make_optimizer(model, recipe)
    sampler = StepSampler(Order(len(bundle.train), recipe.batch_size, recipe.seed), 0, skip + steps)
    loader = DataLoader(Seeded(bundle.train, recipe.seed), batch_sampler=sampler, num_workers=workers, collate_fn=recipe.task.collate)
    batches, total, waiting = iter(loader), 0.0, 0.0
    for step in range(skip + steps):
        start = time.perf_counter()
        inputs, targets = next(batches)
        ready = time.perf_counter()
        loss, _ = recipe.task.step(model, model, inputs, targets, bundle)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= skip:
            waiting += ready - start
            total += time.perf_counter() - start
    return Wait(total, waiting, steps * recipe.batch_size)


def segmentation_files(root: Path, count: int = 24, height: int = 375, width: int = 500) -> Recipe:
    """A light network on crops of 512 of these files, with the augmentation of the benchmarks."""
    for number in range(count):
        photo, shapes = _scene(number, height, width)
        _save(root / "images" / f"{number}.jpg", photo)
        mask = np.zeros((height, width), np.uint8)
        for shape in shapes:
            mask[shape] = 1 + number % 20
        _save(root / "masks" / f"{number}.png", mask)
    return Recipe(
        data=MaskFolder(root=root, img_size=512, classes=tuple(f"class {n}" for n in range(21)), jitter=0.4),
        model=MAResUNet(encoder="resnet18"),
        task=Segmentation(),
        optim=Optim(optimizer="sgd", lr=1e-3),
        batch_size=4,
    )


def detection_files(root: Path, count: int = 24, height: int = 480, width: int = 640) -> Recipe:
    """Mask R-CNN on these files, whose shorter side it brings to 800; boxes and masks as polygons' run lengths."""
    parts = {"train": range(count), "val": range(count, count + 1)}
    for part, numbers in parts.items():
        images, objects = [], list[dict[str, Any]]()
        for number in numbers:
            photo, shapes = _scene(number, height, width)
            _save(root / f"{part}2017" / f"{number}.jpg", photo)
            images.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
            for shape in shapes:
                rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
                box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
                mask = {"size": [height, width], "counts": run_lengths(shape)}
                common = {"id": len(objects) + 1, "image_id": number, "category_id": 1 + number % 80, "iscrowd": 0}
                objects.append(common | {"bbox": box, "area": int(shape.sum()), "segmentation": mask})
        file = root / "annotations" / f"instances_{part}2017.json"
        file.parent.mkdir(exist_ok=True)
        categories = [{"id": n, "name": f"class {n}"} for n in range(1, 81)]
        file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}), encoding="utf8")
    return Recipe(
        data=CocoFolder(root=root),
        model=PyramidDetector(host="mask_rcnn", attention="external_2d"),
        task=Detection(masks=True),
        optim=Optim(optimizer="sgd", lr=1e-4),
        batch_size=1,
    )


def _scene(number: int, height: int, width: int) -> tuple[Any, list[Any]]:
    """A photograph of that size, and seven discs, as many as COCO has objects in an image."""
    rng = np.random.default_rng(number)
    picture = photo(TRAIN_PHOTOS[number % len(TRAIN_PHOTOS)])
    tiled = np.tile(picture, (-(-height // picture.shape[0]), -(-width // picture.shape[1]), 1))[:height, :width]
    y, x = np.mgrid[:height, :width]
    discs = []
    for _ in range(7):
        radius = rng.uniform(0.05, 0.2) * height
        middle = rng.uniform(radius, height - radius), rng.uniform(radius, width - radius)
        discs.append((y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2)
    return tiled, discs


def _save(path: Path, pixels: Any) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def rows(seconds: float = 10.0) -> Iterator[Row]:
    """Args: about how long each row takes."""
    for name in SMALL:
        recipe = get_recipe(name)
        for workers in sorted({0, recipe.workers}):
            yield _row(f"{name}, batches of {recipe.batch_size}", recipe, workers, seconds)
    for make in (segmentation_files, detection_files):
        with tempfile.TemporaryDirectory() as root:
            recipe = make(Path(root))
            what = "crops of 512, MAResU-Net" if make is segmentation_files else "images of 800, Mask R-CNN"
            for workers in (0, WORKERS):
                yield _row(f"{what}, batches of {recipe.batch_size}", recipe, workers, seconds)


def _row(what: str, recipe: Recipe, workers: int, seconds: float) -> Row:
    trial = measure(recipe, steps=1, workers=0, skip=1)
    wait = measure(recipe, steps=min(max(3, round(seconds / trial.total)), 200), workers=workers)
    each = 1e3 / wait.images
    setting = "read in the training process" if workers == 0 else f"{workers} process{'es' if workers > 1 else ''} to read"
    waits, takes = f"waits {each * wait.waiting:.2f} ms an image", f"a step takes {each * wait.total:.2f} ms an image"
    return Row(f"share of waiting for data: {what}", setting, waits, takes, wait.share, f"≤ {MOST}", wait.share <= MOST)
