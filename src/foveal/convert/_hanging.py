"""What hangs on a module or a parameter beside what its class says: what is lost where the weights alone are taken over."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

__all__ = ["CALLS", "STATE", "does_more", "hangs_on", "hangs_on_parameter", "is_readable", "library_of", "set_otherwise"]

CALLS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}
"""Hooks that see calls."""
STATE = {
    "_state_dict_hooks": "a state dict hook",
    "_state_dict_pre_hooks": "a state dict pre-hook",
    "_load_state_dict_pre_hooks": "a load_state_dict pre-hook",
    "_load_state_dict_post_hooks": "a load_state_dict post-hook",
}
"""Hooks that see names and weights come and go."""
_LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_OF_TORCH = (nn.Linear, _ConvNd, nn.LayerNorm, nn.RMSNorm, nn.Dropout, nn.Softmax, nn.Identity)
"""Classes whose subclasses, where a user made them, have a ``forward`` of their own."""
_LIBRARIES = ("timm", "torch", "torchvision", "transformers")
"""Whose classes are known: what stands in one of their attentions, and is not theirs, somebody put there."""
_SOFTMAX = ("eager", "sdpa", "flash", "flex", "paged")
"""How the names begin that transformers gives to softmax attention, computed in one way or another."""


def library_of(module: nn.Module) -> str:
    """The package that a module's class comes from."""
    return type(module).__module__.partition(".")[0]


def is_readable(module: nn.Module) -> bool:
    """Whether a module is a linear map that its weight and bias say all about. The exact class: adapters and subclasses compute something else."""
    added = set(module._parameters) - {"weight", "bias"} or module._buffers or module._modules
    return type(module) in _LINEAR and not added and not hangs_on(module)


def hangs_on(module: nn.Module, library: str = "torch", calls: str = "any") -> list[str]:
    """In words; nothing where the module is what its class says.

    Args:
        module: its own attributes are looked at, and not those of its children.
        library: of the host; its classes are what they are.
        calls: which hooks that see calls count: ``any``, ``others`` than the library's own, or ``none``.
    """
    found = []
    for name, what in (CALLS | STATE).items():
        hooks = [] if name in CALLS and calls == "none" else list(getattr(module, name).values())
        if name in STATE or calls == "others":
            hooks = [hook for hook in hooks if not _is_its_own(module, hook, library)]
        found += [what] if hooks else []
    if parametrize.is_parametrized(module):
        found.append(f"a parametrization of {', '.join(module.parametrizations)}")  # type: ignore[arg-type]
    elif isinstance(module, _OF_TORCH) and not type(module).__module__.startswith(("torch.nn.", f"{library}." if library != "torch" else "torch.nn.")):
        found.append(f"a forward of its own ({type(module).__module__}.{type(module).__qualname__})")
    if "forward" in module.__dict__:
        found.append("a forward that was put on it")
    # weight_norm and spectral_norm of old, and pruning, put a tensor where the parameter was
    found += [f"a {name} that is computed before each call (pruning, weight_norm)" for name, value in vars(module).items() if isinstance(value, Tensor)]
    return found


def hangs_on_parameter(parameter: Tensor) -> list[str]:
    """In words; nothing where it is a parameter and no more."""
    found = []
    if type(parameter) is not nn.Parameter:
        found.append(f"the class {type(parameter).__name__}")
    hooks: Any = (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None))
    if any(hooks):
        found.append("a hook of its gradient")
    return found


def does_more(part: nn.Module, library: str) -> list[str]:
    """In words; nothing where a part without weights is one that the libraries' attentions have, which are read: a dropout, a softmax over keys.

    Args:
        part: of a host's attention, which does not go on.
        library: of the host.
    """
    theirs = library_of(part) if library in _LIBRARIES else library
    if next(part.children(), None) is not None or next(part.parameters(), None) is not None or theirs == library != "torch":
        return []
    if isinstance(part, nn.Dropout | nn.Identity) or (isinstance(part, nn.Softmax) and part.dim in (-1, 3)):
        return []
    return [f"a function of its own ({type(part).__module__}.{type(part).__qualname__})"]


def set_otherwise(name: str, module: nn.Module, head_dim: int) -> str:
    """Which setting makes a host's attention another one than softmax(QKᵀ / √D) V; empty where none does.

    Args:
        name: of the module.
        module: with its parts.
        head_dim: width D of a head.
    """
    of_transformers = library_of(module) == "transformers"
    for path, part in module.named_modules():
        at = f"{name}.{path}".strip(".")
        for key in ("scale", "scaling"):
            value = vars(part).get(key)
            if isinstance(value, float) and abs(value * head_dim**0.5 - 1) > 1e-6:
                return f"{at}.{key} is {value:g}, and attentions here divide by the root of the head's width, {head_dim**-0.5:g}; scale the queries' weights"
        if vars(part).get("is_causal") is True:
            return f"{at}.is_causal is True, and what takes its place would look at all tokens"
        how = str(getattr(vars(part).get("config"), "_attn_implementation", None) or "eager")
        if of_transformers and not how.startswith(_SOFTMAX) and "flash" not in how:
            return f"{at} is computed by {how!r}, which may be other mathematics; call set_attn_implementation('sdpa') before you convert"
    return ""


def _is_its_own(module: nn.Module, hook: Any, library: str) -> bool:
    """Whether a class of the host set a hook on its own instances, as some do to read old checkpoints."""
    function = getattr(hook, "hook", hook)
    if getattr(function, "__self__", None) is module:
        return True
    return library != "torch" and getattr(function, "__module__", "").partition(".")[0] == library
