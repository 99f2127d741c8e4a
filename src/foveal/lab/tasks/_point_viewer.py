"""``attention.html`` of a run on clouds: point at a point, in either of two views, and see where it looks in every layer and head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.clouds import Axis
from ...analysis.layout import Layout
from ...analysis.maps import NothingToShow
from ...analysis.viewer import AttentionPage, ViewedLayer, ViewedModel, write_page
from ...analysis.viewer.viewed import strengths_of
from ...functional.points import farthest_points
from ...models.points.maps import LayerLook, point_attention
from ..data import PointBundle

__all__ = ["MOST", "ViewedCloud", "view_cloud", "write_cloud_page"]

MOST = 4_500_000
"""Entries of all maps of a page, which then stays below 6 MB in the finest steps; of larger clouds some points are asked alone."""


@dataclass(frozen=True)
class ViewedCloud:
    """What the viewer shows of a network and one cloud."""

    model: ViewedModel
    points: Tensor
    """That attend, ``(N, 3)``: of networks that sample, those of the last layer."""
    asked: list[int] | None = None
    """Those that can be asked, by their numbers, far from one another; all if None."""

    def page(self, *, title: str, up: Axis = "z") -> AttentionPage:
        """As :func:`foveal.analysis.viewer.write_page` makes it."""
        return write_page([self.model], [], title=title, cloud=self.points, up=up, asked=self.asked)


def view_cloud(model: nn.Module, points: Tensor, rest: tuple[Any, ...] = (), *, name: str, most: int | None = None) -> ViewedCloud:
    """Gather it.

    Args:
        model: of ours.
        points: ``(N, C)``, coordinates first.
        rest: what else the network is called with, each with a batch of one.
        name: how the page calls it.
        most: entries of all maps together; :data:`MOST` if None. Where there are more, as many points are asked as fit, the farthest from one another; beside
            them stands the mean over all.

    Raises:
        ValueError: points do not meet in any layer, or there are so many that not one of them fits.
    """
    device = next(model.parameters()).device
    looks = point_attention(model, points[None].to(device), *(value.to(device) for value in rest))
    meeting = [look for look in looks if "combined" in look.maps]
    if not meeting:
        raise NothingToShow(f"the points of {name} do not meet: none of its layers has a map")
    xyz = meeting[-1].xyz[0].cpu()
    viewed, shown = ViewedModel(name, [], looks="the mean of all points"), list[LayerLook]()
    for look in looks:
        if "combined" not in look.maps:
            viewed.notes.append(f"{look.name} is not shown: its points do not meet")
        elif look.maps["combined"].shape[-1] != len(xyz):
            viewed.notes.append(f"{look.name} is not shown: it is of other points than the last layer")
        else:
            shown.append(look)
    asked = _asked(shown, xyz, MOST if most is None else most)
    if asked is not None:
        viewed.notes.append(f"{len(asked)} of {len(xyz)} points can be asked, so that the page stays small: the farthest from one another; the mean is of all")
    at = Layout(0, (1, len(xyz)), 0, "mean")
    own = at if asked is None else Layout(0, (1, len(asked)), 1, "mean")
    for look in shown:
        maps = {which: _rows(value[0].detach(), asked).float().cpu() for which, value in look.maps.items()}
        strengths = strengths_of(maps)
        if strengths is not None:
            del maps["combined"]
        viewed.layers.append(ViewedLayer(look.name, maps, own, at, strengths))
    return ViewedCloud(viewed, xyz, asked)


def _asked(looks: list[LayerLook], xyz: Tensor, most: int) -> list[int] | None:
    """Points that can be asked; None for all.

    Raises:
        ValueError: not one fits.
    """
    # of signed layers the combination follows from the others
    kept = [value for look in looks for which, value in look.maps.items() if not (which == "combined" and "negative" in look.maps)]
    each = sum(value.shape[1] * value.shape[-1] for value in kept)
    if each * len(xyz) <= most:
        return None
    count = most // each - 1
    if count < 1:
        raise NothingToShow(f"one row of all maps has {each:,} entries, of the {most:,} that a page takes; give fewer points")
    chosen: list[int] = farthest_points(xyz[None], count)[0].unique().tolist()
    return chosen


def _rows(maps: Tensor, asked: list[int] | None) -> Tensor:
    """``(H, N, K)`` to the rows that are asked and, behind them, the mean of all."""
    return maps if asked is None else torch.cat([maps[:, asked], maps.mean(1, keepdim=True)], 1)


@torch.no_grad()
def write_cloud_page(
    model: nn.Module, points: Tensor, rest: tuple[Any, ...], bundle: PointBundle, folder: Path, *, logits: Tensor, truth: int | None
) -> list[Path]:
    """The page of one cloud of the test; nothing where points do not meet, or there are too many of them for a page.

    Args:
        model: trained.
        points: ``(N, C)``.
        rest: as for :func:`view_cloud`.
        bundle: the data.
        folder: where to.
        logits: of the cloud, ``(classes,)``; empty where a label is asked of each point.
        truth: its class, if it has one.
    """
    try:
        seen = view_cloud(model, points, rest, name=type(model).__name__)
    except NothingToShow:
        return []
    if len(logits):
        chance = logits.float().softmax(-1).double().cpu()
        order = chance.argsort(descending=True, stable=True).tolist()
        seen.model.answers = [(bundle.classes[place], float(chance[place])) for place in order[:5]]
        if truth is not None:
            seen.model.truth = (bundle.classes[truth], float(chance[truth]), order.index(truth) + 1)
    return [seen.page(title="Where points look", up=bundle.up_axis).save(folder / "attention.html")]
