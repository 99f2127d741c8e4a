"""Hosts: which foreign attention modules can be converted, and how each is read and replaced. One file a library enters its classes here.

Shapes     C width of the tokens, I = heads · head width
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .._errors import InputError
from .._registry import Registry
from ..attention._apart import Apart
from ._parts import Copied

__all__ = ["HOSTS", "Host", "Place", "find_host", "host_key", "known_hosts", "refuse_what_cannot_be_read", "register_host"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an attention module of pairs is, whoever wrote it. Parts that are the host's own modules or parameters are used as they are, not copied."""

    dim: int
    num_heads: int
    head_dim: int
    key_dim: int | None = None
    """Width of the host's queries and keys, where it is less than that of values: ``qkv`` gives zeros for the rest, and ``q_norm`` makes up for the scale."""
    qkv: nn.Module
    """A linear map to queries, keys and values, ``(3 · I, C)``."""
    proj: nn.Module
    """A linear map back, ``(C, I)``."""
    dim_out: int | None = None
    """Width of what ``proj`` gives, where it is another than C; None where it is C. Only attentions of one ``qkv`` and one ``proj`` can have that."""
    reads_others: str = ""
    """Where keys and values come from, if not from the tokens that ask, as "its keys and values are reduced"; only attentions with a context can have that."""
    q_norm: nn.Module = field(default_factory=nn.Identity)
    k_norm: nn.Module = field(default_factory=nn.Identity)
    norm: nn.Module = field(default_factory=nn.Identity)
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    num_prefix_tokens: int | None = None
    """Tokens in front that are not of the grid; None where the host does not say."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the other tokens; None where the host does not say, or they change."""
    no_grid: str = ""
    """Where the tokens lie that are no grid of one image, as "among the frames of a video"; empty where they are one, or nothing is known."""
    windows: int | None = 1
    """In how many windows of ``grid`` the tokens of an image are cut; 1 is an attention over the whole image, None a number that is not known."""
    position: nn.Module | None = None
    """The host's own bias of pairs, without arguments to ``(1, H, N, N)``, which its ``wrap`` adds; dropped where an attention has no pairs."""
    given_bias: bool = False
    """Whether the host's model gives a bias of pairs with each call; dropped as well where an attention has no pairs."""
    rotary: bool = False
    """Whether the host turns queries and keys by their positions, and its ``wrap`` says how."""
    softcap: float | None = None
    """Within what the host keeps its logits by a hyperbolic tangent, before masks and biases; None where it does not."""
    needs_pairs: str = ""
    """Why only an attention of pairs can stand here; empty where any can."""
    values_apart: bool = False
    """Whether values are made of other tokens than keys, as where positions are added to queries and keys alone."""
    grid_in_call: bool = False
    """Whether each call says the grid of its tokens, and the host's ``wrap`` compares it with what the attention was told."""
    asks_apart: bool = False
    """Whether those who ask are other tokens than those that are read. Such a place is left alone, unless it is meant by name, by attentions without pairs."""
    only_named: bool = False
    """Whether it is converted only where it is meant by name, as a head that pools or the cross attention of a decoder."""
    heads_fixed: str = ""
    """Why there can be no more heads than the host's; empty where there can."""
    one_stream: str = ""
    """Why only an attention can stand here that makes its values once and gives one stream to ``proj``, as softmax and denoising attention do."""
    lost: tuple[str, ...] = ()
    """Parameters of the host that no attention here has a place for, so that the function changes."""
    notes: tuple[str, ...] = ()
    """What else the report should say of this place."""
    checked: bool = False
    """Whether numbers showed that softmax with these parts is what the host computes, so that no setting of it can say otherwise."""
    copied: tuple[Copied, ...] = ()
    """Which parameters of the host ``qkv`` and ``proj`` are copies of, so that :func:`foveal.revert_` can give back what was trained."""

    @property
    def weight(self) -> Tensor:
        return self.proj.weight  # type: ignore[return-value]

    @property
    def num_tokens(self) -> int | None:
        return None if self.grid is None or self.num_prefix_tokens is None else self.num_prefix_tokens + self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Host:
    """How one class of attention modules is read, and how an attention of ours takes its place."""

    read: Callable[[nn.Module, nn.Module, str], Place | None]
    """From the module, the model and the module's name in it; None for an attention over other tokens than those that ask."""
    wrap: Callable[[nn.Module, nn.Module], nn.Module]
    """From the module and ours, the module that is called as the first was."""
    reading: dict[str, Any] | str | None = None
    """Of a module that nobody declared, what was read of it, as values that a file can hold, or why none can; None where a class is declared."""


HOSTS: Registry[Host] = Registry("host")


def register_host(key: str, read: Callable[[nn.Module, nn.Module, str], Place | None], wrap: Callable[[nn.Module, nn.Module], nn.Module] | None = None) -> None:
    """Teach conversion a class of attention modules.

    Args:
        key: the class, ``"package.module.Class"``. Subclasses are not meant: they may compute something else.
        read: ``f(module, model, name) -> Place``, raising ``ValueError`` for a setting that cannot be converted. None says that its queries are other tokens
            than its keys, as in cross-attention or a pooling head: it is left alone unless it is meant by name, which is an error.
        wrap: ``f(module, ours) -> replacement``, where the host calls its attention in another way than ``ours(x, attn_mask=None, is_causal=False)``.

    Raises:
        ValueError: the class is already registered.

    Example:
        >>> class Mine(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.to_qkv, self.to_out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
        >>> def read(module, model, name):
        ...     return Place(dim=8, num_heads=2, head_dim=4, qkv=module.to_qkv, proj=module.to_out)
        >>> register_host(host_key(Mine()), read)
        >>> host_key(Mine()) in known_hosts()
        True
    """
    HOSTS.add(key, Host(read, wrap or _as_it_is))


def host_key(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def find_host(module: nn.Module) -> Host | None:
    return HOSTS.get(host_key(module))


def known_hosts() -> list[str]:
    """Classes that can be converted."""
    return sorted(HOSTS)


def refuse_what_cannot_be_read(name: str, parts: Iterator[tuple[str, nn.Module]]) -> None:
    """Weights that are not plain floating point, as those of quantized layers, cannot be carried over.

    Raises:
        ValueError: there are such.
    """
    for part, module in parts:
        for key, value in module.named_parameters():
            if not value.is_floating_point() or type(value.data) is not Tensor:
                raise InputError(f"{name}: {part}.{key} is {type(value.data).__name__} of {value.dtype}, quantized or packed; convert first and quantize then")
        for layer in module.layers if isinstance(module, Apart) else [module]:
            if part in ("qkv", "proj") and not isinstance(getattr(layer, "weight", None), Tensor):
                raise InputError(f"{name}: {part} is a {type(layer).__name__} without a plain weight, quantized or packed; convert first and quantize then")


def _as_it_is(module: nn.Module, ours: nn.Module) -> nn.Module:
    return ours
