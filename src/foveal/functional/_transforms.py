"""What ``torch.func`` and forward-mode differentiation ask for: plain operations, where kernels and layouts of our own know only the backward mode."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["forward_mode", "fused_attention", "known", "transformed"]


def forward_mode() -> bool:
    """Whether tangents are carried along: inside ``jvp``, ``jacfwd`` or ``forward_ad.dual_level``."""
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether this is inside ``vmap``, ``grad`` or another transform of ``torch.func``, or in forward mode. The compiler has its own rules, and never is."""
    return not torch.compiler.is_compiling() and (forward_mode() or functorch.peek_interpreter_stack() is not None)


def known(condition: bool) -> bool:
    """Whether a condition on sizes holds, without asking for those that a compiled or exported graph leaves open: asked for, they would bind it to one case."""
    if not torch.compiler.is_compiling() and not isinstance(condition, torch.SymBool):
        return bool(condition)
    # imported where it is used: it brings in sympy
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
) -> Tensor:
    """``F.scaled_dot_product_attention``; by its plain form inside ``vmap``, where kernels are called sample by sample, and in forward mode, which none has."""
    if not (forward_mode() or _batched()):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale)
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale)


def _batched() -> bool:
    if torch.compiler.is_compiling() or functorch.peek_interpreter_stack() is None:
        return False
    return any(level.key() == functorch.TransformType.Vmap for level in functorch.get_interpreter_stack() or ())
