"""Heads of another width than the host's, from the host's weights.

Per head, the host's logits are x̃ᵀ W̃_Qᵀ W_K y and what it gives is W_O W_V y: two maps of rank D. A singular value decomposition of each, cut at the new width
and split as Σ^½ on both sides, is the nearest map of that rank (Eckart and Young), in the mean over directions of the tokens.
Queries and keys are factorized together: each for itself, as rjccv/DnA does for its half-width variant, has two bases that do not fit, and its logits are
all but unrelated to the host's.

Biases     exact at every width where they can be. What the bias of keys adds is the same for all keys of a query, which softmax does not see: it goes. That of
           queries is a further column of W_Q, ``x̃ = (x, 1)``. That of values is kept as far as the new heads can hold it; rows of a map sum to one, so the
           rest goes through W_O into the bias of ``proj``. Where ``proj`` has none it is a further column of W_V.
Wider      further rows of Q are 0, of K and V drawn, columns of W_O 0: the function is the host's, and gradients reach all of them.

Heads are made narrower and not fewer: the maps of all heads stay. Two thirds of the host's width make denoising attention as large as the host.

Shapes     H heads, D the host's head width, R the new one, C width of the tokens
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .._errors import InputError
from ._host import Place
from ._parts import linear_of

__all__ = ["Widened", "like", "of_width"]

_NOTHING = 1e-6
"""Share of a map, in its Frobenius norm, that counts as none of it: what rounding leaves of a head whose rank is lower than its width."""


@dataclass(frozen=True)
class Widened:
    """A place with heads of the wanted width, and the shares of the maps that were cut off: root of the cut energy over the whole, over all heads."""

    place: Place
    logits_lost: float
    values_lost: float

    @property
    def kept(self) -> bool:
        return max(self.logits_lost, self.values_lost) < _NOTHING


def of_width(place: Place, width: int, name: str) -> Widened:
    """The place with heads of ``width``; its ``qkv`` and ``proj`` are new layers.

    Raises:
        ValueError: norms and positions that turn queries or are multiplied with them, which belong to the host's width; layers that are more than a linear map.
    """
    for part in ("q_norm", "k_norm", "norm"):
        if not isinstance(getattr(place, part), nn.Identity):
            raise InputError(_refusal(place, width, name, f"{part} normalizes over the host's width"))
    if getattr(place.position, "of_queries", False):
        raise InputError(_refusal(place, width, name, "its positions are multiplied with queries of the host's width"))
    if place.rotary:
        raise InputError(_refusal(place, width, name, "its rotary positions turn heads of the host's width"))
    for part in ("qkv", "proj"):
        layer = getattr(place, part)
        if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
            raise InputError(_refusal(place, width, name, f"its {part} is more than a plain linear map, such as an adapter, a parametrization or a hook"))
    qkv, proj = place.qkv, place.proj
    assert isinstance(qkv, nn.Linear), "checked above"
    assert isinstance(proj, nn.Linear), "checked above"
    with torch.no_grad():
        # float64 wherever the weights lie: not all devices have it
        weights = [_by_head(part, place.num_heads) for part in qkv.weight.double().cpu().chunk(3)]
        biases: list[Tensor | None] = [None] * 3 if qkv.bias is None else [_by_head(part, place.num_heads) for part in qkv.bias.double().cpu().chunk(3)]
        back = proj.weight.double().cpu().unflatten(1, (place.num_heads, -1)).transpose(0, 1)
        make = _wider if width > place.head_dim else _narrower
        rows, row_biases, columns, added, lost = make(weights, biases, back, width, proj.bias is not None)
        # a core divides by the root of its own width
        rows[0] *= (width / place.head_dim) ** 0.5
        row_biases[0] *= (width / place.head_dim) ** 0.5
        bias = None if proj.bias is None else proj.bias.double().cpu() + added
        new_qkv = like(qkv, torch.cat([part.flatten(0, 1) for part in rows]), None if qkv.bias is None else torch.cat([b.flatten() for b in row_biases]))
        new_proj = like(proj, columns.transpose(0, 1).flatten(1), bias)
    return Widened(replace(place, head_dim=width, qkv=new_qkv, proj=new_proj), *lost)


_Made = tuple[list[Tensor], list[Tensor], Tensor, Tensor, tuple[float, float]]
"""Rows of queries, keys and values ``(H, R, C)`` and their biases ``(H, R)``, ``proj`` ``(H, C, R)``, what is added to its bias, and the shares cut off."""


def _narrower(weights: list[Tensor], biases: list[Tensor | None], back: Tensor, width: int, has_bias: bool) -> _Made:
    q, k, v = weights
    b_q, _, b_v = (torch.zeros_like(part[..., 0]) if bias is None else bias for part, bias in zip(weights, biases, strict=True))
    left, right, logits_lost = _cut(_with_column(q, b_q).transpose(-2, -1), k, width)
    out, values, values_lost = _cut(back, v if has_bias else _with_column(v, b_v), width)
    given = back @ b_v[..., None]
    held = torch.linalg.pinv(out) @ given if has_bias else values[..., -1:]
    rows = [left.transpose(-2, -1)[..., :-1].clone(), right, values[..., : v.shape[-1]]]
    row_biases = [left.transpose(-2, -1)[..., -1].clone(), torch.zeros_like(right[..., 0]), held[..., 0]]
    return rows, row_biases, out, (given - out @ held).sum((0, 2)), (logits_lost, values_lost)


def _wider(weights: list[Tensor], biases: list[Tensor | None], back: Tensor, width: int, has_bias: bool) -> _Made:
    heads, old, dim = weights[0].shape
    drawn = [torch.empty(heads, width - old, dim, dtype=torch.float64).uniform_(-(dim**-0.5), dim**-0.5) for _ in range(2)]
    further = [torch.zeros(heads, width - old, dim, dtype=torch.float64), *drawn]
    rows = [torch.cat([part, more], dim=1) for part, more in zip(weights, further, strict=True)]
    none = torch.zeros(heads, width, dtype=torch.float64)
    row_biases = [none.clone() if bias is None else torch.cat([bias, none[:, old:]], dim=1) for bias in biases]
    columns = torch.cat([back, torch.zeros(heads, back.shape[1], width - old, dtype=torch.float64)], dim=2)
    return rows, row_biases, columns, torch.zeros(back.shape[1], dtype=torch.float64), (0.0, 0.0)


def _cut(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """``left @ right``, ``(H, n, D) @ (H, D, m)``, as the nearest ``(H, n, R) @ (H, R, m)``, and how far it is, relative to its norm.

    By way of two QR decompositions: the matrices decomposed are of the host's head width, not of the width of the tokens.
    """
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.transpose(-2, -1))
    u, s, vh = torch.linalg.svd(r_left @ r_right.transpose(-2, -1), full_matrices=False)
    energy = s.square().sum()
    lost = 0.0 if energy == 0 else (s[:, rank:].square().sum() / energy).sqrt().item()
    root = s[:, :rank].sqrt()
    a, b = q_left @ (u[..., :rank] * root[:, None]), (root[..., None] * vh[:, :rank]) @ q_right.transpose(-2, -1)
    # a pair of singular vectors is known up to its sign: one rule for it, or a saved half of the pair would not fit the other half made elsewhere
    sign = a.gather(1, a.abs().argmax(1, keepdim=True)).sign()
    sign[sign == 0] = 1
    return a * sign, b * sign.transpose(-2, -1), lost


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(0, (heads, -1))


def _with_column(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight, bias.unsqueeze(-1)], dim=-1)


def like(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear map with these numbers, and dtype, device and ``requires_grad`` of another."""
    out = linear_of(nn.Parameter(weight.to(layer.weight)), None if bias is None else nn.Parameter(bias.to(layer.weight)))
    out.weight.requires_grad_(layer.weight.requires_grad)
    if bias is not None:
        out.bias.requires_grad_(layer.bias.requires_grad)
    return out.train(layer.training)


def _refusal(place: Place, width: int, name: str, why: str) -> str:
    return f"{name} attention with attn_head_dim={width} cannot be made from heads of {place.head_dim}: {why}; leave attn_head_dim out"
