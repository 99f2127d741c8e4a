"""The optimizer and the schedule of a recipe, out of timm."""

from collections.abc import Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from .groups import grouped
from .recipe import Recipe

__all__ = ["make_optimizer", "make_schedule"]


def make_optimizer(model: nn.Module, recipe: Recipe, only: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
    """Of all parameters, or of ``only`` those that are trainable now, where a phase has no others."""
    optim = recipe.optim
    # timm calls the one without Nesterov's look ahead "momentum"
    sgd = {"opt": "sgd" if optim.nesterov else "momentum", "momentum": optim.momentum}
    options: dict[str, Any] = {} if recipe.fused is None or optim.optimizer == "lamb" else {"fused": recipe.fused}
    own = sgd if optim.optimizer == "sgd" else {"opt": optim.optimizer, "betas": optim.betas, **({} if optim.eps is None else {"eps": optim.eps})}
    # a phase has parameters of its own
    everything = model.parameters() if only is None else only
    decayed = everything if optim.decay_all and not optim.lr_of else grouped(model, recipe)
    # of parameters outside of groups
    return create_optimizer_v2(decayed, lr=optim.lr, weight_decay=optim.weight_decay, **own, **options)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> Scheduler:
    optim, steps = recipe.optim, recipe.steps
    start = optim.min_lr if optim.warmup_lr is None else optim.warmup_lr
    common: dict[str, Any] = {"warmup_t": round(optim.warmup * steps), "warmup_lr_init": start, "t_in_epochs": False}
    if optim.schedule == "steps":
        # timm counts the step that is about to come, and by default from the end of the warm-up
        milestones = [round(share * steps) + 1 for share in optim.milestones]
        return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=optim.factor, warmup_prefix=False, **common)
    if optim.schedule == "constant":
        # milestones beyond the end: the warm-up, and the rate as it is
        return MultiStepLRScheduler(optimizer, decay_t=[], warmup_prefix=False, **common)
    if optim.schedule == "poly":
        return PolyLRScheduler(optimizer, t_initial=steps, power=optim.power, lr_min=optim.min_lr, **common)
    return CosineLRScheduler(optimizer, t_initial=steps - round(optim.cooldown * steps), lr_min=optim.min_lr, **common)
