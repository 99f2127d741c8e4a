"""Which parameters decay: every module is asked, and not the outermost alone, so that an attention is treated the same wherever it stands."""

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from typing import Any

from torch import nn

from ._errors import InputError

__all__ = ["param_groups"]

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
_PARAMETRIZED = re.compile(r"parametrizations\.([^.]+)\.original\d*$")
_REMADE = re.compile(r"(.+)_(?:orig|g|v)$")
"""What pruning, spectral norm and weight norm make of a parameter's name; the name itself is then that of what they compute."""
_IN_THE_WAY = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|original_module|modules_to_save\.[^.]+)\.")
"""What compilers, FSDP, checkpointing and adapters put into names."""


def param_groups(
    model: nn.Module, lr: float | None = None, weight_decay: float = 0.05, *, new: Collection[str] = (), new_lr: float | None = None
) -> list[dict[str, Any]]:
    """The trainable parameters of a model as groups for an optimizer of ``torch.optim``, with weight decay where it belongs.

    Not decayed are biases, norms and all else of at most one dimension, and what any module of the model names in its ``no_weight_decay()``: memories, λ,
    dictionaries, tables of positions of our attentions, in any host and after ``convert_`` or ``insert_``; position embeddings and tokens of timm's models.
    Frozen parameters are left out; one that several modules share is there once, and does not decay if one of them says so. Foveal's own training groups
    so too.

    Args:
        model: any model, converted or not; wrapped ones too.
        lr: learning rate of the groups; the optimizer's own if None.
        weight_decay: of what decays. At 0 nothing is told apart.
        new: names of parameters, or patterns such as ``"*.memory_k"``, that get a learning rate of their own: those that a conversion made anew are
            ``[f"{swap.name}.{name}" for swap in report.swaps for name in swap.new]``.
        new_lr: that rate.

    Returns:
        Groups with ``params``, ``weight_decay`` and, where it was given, ``lr``; first what does not decay. Every trainable parameter is in exactly one.

    Raises:
        ValueError: nothing is trainable; a negative ``weight_decay``; ``new`` without ``new_lr`` or the other way round, or names that the model lacks.

    Example:
        >>> import foveal
        >>> attention = foveal.ExternalAttention(dim=64, num_heads=4)
        >>> optimizer = torch.optim.AdamW(foveal.param_groups(attention, lr=1e-3, weight_decay=0.05))
        >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
        [(0.0, 3), (0.05, 2)]
    """
    if not weight_decay >= 0:
        raise InputError(f"weight_decay must be at least 0, got {weight_decay}")
    if bool(new) != (new_lr is not None):
        raise InputError(f"new names the parameters that learn at new_lr, so give both or neither; got new={list(new)} and new_lr={new_lr}")
    spared, fresh = _spared(model), _named(model, new)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = bool(weight_decay) and parameter.ndim > 1 and not name.endswith(".bias") and id(parameter) not in spared
            is_new = id(parameter) in fresh
            rate = new_lr if is_new else lr
            own = {} if rate is None else {"lr": rate}
            group = groups.setdefault((is_new, decays), {"params": [], "weight_decay": weight_decay if decays else 0.0, **own})
            group["params"].append(parameter)
    if not groups:
        raise InputError("nothing in this model is trainable; set requires_grad of what should be")
    # in the order of timm's, so that optimizers saved before go on
    ordered = [groups[key] for key in sorted(groups)]
    grouped = [id(parameter) for group in ordered for parameter in group["params"]]
    assert sorted(grouped) == sorted({id(parameter) for parameter in model.parameters() if parameter.requires_grad})
    return ordered


def _spared(model: nn.Module) -> set[int]:
    """What norms own, and what some module names. By identity: a shared parameter has several names, and only one of them is listed."""
    spared = {id(parameter) for module in model.modules() if isinstance(module, _NORMS) for parameter in module.parameters(recurse=False)}
    for module in model.modules():
        # a function in most libraries, a set in some; wrappers answer with the names of what they wrap, which is asked by itself
        named = getattr(module, "no_weight_decay", None)
        patterns: Collection[str] = (named() if callable(named) else named) or ()
        if patterns:
            for names, parameter in _said(module):
                if any(fnmatch(name, pattern) for pattern in patterns for name in names):
                    spared.add(id(parameter))
    return spared


def _said(module: nn.Module) -> Iterator[tuple[tuple[str, str], nn.Parameter]]:
    """Each parameter by the name that it has, and by the one that whoever wrote the module knows."""
    for prefix, holder in module.named_modules(remove_duplicate=False):
        for key, parameter in holder.named_parameters(recurse=False):
            name = f"{prefix}.{key}" if prefix else key
            remade = _REMADE.match(key)
            known = name[: len(name) - len(key)] + remade[1] if remade and hasattr(holder, remade[1]) else name
            yield (name, _PARAMETRIZED.sub(r"\1", _IN_THE_WAY.sub("", known))), parameter


def _named(model: nn.Module, patterns: Collection[str]) -> set[int]:
    found: set[int] = set()
    for pattern in patterns:
        matched = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if fnmatch(name, pattern)}
        if not matched:
            raise InputError(f"new names {pattern!r}, and no parameter of the model is called so")
        found |= matched
    return found
