"""What a trained run attends to: numbers over many test images, and the maps of a few."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis import lambdas, mass_on, neighbor_angles, patch_mask, value_angles
from ...analysis.pictures import overlay, to_pixels
from ...attention import TokenAttention
from ...models import VisionTransformer
from ..data import DataBundle
from ..inspect.maps import class_token_maps
from ..tasks import Row
from ..training import Recipe

__all__ = ["drawn_truth", "look", "shown_images", "shown_sample"]

MEASURED_IMAGES = 256
SHOWN_IMAGES = 6


def look(recipe: Recipe, model: Any, initial: nn.Module, bundle: DataBundle) -> dict[str, Any]:
    """Everything the report shows of one run besides its metrics.

    Of a vision transformer where the class token looks, averaged over heads: the share of each map that lies on the target and on the distractors of test
    scenes, by layer, with what looking everywhere alike would give, and the maps of the first test images. Of any network λ and the principal angles of
    denoising attention, now and before training. Where the task draws, its predictions.
    """
    heads = [module for module in model.modules() if isinstance(module, TokenAttention)]
    seen = {
        "regions": [],
        "lambdas": lambdas(model),
        "dim": heads[0].dim if heads else None,
        "head_dim": getattr(heads[0], "head_dim", None) if heads else None,
        "angles": [asdict(angles) for angles in value_angles(model)],
        "initial_angles": [asdict(angles) for angles in value_angles(initial)],
        "neighbor_angles": [asdict(angles) for angles in neighbor_angles(model)],
        "pictures": [],
        "drawn": _rows(recipe.task.shown(model, _samples(bundle), bundle)),
    }
    # a TimeSformer is one too, but its maps are of many frames
    if not isinstance(model, VisionTransformer) or recipe.task.targets != "labels":
        return seen
    images = torch.stack([bundle.test[i][0] for i in range(min(MEASURED_IMAGES, len(bundle.test)))])
    maps = class_token_maps(model, images)
    return seen | {"regions": _regions(maps, bundle, len(images), model.patch_embed.grid_size), "pictures": _pictures(model, maps, bundle, images)}


def _samples(bundle: DataBundle) -> list[tuple[Any, Any]]:
    return [bundle.test[i] for i in range(min(SHOWN_IMAGES, len(bundle.test)))]


def drawn_truth(recipe: Recipe, bundle: DataBundle) -> list[dict[str, Any]]:
    """The test samples that every run shows its predictions of, where the task draws."""
    return _rows(recipe.task.draw_truth(_samples(bundle), bundle))


def _rows(rows: list[Row]) -> list[dict[str, Any]]:
    return [
        {"title": row.title, "cells": [{"picture": overlay(cell.picture), "caption": cell.caption, "wrong": cell.wrong} for cell in row.cells]} for row in rows
    ]


def _regions(maps: dict[str, dict[str, Tensor]], bundle: DataBundle, count: int, grid: tuple[int, int]) -> list[dict[str, Any]]:
    if not hasattr(bundle.test, "masks"):
        return []
    masks = [bundle.test.masks(i) for i in range(count)]
    target = patch_mask(torch.stack([mask["target"] for mask in masks]), grid)
    distractors = patch_mask(torch.stack([mask["distractors"] for mask in masks]), grid) & ~target
    rows = []
    for layer, named in maps.items():
        for name, value in named.items():
            for region, where in (("target", target), ("distractors", distractors)):
                mass = mass_on(value, where[:, None]).mean().item()
                rows.append({"layer": layer, "map": name, "region": region, "mass": mass, "chance": where.float().mean().item()})
    return rows


def shown_images(recipe: Recipe, bundle: DataBundle) -> list[dict[str, Any]]:
    """Where targets are labels, the test images that every run shows its maps of: one of each class as far as they go.

    Pixels ``(H, W, C)`` from 0 to 255, and the label.
    """
    if recipe.task.targets != "labels":
        return []
    return [{"image": to_pixels(bundle.test[i][0]).tolist(), "label": bundle.classes[bundle.test[i][1]]} for i in _chosen(bundle)]


def shown_sample(bundle: DataBundle) -> tuple[Tensor, int]:
    """The first test image whose maps are shown, and its class."""
    image, label = bundle.test[_chosen(bundle)[0]]
    return image, int(label)


def _pictures(model: VisionTransformer, maps: dict[str, dict[str, Tensor]], bundle: DataBundle, images: Tensor) -> list[dict[str, Any]]:
    """The last layer's maps of the shown images, averaged over heads."""
    chosen = _chosen(bundle)
    layer, named = list(maps.items())[-1]
    with torch.no_grad():
        predicted = model(images[chosen]).argmax(-1)
    grid = model.patch_embed.grid_size
    return [
        {
            "predicted": bundle.classes[int(predicted[place])],
            "layer": layer,
            "maps": {name: _rounded(value[index].mean(0).unflatten(0, grid)) for name, value in named.items()},
        }
        for place, index in enumerate(chosen)
    ]


def _chosen(bundle: DataBundle) -> list[int]:
    labels = [bundle.test[i][1] for i in range(min(MEASURED_IMAGES, len(bundle.test)))]
    first = [i for i, label in enumerate(labels) if label not in labels[:i]]
    return (first + [i for i in range(len(labels)) if i not in first])[:SHOWN_IMAGES]


def _rounded(value: Tensor) -> list[list[float]]:
    return [[round(entry, 5) for entry in row] for row in value.tolist()]
