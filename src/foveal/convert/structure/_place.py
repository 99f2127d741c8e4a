"""A :class:`Place` from what was found: the host's own layers where they can be used as they are, copies of their rows where not."""

from typing import Any

import torch
from torch import nn

from .._host import Place
from .._layouts import tokens_of
from .._parts import Copied, Scaled, joined, joined_parameters, linear_of
from .._placed import SHIFTED
from ._norm import norm_of
from ._plan import Plan
from ._position import position_of

__all__ = ["place_of"]

CAUSAL = "it is causal where no mask says otherwise"


def place_of(module: nn.Module, plan: Plan, model: nn.Module | None, name: str, rates: nn.Module | None = None) -> Place:
    """From the module itself, or from the copy that was looked at; ``rates`` is what knows its dropout, if another."""
    qkv, copied = _qkv(module, plan)
    proj, of_proj = _flat(module.get_submodule(plan.proj))
    q_norm, k_norm = (norm_of(module, path) for path in plan.norms)
    factor = plan.scale * plan.head_dim**0.5
    if abs(factor - 1) > 1e-5:
        q_norm = Scaled(q_norm, factor)
    sources = [part.sources for part in plan.parts]
    others = not set(sources[0]) & set(sources[2])
    tokens = tokens_of(model, name) if model is not None and not others and not plan.ends else None
    if tokens is not None and tokens.grid is not None and plan.tokens != (tokens.prefix or 0) + tokens.grid[0] * tokens.grid[1] + tokens.suffix:
        # a tower says the grid of its images, and here are others: windows, or a later stage
        tokens = None
    return Place(
        dim=proj.weight.shape[0],
        num_heads=plan.num_heads,
        head_dim=plan.head_dim,
        qkv=qkv,
        proj=proj,
        q_norm=q_norm,
        k_norm=k_norm,
        attn_drop=_rate(module, "attn", plan, rates),
        proj_drop=_rate(module, "proj", plan, rates),
        num_prefix_tokens=None if tokens is None else tokens.prefix,
        grid=None if tokens is None else tokens.grid,
        no_grid="" if tokens is None else tokens.no_grid,
        windows=1 if tokens is not None and tokens.owner is not None else None,
        needs_pairs="its queries are other tokens than its keys" if others else SHIFTED if plan.shifted else CAUSAL if plan.causal_alone else "",
        values_apart=sources[1] != sources[2],
        asks_apart=others and plan.asks_apart,
        rotary=bool(plan.rotary),
        softcap=plan.softcap,
        given_bias=any(form == "pairs" for _, form, _ in plan.given),
        position=position_of(module, plan.table),
        checked=True,
        copied=copied + of_proj,
    )


def _flat(layer: Any) -> tuple[Any, tuple[Copied, ...]]:
    """A convolution of single pixels as the linear map that it is."""
    return joined_parameters([layer.weight], [layer.bias]) if isinstance(layer, nn.Conv2d) else (layer, ())


def _qkv(module: nn.Module, plan: Plan) -> tuple[Any, tuple[Copied, ...]]:
    layers = [module.get_submodule(part.path) for part in plan.parts]
    in_order = [part.rows for part in plan.parts]
    inner = plan.num_heads * plan.head_dim
    if len({id(layer) for layer in layers}) == 1:
        layer: Any = layers[0]
        rows = [row for part in in_order for row in part]
        if rows == list(range(3 * inner)) and not isinstance(layer, nn.Conv2d):
            return layer, ()
        out, copied = joined_parameters([layer.weight], [layer.bias])
        index = torch.tensor(rows, device=layer.weight.device)
        with torch.no_grad():
            for value in out.parameters():
                value.copy_(value[index].clone())
        return out, tuple(Copied(part.layer, part.name, index.argsort(), part.host) for part in copied)
    if len({id(layer) for layer in layers}) == 3 and not any(isinstance(layer, nn.Conv2d) for layer in layers):
        return joined(layers)
    return _picked(layers, in_order)


def _picked(layers: list[Any], rows: list[tuple[int, ...]]) -> tuple[nn.Linear, tuple[Copied, ...]]:
    """Rows of several layers as one layer, a copy. Of each host parameter its rows are given back as slices, or not at all: refused where they are none."""
    weights = [layer.weight.flatten(1)[list(part)] for layer, part in zip(layers, rows, strict=True)]
    biases = [None if layer.bias is None else layer.bias[list(part)] for layer, part in zip(layers, rows, strict=True)]
    with torch.no_grad():
        whole = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True)]
        out = linear_of(torch.cat(weights), torch.cat(whole) if any(bias is not None for bias in biases) else None)
    out.weight.requires_grad_(layers[0].weight.requires_grad)
    if out.bias is not None:
        out.bias.requires_grad_(next(layer.bias.requires_grad for layer in layers if layer.bias is not None))
    copied: list[Copied] = []
    at = 0
    for layer, part in zip(layers, rows, strict=True):
        for key in ("weight", "bias"):
            if getattr(layer, key) is not None:
                copied += [
                    Copied(out, key, slice(at + one, at + one + length), getattr(layer, key), slice(start, start + length))
                    for one, start, length in _stretches(part)
                ]
        at += len(part)
    return out, tuple(copied)


def _stretches(rows: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Where rows follow one another: from which, at which of the host's, how many."""
    out: list[tuple[int, int, int]] = []
    for at, row in enumerate(rows):
        if out and row == out[-1][1] + out[-1][2]:
            out[-1] = (out[-1][0], out[-1][1], out[-1][2] + 1)
        else:
            out.append((at, row, 1))
    return out


_ATTN = ("attn_drop", "attn_dropout", "attention_dropout", "attn_drop_rate", "dropout", "dropout_p", "attention_dropout_prob")
_PROJ = ("proj_drop", "proj_dropout", "resid_drop", "projection_dropout")


def _rate(module: nn.Module, which: str, plan: Plan, rates: nn.Module | None) -> float:
    """Of the dropout that was seen at this place, or of one that is no module, by the names that hosts give it: none of it shows in evaluation."""
    if plan.drops is not None:
        path = plan.drops[0 if which == "attn" else 1]
        return module.get_submodule(path).p if path else 0.0  # type: ignore[return-value]
    for name in _ATTN if which == "attn" else _PROJ:
        value = getattr(rates or module, name, None)
        if isinstance(value, nn.Dropout):
            return value.p
        if isinstance(value, float):
            return value
    return 0.0
