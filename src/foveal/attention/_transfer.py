"""What an attention keeps of the weights of another in whose place it is put. Every mechanism says so itself, in ``adopt_``; here is what they share.

``qkv`` and ``proj`` mean the same in all attentions of pairs, so the host's own layers are used, with their hooks, adapters and ``requires_grad``.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ._base import TokenAttention

__all__ = ["PARTS", "HostLayers", "Transfer", "WarmStart", "adopt_by_name", "adopt_layers", "copy_rows", "make_the_rest", "names_in", "rest_is_new", "rows_of"]

PARTS = ("qkv", "proj", "q_norm", "k_norm", "norm")
"""Layers that a host gives, by the names that they have in ours."""

WarmStart = float | Literal["exact"]
"""How large W_Q⁻ and W_V⁻ start, relative to W_Q and W_V; ``"exact"`` is V⁻ = 0, which leaves the function what it was."""


class HostLayers(Protocol):
    """What the place gives in which an attention is put: :class:`foveal.convert.Place` is one. Layers are the host's own and used as they are, not copied."""

    @property
    def dim(self) -> int:
        """Width C of the tokens."""

    @property
    def num_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def qkv(self) -> nn.Module:
        """A linear map to queries, keys and values, ``(3 · I, C)``."""

    @property
    def proj(self) -> nn.Module:
        """A linear map back, ``(C, I)``."""

    @property
    def q_norm(self) -> nn.Module: ...
    @property
    def k_norm(self) -> nn.Module: ...
    @property
    def norm(self) -> nn.Module: ...
    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens; None where the host does not say."""

    @property
    def rotary(self) -> bool:
        """Whether the host turns queries and keys by their positions."""

    @property
    def softcap(self) -> float | None:
        """Within what the host keeps its logits, see :func:`foveal.functional.softmax_attention`."""

    @property
    def weight(self) -> Tensor:
        """Of ``proj``: its dtype and device are those of the place."""


@dataclass
class Transfer:
    """What became of the weights, by the names they have in our module."""

    kept: list[str] = field(default_factory=list)
    """The host's own parameters, or where several became one, their values."""
    mapped: list[str] = field(default_factory=list)
    """Made from the host's."""
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Of the host; those of keys and values, say."""
    function: str = "changed"
    """``kept`` to the last bits, ``nearly kept``, or ``changed``."""
    notes: list[str] = field(default_factory=list)


def adopt_layers(module: Any, place: HostLayers) -> Transfer:
    """All of the host's layers in the place of ours, and a start for what the host did not give. What is new is not told yet, see :func:`rest_is_new`."""
    out = Transfer()
    for part in PARTS:
        setattr(module, part, getattr(place, part))
    out.kept = names_in(place, *PARTS)
    make_the_rest(module, place)
    return out


@torch.no_grad()
def adopt_by_name(module: "TokenAttention", place: HostLayers, inner: nn.Module | None = None) -> Transfer:
    """Layers of the same name and shape mean the same and are the host's, and all else starts as it was made.

    Args:
        module: the attention.
        place: where it is put.
        inner: the child ``attn`` of ``module`` that has the layers; the module itself if None.
    """
    out, prefix = Transfer(), "" if inner is None else "attn."
    inner = module if inner is None else inner
    own = dict(inner.named_children())
    for part in PARTS:
        theirs: Any = getattr(place, part)
        if part not in own or isinstance(own[part], nn.Identity) != isinstance(theirs, nn.Identity):
            continue
        if isinstance(theirs, nn.Identity) or (_shapes(own[part]) == _shapes(theirs)):
            setattr(inner, part, theirs)
            out.kept += [f"{prefix}{part}.{name}" for name, _ in theirs.named_parameters()]
    rows = dict(zip("qkv", rows_of(place.qkv), strict=True))
    for part, (weight, bias) in rows.items():
        layer = own.get(part)
        if "qkv" not in own and type(layer) is nn.Linear and layer.weight.shape == weight.shape and (layer.bias is None) == (bias is None):
            copy_rows(layer, (weight, bias), 1.0)
            out.mapped += [f"{prefix}{part}.{name}" for name, _ in layer.named_parameters()]
    objects = {id(value) for value in module.parameters()}
    taken = {part for part in rows if f"{prefix}{part}.weight" in out.mapped}
    for part in PARTS:
        gone = [name for name, value in getattr(place, part).named_parameters() if id(value) not in objects]
        if part == "qkv" and gone and taken:
            out.dropped += [] if len(taken) == 3 else [f"qkv rows of {', '.join(sorted(set(rows) - taken))}"]
        else:
            out.dropped += [f"{part}.{name}" for name in gone]
    make_the_rest(module, place)
    out.notes.append(f"{module.name} attention has no rule of its own: layers of the same name and shape are the host's, the rest is as it was made")
    return rest_is_new(module, out)


def make_the_rest(module: nn.Module, place: HostLayers) -> None:
    """Memory, and a start, for what the host did not give."""
    for part in reversed(list(module.modules())):
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        missing = [name for name, value in own if value.is_meta]
        for name in missing:
            empty = torch.empty_like(getattr(part, name), device=place.weight.device)
            if isinstance(getattr(part, name), nn.Parameter):
                setattr(part, name, nn.Parameter(empty, requires_grad=getattr(part, name).requires_grad))
            else:
                setattr(part, name, empty)
        if missing:
            part.reset_parameters()  # type: ignore[operator]


def rest_is_new(module: nn.Module, out: Transfer) -> Transfer:
    """All parameters that were neither kept nor mapped are told as new."""
    known = {*out.kept, *out.mapped}
    out.new += [name for name, _ in module.named_parameters() if name not in known]
    return out


def names_in(owner: Any, *parts: str) -> list[str]:
    """Parameters of these parts of a module or a place, with the part in front."""
    return [f"{part}.{name}" for part in parts for name, _ in getattr(owner, part).named_parameters()]


def rows_of(qkv: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of queries, keys and values."""
    weights = qkv.weight.chunk(3)  # type: ignore[operator]
    biases = [None] * 3 if getattr(qkv, "bias", None) is None else qkv.bias.chunk(3)  # type: ignore[operator]
    return list(zip(weights, biases, strict=True))


def copy_rows(layer: nn.Linear, rows: tuple[Tensor, Tensor | None], scale: float) -> None:
    """Weight and bias of a layer, ``scale`` times those of the host."""
    layer.weight.copy_(scale * rows[0])
    if rows[1] is not None:
        layer.bias.copy_(scale * rows[1])


def _shapes(layer: Any) -> list[tuple[int, ...] | None]:
    """Of weight and bias."""
    return [None if getattr(layer, name, None) is None else tuple(getattr(layer, name).shape) for name in ("weight", "bias")]
