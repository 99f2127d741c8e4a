"""A step of fine-tuning on kept features of a frozen backbone, as training takes it, against the same step of what learns alone on tensors in memory."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from foveal.lab.data import Photographs
from foveal.lab.networks import Pretrained
from foveal.lab.networks.frozen import Cut, features_of, find_cut
from foveal.lab.tasks import Classification
from foveal.lab.training import Recipe, build_model, load_data
from foveal.lab.training.features import kept_features
from foveal.lab.training.order import Seeded, collated

from ._harness import Row, at_most, check_equal

BATCH, SIDE = 32, 112


def rows() -> Iterator[Row]:
    base = Pretrained(library="timm", name="vit_small_patch14_dinov2", weights="random")
    for what, model in (
        ("the head", replace(base, freeze="all-but-head")),
        ("the last quarter, denoising", replace(base, freeze="all-but-attention", attention="denoising", where="last_stage")),
    ):
        with TemporaryDirectory() as place:
            yield _row(what, model, Path(place))


def _row(what: str, model: Pretrained, place: Path) -> Row:
    _photographs(place / "data")
    recipe = Recipe(data=Photographs(root=place / "data", img_size=SIDE, augment="none"), model=model, task=Classification())
    bundle = load_data(recipe.data)
    ours = build_model(recipe, bundle)
    theirs = build_model(recipe, bundle)
    images = torch.stack([bundle.train[index][0] for index in range(4)])
    cut, why = find_cut(theirs, images)
    assert cut is not None, why
    kept, _ = kept_features(ours, bundle, recipe, place / "features")
    reader = Seeded(kept.train, recipe.seed, whole=True)
    everything = [bundle.train[index] for index in range(len(bundle.train))]
    in_memory = features_of(theirs.eval(), cut, torch.stack([image for image, _ in everything]))
    labels = torch.tensor([label for _, label in everything])
    above = _above(theirs, cut)

    def load(step: int) -> tuple[Tensor, Tensor]:
        # out of the file that is mapped, as a loader in the training process does
        inputs, targets = collated(recipe.task.collate, reader.__getitems__([(0, (step * BATCH + place) % len(kept.train)) for place in range(BATCH)]))
        return inputs, targets

    def take(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor([(step * BATCH + place) % len(labels) for place in range(BATCH)])
        return in_memory[chosen], labels[chosen]

    with torch.no_grad():
        check_equal(lambda: ours.eval()(load(0)[0]), lambda: above(take(0)[0]))
    setting = f"{BATCH} images of {SIDE} × {SIDE}, ViT-S/14"
    return at_most(f"step on kept features / of what learns alone: {what}", setting, _steps(ours, ours, load), _steps(theirs, above, take), 1.05)


def _above(model: Any, cut: Cut) -> Callable[[Tensor], Tensor]:
    """What lies above the cut, written out for timm's vision transformer."""
    if cut.alone:
        head: Callable[[Tensor], Tensor] = model.head
        return head
    first = int(cut.name.rpartition(".")[2])

    def forward(x: Tensor) -> Tensor:
        for block in model.blocks[first:]:
            x = block(x)
        return model.forward_head(model.norm(x))  # type: ignore[no-any-return]

    return forward


def _steps(model: nn.Module, forward: Callable[[Tensor], Tensor], batch: Callable[[int], tuple[Tensor, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    count = 0

    def step() -> None:
        nonlocal count
        inputs, targets = batch(count)
        count += 1
        F.cross_entropy(forward(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _photographs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / label / f"{number}.png")
