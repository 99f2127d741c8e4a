"""Attention maps out of a whole model, and how much of them lies on a region."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..convert import Where
from ..convert._where import is_everywhere
from ._names import Names, unwrapped
from ._watch import Found, Watch

__all__ = ["LayerMaps", "NothingToShow", "attention_maps", "between_tokens", "mass_on", "patch_mask", "refuse_missing", "summary_maps"]

Kept = TypeVar("Kept")
Reduced = TypeVar("Reduced")


class LayerMaps(dict[str, Kept]):
    """What was kept of each layer, by its name; and which attentions ran of which there is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: dict[str, str] = {}
        """By the name of an attention that ran and whose map was not seen, why."""


Maps = LayerMaps[dict[str, Tensor]]


class NothingToShow(InputError):
    """The model has no maps of the kind that is asked for; who has another picture of it may go on without."""


@overload
def attention_maps(model: nn.Module, images: Any, *, where: Where = "*") -> Maps: ...


@overload
def attention_maps(model: nn.Module, images: Any, *, where: Where = "*", reduce: Callable[[str, dict[str, Tensor]], Reduced]) -> LayerMaps[Reduced]: ...


def attention_maps(model: nn.Module, images: Any, *, where: Where = "*", reduce: Callable[[str, dict[str, Tensor]], Any] | None = None) -> LayerMaps[Any]:
    """The maps of every attention in any model for these images, by layer, in the order in which layers ended.

    Each map is the one that the output was made with. Where a model makes its map itself, it is taken where it meets the values, so that all that was done to
    it is in it: masks, windows, biases, rotary positions, mixed heads, gates. Of ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention``, which make
    none, it is computed beside them. An attention of ours is shown its own input again. The model runs once, in evaluation mode and so without dropout; its
    output is to the bit what the caller would get unwatched, and it is left as it was. Compiled parts run uncompiled; of a model in ``DataParallel`` or
    ``DistributedDataParallel`` the module inside runs, on this process alone.

    An attention that ran and whose map could not be seen is named, with the reason, in ``missing`` of what comes back, and in a warning.

    Args:
        model: ours, converted, or anybody's.
        images: what the model is called with; a mapping is given by name, as ``model(**images)``.
        where: which attentions, as in :func:`foveal.convert_`. An attention that was converted goes by the name of its place, as before; what
            ``torch.compile`` and wrappers for several devices put into names can be left out.
        reduce: ``f(layer, maps)``, called as soon as a layer has its maps; what it gives back is kept in their stead, so that one layer's maps are in memory
            at a time.

    Returns:
        By layer, by map, ``(B, H, Nq, Nk)``: ``combined`` always, with ``positive`` and ``negative`` where an attention is signed. Attention in windows has
        the windows of an image one after the other in B. An attention that is called again in the same run, or attends twice in one, has ``:2``, ``:3`` …
        behind its name. ``missing`` of it holds by name why an attention that ran is not there: empty if all are.

    Raises:
        ValueError: no attention was seen, or none that is chosen; ``where`` chooses one whose map cannot be seen.

    Warns:
        UserWarning: maps are missing, though ``where`` asks for all.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> maps = attention_maps(layer, torch.randn(2, 9, 16))
        >>> maps["self_attn"]["combined"].shape, maps.missing
        (torch.Size([2, 4, 9, 9]), {})
    """
    found = seen_maps(model, images, where, reduce)
    if not is_everywhere(where):
        refuse_missing(found.missing, "attention_maps")
    if not found:
        raise nothing_seen(where, found.missing)
    if found.missing:
        warnings.warn(f"the maps of {len(found.missing)} attentions that ran are missing: {_listed(found.missing)}", stacklevel=3)
    return found


def seen_maps(model: nn.Module, images: Any, where: Where, reduce: Callable[[str, dict[str, Tensor]], Any] | None) -> LayerMaps[Any]:
    """What can be seen, be it nothing."""
    names, found, times = Names(model), LayerMaps[Any](), dict[str, int]()
    model = unwrapped(model)
    wanted = names.chosen(where)

    def keep(module: nn.Module, maps: dict[str, Tensor]) -> None:
        name = names[module]
        times[name] = times.get(name, 0) + 1
        label = name if times[name] == 1 else f"{name}:{times[name]}"
        found[label] = maps if reduce is None else reduce(label, maps)

    def show(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(module, module.attention_map(*args, **kwargs))  # type: ignore[operator]

    def keep_found(one: Found) -> None:
        keep(one.module, one.maps())

    watch = Watch(names, wanted, keep_found, ours=show)
    with _paths_of_caller(model), torch.inference_mode(False), torch.no_grad(), evaluating(model), watch.watching():
        call(model, images)
    found.missing = {names[module]: reason for module, reason in watch.missing().items() if wanted(module)}
    return found


@contextmanager
def _paths_of_caller(model: nn.Module) -> Iterator[None]:
    """PyTorch's encoders compute in another way where gradients are wanted. They are not here, and yet the run is to be the caller's."""
    before = torch.backends.mha.get_fastpath_enabled()
    wanted = torch.is_grad_enabled() and any(value.requires_grad for value in model.parameters())
    torch.backends.mha.set_fastpath_enabled(before and not wanted)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _listed(missing: Mapping[str, str]) -> str:
    """By reason, for layers have it in common."""
    reasons = dict.fromkeys(missing.values())
    return "; ".join(f"{', '.join(name or 'the model' for name in missing if missing[name] == reason)}: {reason}" for reason in reasons)


def refuse_missing(missing: Mapping[str, str], what: str) -> None:
    """Where all that was asked for is needed.

    Raises:
        ValueError: something is missing.
    """
    if missing:
        raise InputError(f"{what} has no map of {len(missing)} attentions that are chosen and ran; leave them out of `where`: {_listed(missing)}")


@torch.no_grad()
def summary_maps(model: nn.Module, images: Any) -> dict[str, Tensor]:
    """The maps over the image of every block whose pixels meet in a summary, by layer, ``(B, K, h, w)``: of slots in external attention, of channels of the
    keys in efficient and linear attention.

    They are linear in pixels where maps from pixels to pixels are quadratic. The model runs once, in evaluation mode.

    Args:
        model: with blocks on feature maps, such as ``external_2d``, ``efficient_2d`` and ``linear_2d``; of a model without any nothing comes back.
        images: what the model is called with.
    """
    names, found = Names(model), dict[str, Tensor]()
    model = unwrapped(model)

    def show(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        again = sum(1 for other in found if other.partition(":")[0] == names[module])
        found[names[module] if not again else f"{names[module]}:{again + 1}"] = module.summary_maps(args[0])  # type: ignore[operator]

    handles = [module.register_forward_hook(show) for module in model.modules() if hasattr(module, "summary_maps")]
    try:
        with evaluating(model):
            call(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def between_tokens(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a layer's maps those whose keys are tokens; slots and entries of a dictionary may be as many, and lie nowhere."""
    return {name: value for name, value in maps.items() if name in ("positive", "negative", "combined")}


def nothing_seen(where: Where, missing: Mapping[str, str]) -> InputError:
    if not is_everywhere(where):
        return InputError(f"no attention that ran is chosen by {where!r}; leave `where` out to see the names of all")
    if missing:
        return NothingToShow(f"the model has no attention whose maps could be seen; those that ran: {_listed(missing)}")
    return NothingToShow(
        "the model has no attention whose maps could be seen: none of ours, no scaled_dot_product_attention, no nn.MultiheadAttention, "
        "and no softmax whose rows are multiplied with values"
    )


def call(model: nn.Module, images: Any) -> Any:
    with torch.compiler.set_stance("force_eager"):
        return model(**images) if isinstance(images, Mapping) else model(images)


def patch_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches of the grid a pixel mask ``(…, H, W)`` touches, ``(…, grid_h · grid_w)`` bool."""
    height, width = mask.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise InputError(f"a mask of {height}×{width} pixels does not fall into {grid[0]}×{grid[1]} patches")
    return mask.unflatten(-1, (grid[1], -1)).unflatten(-3, (grid[0], -1)).any(-1).any(-2).flatten(-2)


def mass_on(attention: Tensor, region: Tensor) -> Tensor:
    """Share of the attention that lies on a region, ``(…)``.

    Args:
        attention: rows over the patches, ``(…, N)``; prefix tokens left out. Entries may be negative, as those of a combined map.
        region: bool, broadcastable to ``attention``.

    Returns:
        Sum on the region over the sum of magnitudes everywhere: from 0 to 1 for an ordinary map, from −1 to 1 for a signed one. Looking everywhere alike
        gives the region's share of the patches.
    """
    total = attention.abs().sum(-1).clamp_min(torch.finfo(attention.dtype).tiny)
    return (attention * region).sum(-1) / total


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # the flag alone is not enough: adapters that merge their weights for evaluation take them apart again in train()
        for module, training in modes.items():
            if training and not module.training:
                module.train()
        for module, training in modes.items():
            module.training = training
