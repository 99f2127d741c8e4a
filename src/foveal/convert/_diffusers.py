"""diffusers: the one class that attends in its UNets, in DiT, PixArt and the autoencoders, as far as tokens look at each other.

What the class does around its attention goes on: maps are made tokens, a group norm before, the residual and the factor after. What another processor
computes is not known, so that a processor that was set is refused, and so is setting one afterwards.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ._host import Place, register_host
from ._parts import joined
from ._placed import Placed

__all__: list[str] = []

_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")


class _Converted:
    """Stands where diffusers looks for a processor."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name} attention of foveal"


class _OfMaps(Placed):
    """Called as diffusers' ``Attention``: ``(B, N, C)`` or ``(B, C, height, width)``, and the same back."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(attn)
        self.group_norm = module.group_norm
        self.residual_connection, self.rescale_output_factor = module.residual_connection, module.rescale_output_factor
        self.heads, self.processor = module.heads, _Converted(self.attn.name)

    def get_processor(self, return_deprecated_lora: bool = False) -> Any:
        return self.processor

    def set_processor(self, processor: Any) -> None:
        """The one it has may be given back, as diffusers does when it restores what was there; another would not be called.

        Raises:
            ValueError: it is another.
        """
        if not isinstance(processor, _Converted):
            raise InputError(
                f"{self.__dict__.get('place_name', 'an attention')} was converted to {self.attn.name} attention, which calls no processor "
                f"({type(processor).__name__}); foveal.revert_(model) first"
            )

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, temb: Tensor | None = None, **more: Any
    ) -> Tensor:
        given = [name for name, value in more.items() if value is not None]
        if given or (encoder_hidden_states is not None and encoder_hidden_states is not hidden_states):
            what = ", ".join(given) or "tokens of its own to read (encoder_hidden_states)"
            raise InputError(f"{self.__dict__.get('place_name', 'a converted attention')} is given {what}, which it has no place for; leave it out of `where`")
        x = hidden_states.flatten(2).mT if hidden_states.ndim == 4 else hidden_states
        if self.group_norm is not None:
            x = self.group_norm(x.mT).mT
        out = self.attn(x, **self.options(mask=None if attention_mask is None else _mask(attention_mask, *x.shape[:2])))
        if hidden_states.ndim == 4:
            out = out.mT.reshape(hidden_states.shape)
        if self.residual_connection:
            out = out + hidden_states
        return out / self.rescale_output_factor


def _mask(mask: Tensor, batch: int, tokens: int) -> Tensor:
    """diffusers' masks are added to the logits: ``(B, N)``, or ``(B, 1 or N, N)``."""
    fits = mask.ndim in (2, 3) and (len(mask), mask.shape[-1]) == (batch, tokens) and (mask.ndim == 2 or mask.shape[1] in (1, tokens))
    if not fits or not (mask.is_floating_point() or mask.dtype == torch.bool):
        raise InputError(f"expected a mask (B, N) or (B, 1, N), of {batch} × {tokens}, bool or added to the logits, got {mask.dtype} of {tuple(mask.shape)}")
    return (mask[:, None] if mask.ndim == 2 else mask)[:, None]


def _read(module: Any, model: nn.Module, name: str) -> Place | None:
    if module.is_cross_attention:
        return None
    for what, reason in (
        (module.added_kv_proj_dim is not None, "its image and text tokens are one stream (added_kv_proj_dim), as in SD3's family"),
        (module.only_cross_attention, "it has no keys and values of its own (only_cross_attention)"),
        (module.spatial_norm is not None, "its norm reads other maps (spatial_norm)"),
        (module.is_causal, "it is causal"),
        (not module.scale_qk, "its logits are not divided by √D (scale_qk=False)"),
        (module.fused_projections, "its projections are fused; call unfuse_qkv_projections() first"),
        (module.to_out is None, "it has no output map (pre_only)"),
        (module.norm_cross is not None, "it has a norm for the tokens of others"),
        (module.inner_kv_dim != module.inner_dim, "several heads of queries share one of keys"),
        (type(module.processor).__name__ not in _PROCESSORS or type(module.processor).__module__ != type(module).__module__,
         f"its processor is {type(module.processor).__name__}, and may compute something else; set_default_attn_processor() first"),
    ):  # fmt: skip
        if what:
            raise InputError(f"{name}: {reason}")
    width = module.inner_dim // module.heads
    norms = {"q_norm": module.norm_q, "k_norm": module.norm_k}
    for norm in norms.values():
        if norm is not None and getattr(norm, "normalized_shape", getattr(norm, "dim", (width,))) not in ((width,), torch.Size([width]), width, -1):
            raise InputError(f"{name}: its queries and keys are normalized over all heads together")
    qkv, copied = joined([module.to_q, module.to_k, module.to_v])
    proj, dropout = module.to_out[0], module.to_out[1]
    if module.query_dim != module.out_dim:
        raise InputError(f"{name} changes the width of its tokens from {module.query_dim} to {module.out_dim}, which no attention here does")
    return Place(
        dim=module.query_dim,
        num_heads=module.heads,
        head_dim=width,
        qkv=qkv,
        copied=copied,
        proj=proj,
        proj_drop=dropout.p,
        notes=("dropout of the output only, as the host has it",) if dropout.p else (),
        **{part: norm for part, norm in norms.items() if norm is not None},
    )


register_host("diffusers.models.attention_processor.Attention", _read, _OfMaps)
