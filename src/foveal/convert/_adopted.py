"""An attention of ours that starts from a host's without taking its place: the map of conversion for whoever reads a tower beside it."""

import copy

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig, TokenAttention
from ._digest import refuse_empty
from ._hanging import set_otherwise
from ._host import find_host, host_key, refuse_what_cannot_be_read
from ._sources import refuse_mixtures, settled
from ._transfer import Transfer, WarmStart, build

__all__ = ["adopted"]


def adopted(module: nn.Module, config: AttentionConfig, warm_start: WarmStart, what: str) -> tuple[TokenAttention, Transfer]:
    """Our attention with what it can keep of the weights of a host's, in copies, and what became of them.

    Positions of the host, rotary or a bias of pairs, are no part of it, and are told as dropped.

    Args:
        module: the host's attention, of a class that conversion knows.
        config: what to make.
        warm_start: as in :func:`foveal.convert_`.
        what: the module in words, for errors.

    Raises:
        ValueError: a class that conversion does not know; a setting that it refuses; adapters or hooks on its layers; weights on the meta device.
    """
    host = find_host(module)
    if host is None:
        raise InputError(f"{what} is {host_key(module)}, a class that conversion does not know; teach it with foveal.register_host")
    refuse_empty(module.state_dict())
    # a copy, frozen throughout: what is made holds no parameter of the host, and layers that are trained apart become one all the same
    module = copy.deepcopy(module).requires_grad_(False)
    place = host.read(module, module, "")
    if place is None:
        raise InputError(f"{what} is cross-attention or a pooling head: its queries are other tokens than its keys")
    if not place.checked and (reason := set_otherwise(what, module, place.head_dim)):
        raise InputError(f"{what}: {reason}")
    refuse_what_cannot_be_read(what, iter((part, getattr(place, part)) for part in ("qkv", "proj", "q_norm", "k_norm", "norm")))
    refuse_mixtures(what, place)
    place, apart = settled(place, {}, None)
    if apart:
        raise InputError(f"{what} has adapters, hooks or ties on its layers of queries, keys or values; merge or take them off first")
    made, transfer = build(config, place, warm_start)
    lost = [name for name in transfer.kept if name.startswith("position.")]
    transfer.kept = [name for name in transfer.kept if name not in lost]
    transfer.dropped += lost + (["rotary positions"] if place.rotary and "rotary positions" not in transfer.dropped else [])
    return made, transfer
