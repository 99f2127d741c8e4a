"""``foveal.show``: a model and an image, in a notebook or in a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from ...convert import Where
from ._clips import frames_of
from ._prepared import timm_transform
from .gather import view_model
from .page import LIMIT, AttentionPage, write_page

__all__ = ["show"]


def show(
    model: nn.Module,
    image: Any,
    *,
    against: nn.Module | None = None,
    names: Sequence[str] | None = None,
    where: Where = "*",
    labels: Mapping[int, str] | Sequence[str] | None = None,
    truth: int | str | None = None,
    title: str | None = None,
    limit: int = LIMIT,
) -> AttentionPage:
    """An interactive page: point at a patch, or go to it by the keyboard, and see where it looks in every layer and head.

    In a notebook the page is shown where the call stands last in a cell; ``show(…).save("attention.html")`` writes it. It is one file without a server or a
    network. Whole maps of all layers are in memory once.

    Args:
        model: ours, converted, or anybody's; it is left as it was.
        image: as the model takes it, ``(C, H, W)`` or ``(1, C, H, W)``; or a PIL image or its path, for models that say how images are made ready
            (``pretrained_cfg``, as timm's do). A video is ``(1, C, T, H, W)``, of models of transformers ``(1, T, C, H, W)``.
        against: a second model, shown beside the first with the same query: before and after a conversion, two arms of a comparison.
        names: what the one model or the two are called on the page.
        where: which attentions, as in :func:`foveal.convert_`.
        labels: names of the classes, by index.
        truth: the true class, by index or by its name in ``labels``.
        title: of the page.
        limit: bytes of the page. Weights are stored in 255 steps from zero to the largest of a row, or in fewer where the page would be larger; the page and
            ``error`` of what comes back say what that costs.

    Raises:
        ValueError: no attention over the whole image was seen; an image that the model does not say how to make ready; see :func:`attention_maps`.

    Example:
        >>> import timm
        >>> page = show(timm.create_model("test_vit"), torch.randn(3, 160, 160))
        >>> page.error < 0.002
        True
    """
    models = [model] if against is None else [model, against]
    if names is not None and len(names) != len(models):
        raise InputError(f"{len(models)} models are shown, and {len(names)} names are given; give one name a model")
    called = list(names) if names is not None else [_name(one) for one in models]
    inputs = [_ready(one, image) for one in models]
    viewed = [view_model(one, given, name=name, where=where, labels=labels, truth=truth) for one, given, name in zip(models, inputs, called, strict=True)]
    seen = [given[0] if given.ndim == 4 else frames_of(one, given[0]) for one, given in zip(models, inputs, strict=True)]
    return write_page(viewed, seen, title=title or " and ".join(called), limit=limit)


def _name(model: nn.Module) -> str:
    said = getattr(model, "pretrained_cfg", None)
    return str(said.get("architecture") or type(model).__name__) if isinstance(said, Mapping) else type(model).__name__


def _ready(model: nn.Module, image: Any) -> Tensor:
    if isinstance(image, Tensor):
        batch = image[None] if image.ndim == 3 else image
        parameter = next(model.parameters(), None)
        return batch if parameter is None else batch.to(parameter.device)
    try:
        import timm.data  # noqa: F401  # of which making ready takes a part
        from PIL import Image
    except ImportError as error:
        raise missing_extra("timm", "train", "making an image ready") from error
    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                image = opened.convert("RGB")
        except OSError as error:
            raise InputError(f"cannot open the image {image}: {error}") from error
    if not isinstance(image, Image.Image):
        raise InputError(f"expected an image as a tensor (C, H, W), a PIL image or a path, got {type(image).__name__}")
    if not hasattr(model, "pretrained_cfg"):
        raise InputError(f"{type(model).__name__} does not say how its images are made ready; give a tensor (C, H, W) as the model takes it")
    return _ready(model, timm_transform(model)(image)[None])
