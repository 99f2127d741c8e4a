"""How the modules of a model are called by the people who wrote it, and which of them look like attention."""

import re
from collections.abc import Callable

import torch
from torch import nn

from ..convert import Where, matcher, places_of
from ._products import HEADS

__all__ = ["Names", "looks_like_attention", "unwrapped"]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
_IN_THE_WAY = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What ``torch.compile``, FSDP and checkpoint wrappers put into names; ``module`` is a name that others use as well."""
_SAYS_SO = re.compile(r"(?i:attention|attn)|(?:MHA|MSA|MLA|XCA|GPSA|MHSA|SHSA)(?![a-z])")
_BESIDE = re.compile(r"(?:Outputs?|Norm|Mask|Bias|Embed\w*|Positions?\w*|Encoding|Dropout|Drop|Projection|Gate|Scores?|Config)$")
"""Ends of the names of parts that serve an attention and are none."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in a wrapper for several devices or a compiler: looked at is one run of its own, on this process, as it was written."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def looks_like_attention(module: nn.Module) -> bool:
    """Whether it is called one and has parameters, or says how many heads it has and has linear maps of its own."""
    kind = str(getattr(module, "original_name", "")) if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    if _SAYS_SO.search(kind) and not _BESIDE.search(kind):
        return next(module.parameters(), None) is not None
    if not any(type(getattr(module, name, None)) is int for name in HEADS):
        return False
    maps = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return any(isinstance(part, maps) for part in module.children()) or next(module.parameters(recurse=False), None) is not None


class Names:
    """The name of every module, without what wrappers put in front; what conversion put in goes by the name of its place, with all that is in it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._of: dict[nn.Module, list[str]] = {}
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, module in modules.items():
            self._of.setdefault(module, [])
            self._of[module] += [said for said in (_short(name, modules), name) if said not in self._of[module]]
        for module, names in list(self._of.items()):
            for place, replacement in places_of(module):
                stands = [f"{name}.{place}".strip(".") for name in names]
                said = [_short(name, modules) for name in stands if name in modules]
                whole = list(dict.fromkeys([*said, *stands, *self._of.get(replacement, ())]))
                self._of |= dict.fromkeys(replacement.modules(), whole)

    def __getitem__(self, module: nn.Module) -> str:
        return self._of[module][0]

    def __contains__(self, module: object) -> bool:
        return module in self._of

    def chosen(self, where: Where) -> Callable[[nn.Module], bool]:
        """Whether ``where`` means a module, by whichever of its names."""
        matches = matcher(where, self.model)
        return lambda module: any(matches(name, module) for name in self._of[module])


def _short(name: str, modules: dict[str, nn.Module]) -> str:
    said, parts = [], name.split(".")
    for place, part in enumerate(parts):
        holder = modules[".".join(parts[:place])]
        if part not in _IN_THE_WAY and not (part == "module" and isinstance(holder, _WRAPPERS)):
            said.append(part)
    return ".".join(said)
