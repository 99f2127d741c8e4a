"""The page: what was gathered, packed beside the script that draws it, in one file that needs nothing else."""

import base64
import html
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._errors import InputError, missing_extra

try:
    import numpy  # noqa: F401  # of which packing and drawing take a part
    import PIL  # noqa: F401
except ImportError as missing:
    raise missing_extra({"PIL": "pillow"}.get(missing.name or "", "numpy"), "train", "the attention viewer") from missing
from ..clouds import Axis
from ..layout import Layout
from ..pictures import to_pixels
from ._cloud import ASPECT, cloud_photo, cloud_places
from ._stored import STEPS, Store
from .viewed import ViewedLayer, ViewedModel

__all__ = ["LIMIT", "AttentionPage", "write_page"]

LIMIT = 6_000_000
"""Bytes that a page has at most, as long as coarser steps help."""
_SAME_CUT = 0.98
"""Correlation of two small gray pictures above which they show the same."""
_SCRIPTS = ("store", "tokens", "colors", "patches", "cloud", "tiles", "closeup", "controls", "sheet", "main")


@dataclass(frozen=True)
class AttentionPage:
    """A page of attention maps. A notebook shows it; :meth:`save` writes it."""

    html: str = field(repr=False)
    """The whole page."""
    steps: int
    """Steps from zero to the largest entry of a row in which weights are stored."""
    error: float
    """The largest difference between a weight on the page and that of the model."""

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which opens in any browser, without a server or a network."""
        path = Path(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file, such as {path / 'attention.html'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html, encoding="utf8")
        return path

    def _repr_html_(self) -> str:
        # a frame of its own, so that the page's styles and the notebook's do not meet
        frame = "width:100%;height:min(90vh,60rem);border:0"
        return f'<iframe title="attention maps" style="{frame}" srcdoc="{html.escape(self.html)}"></iframe>'


def write_page(
    models: Sequence[ViewedModel],
    images: Sequence[Tensor],
    *,
    title: str,
    limit: int = LIMIT,
    cloud: Tensor | None = None,
    up: Axis = "z",
    asked: Sequence[int] | None = None,
) -> AttentionPage:
    """Make the page of one model, or of two side by side.

    Args:
        models: one or two, of the same image.
        images: that image as each model took it, ``(C, H, W)``, or of a video its frames, ``(T, C, H, W)``. The first is shown, stretched for looking; if the
            second shows another cut, the page says so.
        title: of the page.
        limit: bytes. Weights are stored in coarser steps where the page would have more; the page says in how many.
        cloud: in place of images, the points that attend, ``(N, 3 or more)``; they are shown from two sides.
        up: the coordinate of a cloud that points up.
        asked: of a large cloud, the points that can be asked, by their numbers. Layers then have the rows of these as queries, and behind them the mean over
            the rows of all points.

    Raises:
        ValueError: no model, or more than two; maps or answers that are not finite.
    """
    if not 1 <= len(models) <= 2:
        raise InputError(f"the viewer shows one model, or two side by side, got {len(models)}")
    notes = [model.notes for model in models]
    if cloud is not None:
        aspect, photos = ASPECT, [cloud_photo(cloud, up)]
    else:
        image = images[0]
        frames = max(layer.frames for model in models for layer in model.layers)
        aspect, photos = image.shape[-1] / image.shape[-2], _pictures(image if image.ndim == 4 else image[None], frames)
    if len(models) == 2 and cloud is None and _other_cut(*images):
        notes[1] = [*notes[1], "this model was given another cut of the photograph than the one shown: patches of the two do not lie on one another exactly"]
    for steps in STEPS:
        store = Store(steps)
        about = {
            "title": title,
            "aspect": aspect,
            "photos": photos,
            "cloud": None if cloud is None else cloud_places(cloud, up),
            "asked": None if asked is None else list(asked),
            "grid": list(max((model.grid for model in models), key=math.prod)),
            "models": [_model(model, said, store) for model, said in zip(models, notes, strict=True)],
        }
        about |= {"steps": steps, "error": store.error, "rows": store.rows}
        page = _assembled(title, about, store.packed())
        if len(page.encode()) <= limit:
            break
    return AttentionPage(page, steps, store.error)


def _model(model: ViewedModel, notes: list[str], store: Store) -> dict[str, Any]:
    layers = [_layer(layer, store) for layer in model.layers]
    # behind the maps, of which the first that holds NaN says where it began
    if not all(math.isfinite(share) for _, share in model.answers):
        raise InputError(f"{model.name} answers NaN, so that no class is the likeliest; look at what the model was given, and at its weights")
    return {
        "name": model.name,
        "notes": notes,
        "prefix": model.prefix,
        "looks": model.looks,
        "answers": model.answers,
        "truth": model.truth,
        "layers": layers,
        "rollout": None if model.rollout is None else _layer(model.rollout, store),
    }


def _layer(layer: ViewedLayer, store: Store) -> dict[str, Any]:
    try:
        maps = {name: store.add(value) for name, value in layer.maps.items()}
    except InputError as error:
        raise InputError(f"{layer.name}: {error}") from error
    lie = {"queries": _lies(layer.queries), "keys": _lies(layer.keys), "frames": layer.frames, "axis": layer.axis}
    return {"name": layer.name, "maps": maps, "lambdas": layer.lambdas, "heads": layer.heads, "names": layer.names, **lie}


def _lies(layout: Layout | None) -> dict[str, Any] | None:
    if layout is None:
        return None
    return {"prefix": layout.num_prefix_tokens, "grid": list(layout.grid), "suffix": layout.num_suffix_tokens, "looks": layout.looks}


def _other_cut(first: Tensor, second: Tensor) -> bool:
    """Whether two inputs show different parts of a photograph; how they were standardized does not matter."""
    whole = [image if image.ndim == 3 else image.mean(0) for image in (first, second)]
    small = [torch.nn.functional.interpolate(image[None].float().cpu(), (32, 32), mode="area")[0].mean(0).flatten() for image in whole]
    together = torch.corrcoef(torch.stack(small))[0, 1]
    # one color all over has no correlation
    return bool(together < _SAME_CUT)


def _pictures(frames: Tensor, count: int) -> list[str]:
    """As many frames as there are of tokens, the middle one of each tube, all stretched alike."""
    from PIL import Image

    chosen = frames[[(2 * place + 1) * len(frames) // (2 * count) for place in range(count)]]
    shown = chosen if chosen.shape[1] in (1, 3) else chosen[:, :3] if chosen.shape[1] > 3 else chosen[:, :1]
    high = shown.shape[-2]
    pixels = to_pixels(shown.float().transpose(0, 1).flatten(1, 2))
    out = []
    for place in range(count):
        frame = pixels[place * high : (place + 1) * high]
        buffer = io.BytesIO()
        Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame).save(buffer, format="PNG", optimize=True)
        out.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return out


def _assembled(title: str, about: dict[str, Any], packed: str) -> str:
    assets = files("foveal.analysis.viewer").joinpath("assets")
    parts = {
        # the name of a file need not be text that can be encoded
        "title": html.escape(title.encode("utf8", "backslashreplace").decode("utf8")),
        "style": assets.joinpath("viewer.css").read_text(encoding="utf8"),
        "script": "\n".join(assets.joinpath(f"{name}.js").read_text(encoding="utf8") for name in _SCRIPTS),
        # no name of a model may end the element that it stands in
        "about": json.dumps(about, allow_nan=False).replace("<", "\\u003c"),
        "packed": packed,
    }
    template = assets.joinpath("viewer.html").read_text(encoding="utf8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
