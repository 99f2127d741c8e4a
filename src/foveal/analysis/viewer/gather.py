"""What the viewer shows of a model and an image: all maps of all layers, whole, with where their tokens lie, and how they add up through the layers."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...convert import Where, matcher
from .._names import unwrapped
from ..layout import Layout, token_layout
from ..maps import attention_maps, call, evaluating, refuse_missing, summary_maps
from ..rollout import Flow
from ._clips import clip_layer, frame_layout
from .viewed import NothingToShow, ViewedLayer, ViewedModel, refuse_large, strengths_of

__all__ = ["Beside", "answer_", "view_model"]

SHOWN_CHANNELS = 12
"""Of the channels or slots of a block on feature maps: those that vary most over the image."""


class Beside(Protocol):
    """Who takes something of all maps of the same run, such as pictures of where the head looks."""

    missing: dict[str, str]
    """Is set to the attentions that ran and whose maps were not seen, and why."""

    def take(self, layer: str, maps: dict[str, Tensor]) -> None:
        """The maps of a layer, which are gone afterwards."""


def view_model(
    model: nn.Module,
    inputs: Tensor,
    *,
    name: str | None = None,
    where: Where = "*",
    labels: Mapping[int, str] | Sequence[str] | None = None,
    truth: int | str | None = None,
    trained: bool = True,
    beside: Beside | None = None,
) -> ViewedModel:
    """Gather what the page shows. The model runs once, and where it has blocks that meet in a summary once more.

    Args:
        model: ours, converted, or anybody's; it is left as it was.
        inputs: one image as the model takes it, ``(1, C, H, W)``; or one video, ``(1, C, T, H, W)``, of transformers ``(1, T, C, H, W)``.
        name: how the page calls it; the class of the model if None.
        where: which attentions, as in :func:`foveal.convert_`.
        labels: names of classes, by index.
        truth: the true class, by index or by its name in ``labels``.
        trained: whether an answer of the model means anything.
        beside: who is given the maps of every layer too.

    Raises:
        ValueError: no attention is chosen or seen; none is over the whole image; a true class that is none of the labels.
    """
    if inputs.ndim not in (4, 5) or len(inputs) != 1:
        raise InputError(f"the viewer looks at one image, (1, C, H, W), or one video, got {tuple(inputs.shape)}; give one image at a time")
    named = {index: str(label) for index, label in (enumerate(labels) if isinstance(labels, Sequence) else (labels or {}).items())}
    index = _truth(truth, named)
    size = (inputs.shape[-2], inputs.shape[-1])
    frame = frame_layout(model, size) if inputs.ndim == 5 else None
    viewed = ViewedModel(name or type(model).__name__, [])
    chosen = matcher(where, model)

    def pairs(place: str, module: nn.Module) -> bool:
        # pixels that meet in a summary have maps of pairs as well, quadratic in pixels: of them the summary is shown
        return chosen(place, module) and not hasattr(module, "summary_maps")

    summaries = any(hasattr(module, "summary_maps") for module in model.modules())
    flow, outputs, missing = Flow(), list[Any](), dict[str, str]()

    def keep(layer: str, maps: dict[str, Tensor]) -> None:
        if beside is not None:
            beside.take(layer, maps)
            if summaries and hasattr(model.get_submodule(layer.split(":")[0]), "summary_maps"):
                return
        flow.take(maps)
        try:
            viewed.layers.append(_layer(model, layer, maps, size) if frame is None else clip_layer(layer, maps, frame))
        except InputError as error:
            viewed.notes.append(f"{layer} is not shown: {error}")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"the maps of \d+ attentions that ran are missing")
        listening = unwrapped(model).register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            missing = attention_maps(model, inputs, where=pairs if summaries and beside is None else where, reduce=keep).missing
            viewed.notes += [f"{layer} is not shown: {reason}" for layer, reason in missing.items()]
        except InputError:
            if not summaries:
                raise
        finally:
            listening.remove()
    if beside is not None:
        beside.missing = dict(missing)
    if summaries:
        viewed.layers += [
            _summary(layer, maps) for layer, maps in summary_maps(model, inputs).items() if chosen(layer, model.get_submodule(layer.split(":")[0]))
        ]
    if not viewed.layers:
        raise NothingToShow(f"no layer has maps over the whole image; {'; '.join(viewed.notes)}")
    _name_tokens(model, viewed)
    _through_layers(model, inputs, flow, missing, viewed, frame)
    if trained:
        answer_(viewed, model, inputs, named, index, *outputs)
    else:
        viewed.notes.insert(0, "the weights were drawn at random: nothing was learned, and no answer is shown")
    return viewed


def _layer(model: nn.Module, name: str, maps: dict[str, Tensor], size: tuple[int, int]) -> ViewedLayer:
    combined = maps["combined"]
    if len(combined) != 1:
        raise InputError(f"it attends in {len(combined)} windows, and not over the image")
    refuse_large(combined)
    queries, keys = combined.shape[-2:]
    at = token_layout(model, keys, size)
    own = None if queries == 1 else at if queries == keys else token_layout(model, queries, size)
    # copied, for a view would keep what it is a view of
    kept = {which: value[0].detach().float().cpu().clone() for which, value in maps.items() if value.shape[:3] == combined.shape[:3]}
    strengths = strengths_of(kept)
    if strengths is not None:
        del kept["combined"]
    return ViewedLayer(name, kept, own, at, strengths)


def _summary(name: str, maps: Tensor) -> ViewedLayer:
    values = maps[0].detach().float().cpu()
    varies = values.flatten(1).std(-1, correction=0) / values.flatten(1).abs().mean(-1).clamp_min(torch.finfo(values.dtype).tiny)
    shown = varies.argsort(descending=True, stable=True)[:SHOWN_CHANNELS].sort().values
    grid = (values.shape[-2], values.shape[-1])
    return ViewedLayer(
        f"{name}, {len(shown)} of {len(values)} summary maps" if len(shown) < len(values) else f"{name}, summary maps",
        {"combined": values[shown].flatten(1)[:, None]},
        None,
        Layout(0, grid, 0, "mean"),
        heads=[f"map {index}" for index in shown.tolist()],
    )


def _name_tokens(model: nn.Module, viewed: ViewedModel) -> None:
    layouts = [layout for layer in viewed.layers for layout in (layer.queries, layer.keys) if layout is not None]
    most = max(layouts, key=lambda layout: layout.num_prefix_tokens)
    viewed.looks = most.looks
    first = [] if most.num_prefix_tokens == 0 else ["class token"] if _has_class_token(model, most) else []
    if first and any(isinstance(getattr(module, name, None), Tensor) for module in model.modules() for name in ("dist_token", "distillation_token")):
        first.append("distillation token")
    rest = most.num_prefix_tokens - len(first)
    viewed.prefix = [*first, *(["register"] if rest == 1 else [f"register {n + 1}" for n in range(rest)])][: most.num_prefix_tokens]


def _has_class_token(model: nn.Module, layout: Layout) -> bool:
    if layout.pooling == "token":
        return True
    names = ("cls_token", "class_token", "class_embedding")
    return any(isinstance(getattr(module, name, None), Tensor) for module in model.modules() for name in names)


def _through_layers(model: nn.Module, inputs: Tensor, flow: Flow, missing: Mapping[str, str], viewed: ViewedModel, frame: Layout | None) -> None:
    try:
        refuse_missing(missing, "rollout")
        flows: dict[str, Tensor] = {kind: value.float().cpu() for kind, value in flow.result().items()}
        tokens = next(iter(flows.values())).shape[-1]
        layout = token_layout(model, tokens, (inputs.shape[-2], inputs.shape[-1])) if frame is None else frame
        frames = (tokens - layout.num_prefix_tokens - layout.num_suffix_tokens) // (layout.grid[0] * layout.grid[1])
    except InputError as error:
        viewed.notes.append(f"no rollout: {error}")
    else:
        viewed.rollout = ViewedLayer("rollout", flows, layout, layout, heads=["rollout"], frames=frames)


def _truth(truth: int | str | None, labels: Mapping[int, str]) -> int | None:
    if truth is None or isinstance(truth, int):
        return truth
    found = [index for index, label in labels.items() if label == truth or truth in [part.strip() for part in label.split(",")]]
    if len(found) != 1:
        raise InputError(f"{truth!r} is {'no class' if not found else 'more than one class'} of this model; give the class by its index")
    return found[0]


def answer_(viewed: ViewedModel, model: nn.Module, inputs: Tensor, labels: Mapping[int, str], truth: int | None, *outputs: Any) -> None:
    """Fill in what the model answers, and the place of the true class.

    Args:
        viewed: of the model.
        model: runs, unless its output is there.
        inputs: of it.
        labels: names of classes.
        truth: the true class.
        outputs: of the run before; the last is the model's.

    Raises:
        ValueError: a true class where there are no logits, or so many classes are not.
    """
    if not outputs:
        with torch.no_grad(), evaluating(model):
            outputs = (call(model, inputs),)
    output = outputs[-1]
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    # a model without a head gives features, (1, C) like logits
    headless = getattr(model, "num_classes", None) == 0
    if logits is None or logits.ndim != 2 or logits.shape[1] < 2 or headless:
        if truth is not None:
            raise InputError(f"{viewed.name} gives no logits (1, classes), among which a true class could stand; leave truth out")
        return
    chance = logits.softmax(-1)[0].double().cpu()
    if truth is not None and not 0 <= truth < len(chance):
        raise InputError(f"{viewed.name} has {len(chance)} classes, and the true one is said to be {truth}; give an index from 0 to {len(chance) - 1}")
    said: Callable[[int], str] = lambda index: labels.get(index, f"class {index}")  # noqa: E731
    order = chance.argsort(descending=True, stable=True).tolist()
    viewed.answers = [(said(index), float(chance[index])) for index in order[:5]]
    if truth is not None:
        viewed.truth = (said(truth), float(chance[truth]), order.index(truth) + 1)
