"""How ours is made in the place of a host whose forward goes on around it: the host's own maps, with what follows them token by token.

Shapes     B samples or windows, H heads, N tokens, D head width, I = H·D
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..._errors import InputError
from ...attention._apart import Apart
from .._host import Place
from .._parts import Scaled
from ._body import Body
from ._flow import channels_first
from ._mapped import NOTHING, Chain, Mapped, NoMap, Summed
from ._place import _qkv
from ._plan import Part

__all__ = ["ONE_ASKS", "Kept", "Made", "kept_place"]

ONE_ASKS = "one token asks, as a class token does, and all tokens are read"
"""Of an attention that is converted with those of all tokens: what asks is made of the tokens that are read, unlike in cross-attention."""


@dataclass(frozen=True)
class Made:
    """How queries, keys or values come out of a map."""

    path: str
    """Empty where the tokens ask as they are."""
    behind: tuple[tuple[str, str], ...]
    rows: tuple[int, ...]
    """Head by head, of the width that all three have."""
    norm: str
    others: tuple[str, ...] = ()
    """Paths of further maps whose numbers are added."""
    streams: tuple[int, ...] = ()
    """Which of the tokens that lie side by side each map takes; empty where there is but one map, of all."""


@dataclass(frozen=True)
class Kept:
    """What was found of a host: how ours is made in its place, and the code around it."""

    parts: tuple[Made, Made, Made]
    num_heads: int
    head_dim: int
    factor: float
    """Of the products."""
    proj: str
    """Empty where there is none."""
    reordered: bool
    """Whether the host has a head's width in front of the heads."""
    before_proj: tuple[str, ...]
    attn_drop: float
    asks_apart: bool
    reads_others: bool
    values_apart: bool
    biased: bool
    code: Body
    kept: tuple[str, ...]
    one_asks: bool = False
    """Whether one of its tokens asks and all are read, as where a class token does."""
    turned: tuple[bool, bool] = (False, False)
    """Whether the host's own code does something to queries and to keys once they are cut into heads."""
    pooled: bool = False
    """Whether fewer queries leave it than came."""
    softcap: float | None = None
    """Within what the host keeps its logits."""


def kept_place(module: nn.Module, found: Kept) -> Place:
    """From the module itself, or from the copy that was looked at."""
    inner = found.num_heads * found.head_dim
    qkv, copied = _of_parts(module, found)
    proj: Any = module.get_submodule(found.proj) if found.proj else NoMap(inner, _layer(module, found, 2))
    if channels_first(proj):
        proj = Mapped(proj, (), range(proj.weight.shape[0]))
    q_norm, k_norm = (module.get_submodule(part.norm) if part.norm else nn.Identity() for part in found.parts[:2])
    factor = found.factor * found.head_dim**0.5
    if abs(factor - 1) > 1e-5:
        q_norm = Scaled(q_norm, factor)
    before = [module.get_submodule(path) for path in found.before_proj]
    dim: int = qkv.weight.shape[1]
    return Place(
        dim=dim,
        dim_out=proj.weight.shape[0],
        num_heads=found.num_heads,
        head_dim=found.head_dim,
        qkv=qkv,
        proj=proj,
        q_norm=q_norm,
        k_norm=k_norm,
        norm=Chain(found.num_heads if found.reordered else 0, before) if found.reordered or before else nn.Identity(),
        attn_drop=found.attn_drop,
        no_grid="where its host cuts, reduces or pools them",
        windows=None,
        needs_pairs="a bias is added to each pair of its tokens" if found.biased else "",
        reads_others="its keys and values are other tokens than its queries" if found.reads_others else "",
        rotary=any(found.turned),
        softcap=found.softcap,
        heads_fixed="its own code turns or pools its heads, as many as it has" if any(found.turned) else "",
        one_stream="its queries are pooled behind their map" if found.pooled else "",
        asks_apart=found.asks_apart,
        notes=(ONE_ASKS,) if found.one_asks and not found.asks_apart else (),
        checked=True,
        copied=copied,
    )


def _of_parts(module: nn.Module, found: Kept) -> tuple[Any, Any]:
    layers: list[Any] = [_layer(module, found, index) for index in range(3)]
    if any(part.streams for part in found.parts):
        return _of_streams(module, found)
    widths = {layer.weight.shape[1] for layer in layers}
    if len(widths) != 1:
        raise InputError(f"its queries are made of tokens of another width than its keys ({' and '.join(map(str, sorted(widths)))})")
    if all(part.path for part in found.parts) and not any(
        part.behind or (part.norm and part is found.parts[2]) or NOTHING in part.rows or len(set(part.rows)) < len(part.rows) or _is_wide(layer, found)
        for part, layer in zip(found.parts, layers, strict=True)
    ):
        plain = [Part(part.path, part.rows, ()) for part in found.parts]
        return _qkv(module, _plain(plain, found))
    one = len({id(layer) for layer in layers}) == 1 and len({part.behind for part in found.parts}) == 1 and not found.parts[2].norm
    made = [Mapped(layer, _behind(module, part), part.rows) for part, layer in zip(found.parts, layers, strict=True)]
    if found.parts[2].norm:
        made[2] = Mapped(layers[2], _behind(module, found.parts[2]), found.parts[2].rows, module.get_submodule(found.parts[2].norm), found.num_heads)
    if one and not found.reads_others:
        rows = [row for part in found.parts for row in part.rows]
        return Mapped(layers[0], _behind(module, found.parts[0]), rows), ()
    return Apart(*made), ()


def _layer(module: nn.Module, found: Kept, index: int) -> Any:
    """The map of queries, keys or values; where tokens ask as they are, one that does nothing."""
    path = found.parts[index].path
    return module.get_submodule(path) if path else NoMap(len(found.parts[index].rows), module.get_submodule(found.parts[2].path))


def _behind(module: nn.Module, part: Made) -> list[tuple[nn.Module, str]]:
    return [(module.get_submodule(path), way) for path, way in part.behind]


def _of_streams(module: nn.Module, found: Kept) -> tuple[Any, Any]:
    """Of tokens that lie side by side, as their contents and their positions."""
    layers = [(module.get_submodule(path), stream) for part in found.parts for path, stream in zip((part.path, *part.others), part.streams, strict=True)]
    widths: dict[int, int] = {stream: layer.weight.shape[1] for layer, stream in layers}  # type: ignore[misc, index]
    ends = [sum(widths[one] for one in range(stream + 1)) for stream in range(len(widths))]
    places = [(end - widths[stream], end) for stream, end in enumerate(ends)]

    def summed(part: Made) -> Summed:
        paths = (part.path, *part.others)
        return Summed([(Mapped(module.get_submodule(path), (), part.rows), places[stream]) for path, stream in zip(paths, part.streams, strict=True)], ends[-1])

    return Apart(*(summed(part) for part in found.parts)), ()


def _is_wide(layer: Any, found: Kept) -> bool:
    """Whether a map gives more than queries, keys and values, so that its rows cannot be copied out of it."""
    own = sum(len(part.rows) for part in {part.rows: part for part in found.parts}.values())
    return bool(layer.weight.shape[0] > own)


@dataclass(frozen=True)
class _Plain:
    parts: tuple[Part, ...]
    num_heads: int
    head_dim: int


def _plain(parts: list[Part], found: Kept) -> Any:
    """What ``_qkv`` asks of a plan."""
    return _Plain(tuple(parts), found.num_heads, found.head_dim)
