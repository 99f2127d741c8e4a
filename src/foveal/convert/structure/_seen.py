"""What happens inside one call of an attention: what its linear maps take and give, and the logits that its softmax is made of.

Shapes     B samples or windows, H heads, Nq queries, Nk keys, D head width
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...functional._kernel import kernel_logits
from .._capture import first_tensor
from ._probe import Given

__all__ = ["Map", "Run", "is_map", "run", "stirred"]


@dataclass(frozen=True)
class Map:
    """One call of a linear map."""

    path: str
    given: Tensor
    made: Tensor
    turn: int
    """Which of all things that were seen it is."""


@dataclass
class Run:
    """One call of an attention."""

    maps: list[Map] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    """When each of the logits were seen."""
    met: list[bool] = field(default_factory=list)
    """Of each of the logits, whether queries had met keys before: a product of two tensors, neither of them the weights of a map."""
    sampled: bool = False
    """Whether values were taken at points that were computed."""
    bent: list[Tensor] = field(default_factory=list)
    """What hyperbolic tangents were given, where it may be logits."""
    drops: list[tuple[str, int, torch.Size]] = field(default_factory=list)
    """Dropouts that were called, when, and of what."""
    output: Any = None
    seen: int = 0

    @property
    def out(self) -> Tensor:
        return first_tensor(self.output)


def is_map(module: nn.Module) -> bool:
    """A linear map, also as a convolution of single pixels, or with an adapter around it."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.stride == (1, 1) and module.groups == 1 and module.padding in ((0, 0), "same", "valid")
    return isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape == (getattr(module, "out_features", None), getattr(module, "in_features", None))


def _held(values: dict[str, Any]) -> list[Tensor]:
    """Tensors that a module holds beside its parameters and buffers, also by name."""
    inside = [part for name, value in values.items() if type(value) is dict and name not in ("_parameters", "_buffers") for part in value.values()]
    return [value for value in (*values.values(), *inside) if isinstance(value, Tensor)]


@torch.no_grad()
def stirred(module: nn.Module) -> nn.Module:
    """A copy in float32 with weights of its own, none of them zero and the logits of a size that matters: so that what is found is the structure, and not what
    today's numbers happen to hide."""
    # what is kept for evaluation may hang on a graph, which cannot be copied
    kept = [value for part in module.modules() for value in _held(vars(part)) if not value.is_leaf]
    other = copy.deepcopy(module, {id(value): value.detach() for value in kept}).float()
    for part in other.modules():
        # hooks see the model's own calls, not ours
        for name in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):
            getattr(part, name).clear()
    source = torch.Generator().manual_seed(0)
    for value in other.parameters():
        noise = torch.randn(value.shape, generator=source).to(value.device)
        if value.ndim >= 2:
            value.copy_(noise / max(1, value[0].numel()) ** 0.5)
        else:
            value.add_(0.2 * noise)
    # what is kept for evaluation is made anew
    other.train()
    other.eval()
    return other


@torch.no_grad()
def run(module: nn.Module, given: Given) -> Run:
    """Call it, and look."""
    out = Run()
    handles = []

    def noting(path: str) -> Any:
        def note(part: nn.Module, args: Any, made: Any) -> None:
            out.maps.append(Map(path, args[0], made, out.seen))
            out.seen += 1

        return note

    def dropping(path: str) -> Any:
        def note(part: nn.Module, args: Any, made: Any) -> None:
            out.drops.append((path, out.seen, args[0].shape))

        return note

    inside: set[str] = set()
    for path, part in module.named_modules():
        if path and isinstance(part, nn.Dropout):
            handles.append(part.register_forward_hook(dropping(path)))
        if path and is_map(part) and not any(path.startswith(f"{above}.") for above in inside):
            inside.add(path)
            handles.append(part.register_forward_hook(noting(path)))
    try:
        with _Watch(out):
            out.output = module(*given.args, **given.kwargs)
    except Exception as error:
        # a module of others may raise anything where it is given what it was not made for: an assertion, or a class of its own
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return out


class _Watch(TorchFunctionMode):
    """Sees softmax, and the function that holds one."""

    def __init__(self, out: Run) -> None:
        super().__init__()
        self.out = out
        self.meeting = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            self.meeting = True
            self._note(kernel_logits(*args, **kwargs))
        elif name in _PRODUCTS:
            given = args[1] if name == "einsum" and len(args) == 2 and not isinstance(args[1], Tensor) else [*args, *kwargs.values()]
            factors = [one for one in given if isinstance(one, Tensor)]
            self.meeting = self.meeting or not any(isinstance(one, nn.Parameter) or isinstance(one._base, nn.Parameter) for one in factors if one.ndim == 2)
        elif name == "grid_sample":
            self.out.sampled = True
        elif name in ("softmax", "_softmax") and isinstance(args[0], Tensor) and args[0].ndim >= 3:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            self._note(args[0] if dim in (-1, args[0].ndim - 1) else args[0].transpose(dim, -1).detach() * torch.nan)
        elif name == "tanh" and isinstance(args[0], Tensor) and args[0].ndim >= 3:
            self.out.bent.append(args[0].clone())
        return func(*args, **kwargs)

    def _note(self, logits: Tensor) -> None:
        self.out.logits.append(logits.clone())
        self.out.met.append(self.meeting)
        self.out.turns.append(self.out.seen)
        self.out.seen += 1


_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "einsum", "baddbmm", "addmm"})
