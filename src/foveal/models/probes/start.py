"""Where probes start from the attentions and norms of the tower that they read."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..._errors import InputError
from ..._weights import misfits
from ...attention import AttentionConfig
from ...attention._transfer import Transfer, WarmStart
from ...convert._adopted import adopted
from ...convert._digest import refuse_empty
from ...convert._transfer import check_warm_start

__all__ = ["check_norms", "start_attentions_", "start_norms_"]


def start_attentions_(ours: Mapping[int, nn.Module], theirs: Mapping[int, nn.Module], config: AttentionConfig, alpha: WarmStart) -> dict[int, Transfer]:
    """Give each of ours, by layer, what the tower's attention of that layer holds; all of them or, where one does not fit, none.

    Raises:
        ValueError: one does not fit.
    """
    check_warm_start(None if alpha == 1e-4 else alpha, config)
    report, weights = {}, {}
    for layer, module in ours.items():
        made, report[layer] = adopted(theirs[layer], config, alpha, f"the attention of layer {layer}")
        weights[layer], wanted = made.state_dict(), module.state_dict()
        heads: Any = module
        if made.num_heads != heads.num_heads or (problems := misfits(weights[layer], wanted)):
            problems = f"{made.num_heads} heads, wanted {heads.num_heads}" if made.num_heads != heads.num_heads else problems
            raise InputError(f"the attention of layer {layer} does not fit these probes, which need its dim, num_heads and qkv_bias: {problems}")
    for layer, module in ours.items():
        module.load_state_dict(weights[layer])
    return report


def check_norms(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Whether each second norm can be copied into the first.

    Raises:
        ValueError: one is no LayerNorm with weight and bias, or has another width or eps.
    """
    for ours, theirs in pairs:
        if not isinstance(theirs, nn.LayerNorm) or theirs.normalized_shape != ours.normalized_shape or theirs.weight is None or theirs.bias is None:
            raise InputError(f"norms start from those of a tower where both are LayerNorm({ours.normalized_shape[0]}), got {theirs}; leave norms out")
        if theirs.eps != ours.eps:
            raise InputError(f"the tower's norms have eps={theirs.eps}, the probes' {ours.eps}; make the probes with norm_eps={theirs.eps}")
        refuse_empty(theirs.state_dict())


@torch.no_grad()
def start_norms_(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Copy each second norm, which was checked, into the first."""
    for ours, theirs in pairs:
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
