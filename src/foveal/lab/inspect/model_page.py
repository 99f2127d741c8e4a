"""Any model and one image, drawn: the maps of all layers and heads, and their rollout."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError
from ...analysis import Layout, look_from, rollout, token_layout
from ...analysis.maps import NothingToShow
from ...analysis.pictures import write_map_sheet, write_rollout
from ...analysis.viewer import AttentionPage, ViewedModel, write_page
from ...convert import Where
from .branches import said_of_branches
from .conversion import convert_saying_
from .loaded import Inspection, LoadedModel
from .maps import MapsOverImage
from .viewing import introduced, prediction, view_loaded

__all__ = ["inspect_model"]


def inspect_model(
    loaded: LoadedModel,
    image: Any,
    folder: Path,
    *,
    attention: str | None = None,
    where: Where = "*",
    title: str | None = None,
    against: LoadedModel | None = None,
    truth: str | None = None,
) -> Inspection:
    """Draw the maps of all layers and heads, and their rollout; and write the page on which a reader asks for them.

    Args:
        loaded: the model.
        image: a PIL image.
        folder: for ``attention.html``, ``maps.png``, ``maps.html`` and ``rollout.png``.
        attention: convert the model to this one first, as :func:`convert_named_` takes it.
        where: what is converted, or if nothing is, what is looked at.
        title: of the page; the model's name if None.
        against: another model, beside the first on ``attention.html``. Of a model that is converted first, that is what it was before if None.
        truth: the true class, by its index or its name.

    Raises:
        ValueError: the model has no attention over the whole image; a true class that the model does not know.
    """
    model, inputs = loaded.model.eval(), loaded.prepare(image)[None]
    notes = list(loaded.notes)
    beside: list[tuple[ViewedModel, Tensor]] = []
    if against is not None:
        beside = [(view_loaded(against, image, truth=truth), against.prepare(image))]
    elif attention is not None:
        beside = [(view_loaded(loaded, image, where=where, truth=truth, name=f"{loaded.name}, before"), inputs[0])]
    called = loaded.name
    if attention is not None:
        notes.append(convert_saying_(model, attention, where))
        where, called = "*", f"{loaded.name}, {attention}"
    maps, viewed, unseen = MapsOverImage(model, tuple(inputs.shape[-2:])), None, list[str]()
    try:
        viewed = view_loaded(loaded, image, where=where, truth=truth, name=called, inputs=inputs, beside=maps)
    except NothingToShow as error:
        if not maps.ran or truth is not None or beside:
            raise
        # maps too large for a page can still be drawn from where the head reads
        unseen.append(f"no attention.html: {error}")
    maps.checked()
    if maps.refused:
        notes.append(f"not drawn: {', '.join(maps.refused)}")
    notes += [f"no map of {name}: {reason}" for name, reason in maps.missing.items()] + unseen
    title, first = title or loaded.name, [introduced(loaded), *prediction(loaded, inputs, viewed)]
    page = None if viewed is None else _page((viewed, inputs[0]), beside, title, other_behind=against is not None)
    write_map_sheet(inputs[0], maps.layers, folder, title=title, about="; ".join([*first, *notes]), caption=maps.caption)
    lines, files = [*first, maps.caption, *notes], [folder / "maps.png", folder / "maps.html"]
    if page is not None:
        files.insert(0, page.save(folder / "attention.html"))
    try:
        rolled, layout = _rolled(model, inputs, where, viewed)
    except InputError as error:
        lines.append(f"no rollout: {error}")
    else:
        files.append(write_rollout(inputs[0], look_from(rolled, layout)[0], folder, caption=f"where {layout.looks} looks, through all layers"))
    return Inspection(lines + said_of_branches(model), files)


def _page(own: tuple[ViewedModel, Tensor], beside: list[tuple[ViewedModel, Tensor]], title: str, *, other_behind: bool) -> AttentionPage:
    shown = [own, *beside] if other_behind else [*beside, own]
    return write_page([one for one, _ in shown], [seen for _, seen in shown], title=title)


def _rolled(model: nn.Module, inputs: Tensor, where: Where, viewed: ViewedModel | None) -> tuple[Tensor, Layout]:
    """The rollout of what was viewed; where there is none, it is tried, and says why."""
    if viewed is not None and viewed.rollout is not None and viewed.rollout.queries is not None:
        return viewed.rollout.maps["positive" if "positive" in viewed.rollout.maps else "combined"], viewed.rollout.queries
    rolled = rollout(model, inputs, where=where)
    return rolled, token_layout(model, rolled.shape[-1], tuple(inputs.shape[-2:]))
