"""Where an adversarial run looks: ``attention.html`` of one drawn image, and ``maps.png`` of several, from one pixel in each of the two networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..._errors import InputError
from ...analysis.layout import Layout
from ...analysis.pictures import overlaid
from ...analysis.viewer import ViewedLayer, ViewedModel, write_page
from ...analysis.viewer.viewed import refuse_large, strengths_of
from ...models.sagan import GanLook
from ._figures import DRAWN, INK, bare, new_figure, put
from ._image_grid import pixels

__all__ = ["draw_looks", "view_network"]

_SHEET_NAMES = {"combined": "", "positive": ", positive", "negative": ", negative"}


def view_network(name: str, looks: Sequence[GanLook], place: int = 0) -> ViewedModel:
    """What the viewer shows of a network and one drawn image; places without a map are named in its notes.

    Args:
        name: how the page calls it.
        looks: of :func:`foveal.models.sagan.gan_attention`.
        place: which image of the batch.
    """
    viewed = ViewedModel(name, [], looks="the mean of all pixels")
    for look in looks:
        said = f"{look.name}, σ {look.sigma:.3g}"
        if "combined" not in look.maps:
            viewed.notes.append(f"{said} is not shown: there is no map of its pixels")
            continue
        try:
            refuse_large(look.maps["combined"][place])
        except InputError as error:
            viewed.notes.append(f"{said} is not shown: {error}")
            continue
        maps = {which: value[place].detach().float().cpu() for which, value in look.maps.items()}
        lambdas = strengths_of(maps)
        if lambdas is not None:
            del maps["combined"]
        viewed.layers.append(ViewedLayer(said, maps, Layout(0, look.queries, 0, "mean"), Layout(0, look.keys, 0, "mean"), lambdas))
    return viewed


def draw_looks(images: Tensor, captions: Sequence[str], networks: Mapping[str, Sequence[GanLook]], folder: Path, *, title: str) -> list[Path]:
    """``attention.html`` of the first image, and ``maps.png``.

    Args:
        images: drawn, ``(n, C, H, W)`` from −1 to 1.
        captions: of each.
        networks: places by the network's name.
        folder: where to; it is made.
        title: of both.

    Raises:
        ValueError: there is no map of any place.
    """
    viewed = [view_network(name, looks) for name, looks in networks.items()]
    shown = [model for model in viewed if model.layers]
    if not shown:
        why = [f"{model.name}: {note}" for model in viewed for note in model.notes]
        raise InputError("; ".join(["there is no attention to look at in either network: its --model.attention mixes no pixels, or has no map of them", *why]))
    for model in viewed:
        # what is not shown of one network is said on the page of the other
        if not model.layers:
            shown[0].notes += [f"{model.name}: {note}" for note in model.notes or ["without attention"]]
    folder.mkdir(parents=True, exist_ok=True)
    page = write_page(shown, [images[0]] * len(shown), title=title).save(folder / "attention.html")
    return [page, _sheet(images, captions, networks, folder / "maps.png", title)]


def _sheet(images: Tensor, captions: Sequence[str], networks: Mapping[str, Sequence[GanLook]], path: Path, title: str) -> Path:
    """A column for each image; its rows are the images, and what the pixel in the middle of each place looks at, over the keys' own grid."""
    rows = [
        (f"{name}, {look.name.rsplit('.', 1)[-1]}", which, look)
        for name, looks in networks.items()
        for look in looks
        if "combined" in look.maps
        for which in _SHEET_NAMES
        if which in look.maps
    ]
    height, width = images.shape[-2:]
    figure = new_figure((1.15 * len(images) + 1.9, 1.2 * (len(rows) + 1) + 0.5))
    axes = figure.subplots(len(rows) + 1, len(images), squeeze=False)
    for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
        picture = pixels(image)
        axes[0, column].imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[0, column].set_title(caption, fontsize=9, color=INK)
        for row, (_, which, look) in enumerate(rows, 1):
            signed = which == "combined" and "negative" in look.maps
            cells = look.maps[which][column, 0, _middle(look)].unflatten(-1, look.keys)
            axes[row, column].imshow(overlaid(picture, cells, signed=signed), extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
            across, down = ((place + 0.5) * side / count - 0.5 for place, side, count in zip(_at(look)[::-1], (width, height), look.queries[::-1], strict=True))
            axes[row, column].plot([across], [down], "o", markersize=6, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2.4)
            axes[row, column].plot([across], [down], "o", markersize=6, markerfacecolor="none", markeredgecolor=DRAWN, markeredgewidth=1.2)
    for place in axes.flat:
        bare(place)
    for row, label in enumerate(["drawn", *(_label(*one) for one in rows)]):
        axes[row, 0].set_ylabel(label, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    figure.suptitle(f"{title}: where the marked pixel looks", fontsize=10, color=INK)
    return put(figure, path)


def _label(name: str, which: str, look: GanLook) -> str:
    network, block = name.split(", ")
    grid = f"{look.queries[0]}×{look.queries[1]} to {look.keys[0]}×{look.keys[1]}"
    return f"{network}\nblock {block}{_SHEET_NAMES[which]}\nσ {look.sigma:.3g}\n{grid}"


def _at(look: GanLook) -> tuple[int, int]:
    return look.queries[0] // 2, look.queries[1] // 2


def _middle(look: GanLook) -> int:
    row, column = _at(look)
    return row * look.queries[1] + column
