"""Attention maps out of a whole model, and how much of them lies on a region."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..convert import Where, known_hosts, matcher, places_of
from ._watch import Watch, is_ours

__all__ = ["attention_maps", "mass_on", "patch_mask", "summary_maps"]

Maps = dict[str, dict[str, Tensor]]
Reduced = TypeVar("Reduced")


@overload
def attention_maps(model: nn.Module, images: Any, *, where: Where = "*") -> Maps: ...


@overload
def attention_maps(model: nn.Module, images: Any, *, where: Where = "*", reduce: Callable[[str, dict[str, Tensor]], Reduced]) -> dict[str, Reduced]: ...


@torch.no_grad()
def attention_maps(model: nn.Module, images: Any, *, where: Where = "*", reduce: Callable[[str, dict[str, Tensor]], Any] | None = None) -> dict[str, Any]:
    """The maps of every attention in any model for these images, by layer, in the order in which they were computed.

    Fused kernels do not hide them. A plain attention (``F.scaled_dot_product_attention`` or ``nn.MultiheadAttention`` anywhere, and the attentions that
    conversion knows in all their settings) computes in the open for this one run, and its map is the one its output was made with: masks, windows, biases and
    rotary positions are in it. An attention of ours is shown its own input again. The model runs once, in evaluation mode, and is left as it was; compiled
    parts run uncompiled.

    Args:
        model: ours, converted, or anybody's.
        images: what the model is called with; a mapping is given by name, as ``model(**images)``.
        where: which attentions, as in :func:`foveal.convert_`. An attention that was converted goes by the name of its place, as before.
        reduce: ``f(layer, maps)``, called as soon as a layer has its maps; what it gives back is kept in their stead, so that one layer's maps are in memory
            at a time.

    Returns:
        By layer, by map, ``(B, H, Nq, Nk)``: ``combined`` always, with ``positive`` and ``negative`` where an attention is signed. Attention in windows has
        the windows of an image one after the other in B. An attention that is called again in the same run has ``:2``, ``:3`` … behind its name.

    Raises:
        ValueError: no attention was seen, or none that is chosen; an attention of ours of which no map is known.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> attention_maps(layer, torch.randn(2, 9, 16))["self_attn"]["combined"].shape
        torch.Size([2, 4, 9, 9])
    """
    found: dict[str, Any] = {}

    def keep(name: str, maps: dict[str, Tensor]) -> None:
        again = sum(1 for other in found if other.partition(":")[0] == name)
        label = name if not again else f"{name}:{again + 1}"
        found[label] = maps if reduce is None else reduce(label, maps)

    names, chosen = layer_names(model), matcher(where)

    def wanted(module: nn.Module) -> bool:
        return chosen(names[module], module)

    def show(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        keep(names[module], module.attention_map(*args, **kwargs))  # type: ignore[operator]

    watch = Watch(model, wanted, lambda module, weights: keep(names[module], {"combined": weights}))
    handles = [module.register_forward_hook(show, with_kwargs=True) for module in outermost_ours(model) if wanted(module)]
    try:
        with evaluating(model), watch.watching():
            call(model, images)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise nothing_seen(where)
    return found


@torch.no_grad()
def summary_maps(model: nn.Module, images: Any) -> dict[str, Tensor]:
    """The maps over the image of every block whose pixels meet in a summary, by layer, ``(B, K, h, w)``: of slots in external attention, of channels of the
    keys in efficient and linear attention.

    They are linear in pixels where maps from pixels to pixels are quadratic. The model runs once, in evaluation mode.

    Args:
        model: with blocks on maps, such as ``external_2d``, ``efficient_2d`` and ``linear_2d``; of a model without any nothing comes back.
        images: what the model is called with.
    """
    names, found = layer_names(model), dict[str, Tensor]()

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


def nothing_seen(where: Where) -> InputError:
    if where != "*":
        return InputError(f"no attention that ran is chosen by {where!r}; leave `where` out to see the names of all")
    return InputError(
        "the model has no attention whose maps could be seen: none of ours, no scaled_dot_product_attention, no nn.MultiheadAttention, "
        f"and none of the known classes: {', '.join(known_hosts())}; teach another with foveal.register_host"
    )


def layer_names(model: nn.Module) -> dict[nn.Module, str]:
    """The name of every module; what conversion put in goes by the name of its place, with all that is in it."""
    names = {module: name for name, module in model.named_modules()}
    for place, replacement in places_of(model):
        names |= dict.fromkeys(replacement.modules(), place)
    return names


def outermost_ours(model: nn.Module) -> list[nn.Module]:
    """Attentions of ours that are not parts of others."""
    ours = [module for module in model.modules() if is_ours(module)]
    inner = {part for module in ours for part in module.modules() if part is not module}
    return [module for module in ours if module not in inner]


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
        for module, training in modes.items():
            module.training = training
