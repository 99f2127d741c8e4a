"""``attention.html`` of a run on clouds: point at a point, in either of two views, and see where it looks in every layer and head."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...analysis.layout import Layout
from ...analysis.viewer import ViewedLayer, ViewedModel, write_page
from ...analysis.viewer.viewed import refuse_large, strengths_of
from ...models.points.maps import point_attention
from ..data import PointBundle

__all__ = ["view_cloud", "write_cloud_page"]


def view_cloud(model: nn.Module, points: Tensor, rest: tuple[Any, ...] = (), *, name: str) -> tuple[ViewedModel, Tensor]:
    """What the viewer shows of a network and one cloud, and the points that attend, ``(N, 3)``: of networks that sample, those of the last layer.

    Args:
        model: of ours.
        points: ``(N, C)``, coordinates first.
        rest: what else the network is called with, each with a batch of one.
        name: how the page calls it.

    Raises:
        ValueError: points do not meet in any layer, or all maps are larger than a page takes.
    """
    device = next(model.parameters()).device
    looks = point_attention(model, points[None].to(device), *(value.to(device) for value in rest))
    meeting = [look for look in looks if "combined" in look.maps]
    if not meeting:
        raise InputError(f"the points of {name} do not meet: none of its layers has a map")
    xyz = meeting[-1].xyz[0].cpu()
    viewed = ViewedModel(name, [], looks="the mean of all points")
    at = Layout(0, (1, len(xyz)), 0, "mean")
    for look in looks:
        try:
            if look.maps.get("combined") is None or look.maps["combined"].shape[-1] != len(xyz):
                raise InputError("its points do not meet" if "combined" not in look.maps else "it is of other points than the last layer")
            refuse_large(look.maps["combined"])
        except InputError as error:
            viewed.notes.append(f"{look.name} is not shown: {error}")
            continue
        maps = {which: value[0].detach().float().cpu() for which, value in look.maps.items()}
        strengths = strengths_of(maps)
        if strengths is not None:
            del maps["combined"]
        viewed.layers.append(ViewedLayer(look.name, maps, at, at, strengths))
    if not viewed.layers:
        raise InputError(f"no layer of {name} can be shown; {'; '.join(viewed.notes)}")
    return viewed, xyz


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
        viewed, xyz = view_cloud(model, points, rest, name=type(model).__name__)
    except InputError:
        return []
    if len(logits):
        chance = logits.float().softmax(-1).double().cpu()
        order = chance.argsort(descending=True, stable=True).tolist()
        viewed.answers = [(bundle.classes[place], float(chance[place])) for place in order[:5]]
        if truth is not None:
            viewed.truth = (bundle.classes[truth], float(chance[truth]), order.index(truth) + 1)
    page = write_page([viewed], [], title="Where points look", cloud=xyz, up=bundle.up_axis)
    return [page.save(folder / "attention.html")]
