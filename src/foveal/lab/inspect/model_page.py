"""Any model and one image, drawn: the maps of all layers and heads, and their rollout."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._errors import InputError
from ...analysis import look_from, rollout, token_layout
from ...analysis.pictures import write_map_sheet, write_rollout
from ...analysis.viewer import ViewedModel, write_page
from ...convert import Where
from .branches import said_of_branches
from .conversion import convert_named_
from .loaded import Inspection, LoadedModel
from .maps import maps_over_image
from .viewing import view_loaded

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
    if attention is not None:
        report = convert_named_(model, attention, where)
        outputs = sorted({swap.output for swap in report.swaps})
        notes.append(f"{len(report.swaps)} attentions converted to {attention}, untrained: the output is {' or '.join(outputs)}")
    shown: Where = "*" if attention is not None else where
    maps = maps_over_image(model, inputs, shown)
    if maps.refused:
        notes.append(f"not drawn: {', '.join(maps.refused)}")
    notes += [f"no map of {name}: {reason}" for name, reason in maps.missing.items()]
    named = loaded.name + ("" if loaded.trained else ", weights drawn at random: nothing was learned")
    first, last = [named, *_prediction(loaded, inputs)], notes
    title, page = title or loaded.name, None
    called = loaded.name if attention is None else f"{loaded.name}, {attention}"
    try:
        viewed = [(view_loaded(loaded, image, where=shown, truth=truth, name=called), inputs[0])]
    except InputError as error:
        if truth is not None or beside:
            raise
        # maps too large for a page can still be drawn from where the head reads
        notes.append(f"no attention.html: {error}")
    else:
        viewed = [*viewed, *beside] if against is not None else [*beside, *viewed]
        page = write_page([one for one, _ in viewed], [seen for _, seen in viewed], title=title)
    write_map_sheet(inputs[0], maps.layers, folder, title=title, about="; ".join([*first, *last]), caption=maps.caption)
    lines, files = [*first, maps.caption, *last], [folder / "maps.png", folder / "maps.html"]
    if page is not None:
        files.insert(0, page.save(folder / "attention.html"))
    try:
        rolled = rollout(model, inputs, where=shown)
        layout = token_layout(model, rolled.shape[-1], (inputs.shape[-2], inputs.shape[-1]))
        picture = look_from(rolled, layout)[0]
    except InputError as error:
        lines.append(f"no rollout: {error}")
    else:
        files.append(write_rollout(inputs[0], picture, folder, caption=f"where {layout.looks} looks, through all layers"))
    return Inspection(lines + said_of_branches(model), files)


@torch.no_grad()
def _prediction(loaded: LoadedModel, inputs: Tensor) -> list[str]:
    output = loaded.model(inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not loaded.trained or logits is None or logits.ndim != 2 or not loaded.labels:
        return []
    chance = logits.softmax(-1)[0]
    best = int(chance.argmax())
    return [f"predicted {loaded.labels.get(best, f'class {best}')} with probability {chance[best]:.0%}"]
