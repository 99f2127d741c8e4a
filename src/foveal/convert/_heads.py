"""More heads than the host's, and its function as it was.

Each further head is one of the host's with its query turned over and no values: W_Q' = −W_Q, W_K' = W_K, W_V' = 0, W_O' = W_O. It gives nothing, so the
function is kept; its values learn from the first step, through an output map that is trained, and all else of it from the second. Other exact starts are worse:
an output map of zeros behind random heads begins with what is not trained, and two equal halves of a head stay equal, as their gradients are. And it is where
exact denoising attention starts (Q⁻ = Q, V⁻ = 0, a softmin of the trained map), so that a retrofit with denoising and one with as many weights of softmax
differ in their kind and not in their start. Nothing is drawn: made again, the conversion is the same to the last bit.
"""

from dataclasses import replace

import torch
from torch import nn

from .._errors import InputError
from ._host import Place
from ._width import like

__all__ = ["with_extra_heads"]


def with_extra_heads(place: Place, extra: int, name: str) -> Place:
    """The place with so many heads more, whose ``qkv`` and ``proj`` are new layers.

    Args:
        place: as the host was read.
        extra: at most as many as there are: two further heads of one would learn the same.
        name: of the attention, for errors.

    Raises:
        ValueError: more than twice the heads; a norm over all heads; a bias of pairs, which is one for each head; layers that are more than a linear map.
    """
    heads, reason = place.num_heads, ""
    if extra > heads:
        reason = f"two further heads of one would learn the same; give at most {2 * heads} heads"
    elif not isinstance(place.norm, nn.Identity):
        reason = "norm normalizes over all heads, and more of them change what it gives"
    elif place.heads_fixed:
        reason = place.heads_fixed
    elif place.position is not None or place.given_bias:
        reason = "it has a bias of pairs for each of its heads, and none for more"
    for part in ("qkv", "proj"):
        layer = getattr(place, part)
        if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
            reason = reason or f"its {part} is more than a plain linear map, such as an adapter, a parametrization or a hook"
    if reason:
        raise InputError(f"{name} attention with {heads + extra} heads cannot be made from {heads}: {reason}")
    qkv, proj = place.qkv, place.proj
    assert isinstance(qkv, nn.Linear), "checked above"
    assert isinstance(proj, nn.Linear), "checked above"
    more = extra * place.head_dim
    with torch.no_grad():
        rows = [torch.cat([part, sign * part[:more]]) for part, sign in zip(qkv.weight.chunk(3), (-1, 1, 0), strict=True)]
        biases = None if qkv.bias is None else [torch.cat([part, sign * part[:more]]) for part, sign in zip(qkv.bias.chunk(3), (-1, 1, 0), strict=True)]
        new_qkv = like(qkv, torch.cat(rows), None if biases is None else torch.cat(biases))
        new_proj = like(proj, torch.cat([proj.weight, proj.weight[:, :more]], dim=1), None if proj.bias is None else proj.bias.clone())
    return replace(place, num_heads=heads + extra, qkv=new_qkv, proj=new_proj)
