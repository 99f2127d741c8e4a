"""Stereo with a non-local block on the features of both images: learned on shifted pieces of photographs, judged on a real pair."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from ...models import PSMNet
from ..data import ShiftStereo
from ..recipes import get_recipe
from ..training import Recipe, fit
from ..training.reading import read_history
from .kinds import KINDS, Kind
from .registration import Layer, Part
from .unit import Unit

__all__ = ["stereo_recipe"]

CROP, DISPARITY = (32, 64), 16
"""Of made pairs, in pixels."""


def stereo_recipe(part: Part, layer: Layer, rate: float, seed: int) -> Recipe:
    """The recipe of one run: a small one of shifted pieces, with the arm as a non-local block."""
    recipe = get_recipe("shift-stereo")
    return replace(
        recipe,
        data=ShiftStereo(crop=CROP, max_disparity=DISPARITY, val_pairs=part.test_scenes, seed=seed),
        model=_network(part, layer),
        optim=replace(recipe.optim, lr=rate),
        steps=part.steps,
        batch_size=part.batch,
        eval_every=part.steps,
        seed=seed,
        share_initial_weights=True,
        trackers=(),
    )


def _network(part: Part, layer: Layer) -> PSMNet:
    arm = {"attention": layer.attention, "num_heads": layer.heads, "options": layer.options or None}
    return PSMNet(width=part.width, blocks=(1, 1, 1, 1), pools=(8, 4), max_disparity=DISPARITY, aggregation="basic", **arm)  # type: ignore[arg-type]


def run_stereo(unit: Unit, folder: Path) -> dict[str, float]:
    """End-point error on the real pair, and on made pairs of other photographs, by which rates are chosen. A run that was stopped goes on."""
    run = folder / unit.place
    metrics = fit(stereo_recipe(unit.part, unit.layer, unit.rate, unit.seed), run, resume=True, quiet=True)
    return {"epe": float(metrics["epe"]), "val_epe": float(read_history(run / "history.jsonl", ("val_epe",))[-1]["val_epe"])}


def _build(part: Part, arm: str, layer: Layer, setting: str) -> nn.Module:
    return _network(part, layer).build(img_size=max(CROP), in_chans=6, num_classes=0)


KINDS.add("stereo", Kind(run_stereo, _build, "val_epe"))
