"""Visual probes: a few learned vectors that read what a frozen tower knows, layer after layer, by any attention that reads a context.

Papers     denoising probes: DnA (arXiv 2606.27372); before it VisCoP, "Visual Probes" (arXiv 2510.13808)
Official   rjccv/DnA ``viscop/``, the interaction modules of its vision encoder
Formula    published   P_i = A_i(P_{i−1}; H_i)                            H_i behind layer i, as it is: no norm, no residual
           residual    P_i = P_{i−1} + A_i(P_{i−1}; LN_i(H_i) + T[frame])  T only with ``time``
           P_i = P_{i−1} where layer i is not chosen
Differs    ``residual`` is ours, and the default. In the published form the probes of a sample become one vector: without a residual the first of them act
           through the weights of a softmax alone, and nearly equal queries get nearly equal outputs; gradients vanish by the layer. It is there for
           published checkpoints and the published recipe. :meth:`VisualProbes.similarity` says in any model how alike the probes are.
Note       Without ``time`` no probe can tell one order of frames from another: keys carry no time, and attention reads a set.
Status     outputs and gradients of ``published`` equal the official ones (tests/official/test_visual_probes.py)

Shapes     B samples, N tokens of a sample (all its frames), P probes, C channels
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._errors import InputError, unknown
from ..._fx import Leaf
from ...attention import AttentionConfig, Cost, attention_class, config_from_dict, list_attentions
from ...attention._linear import check_dtype
from ...attention._registry import registered
from ...attention._transfer import Transfer, WarmStart
from .start import check_norms, start_attentions_, start_norms_

__all__ = ["FORMS", "ProbeForm", "VisualProbes"]

ProbeForm = Literal["residual", "published"]
Hidden = Sequence[Tensor] | Mapping[int, Tensor]


@dataclass(frozen=True)
class _Form:
    norm: bool
    residual: bool
    probe_std: float


FORMS: dict[str, _Form] = {"residual": _Form(norm=True, residual=True, probe_std=1.0), "published": _Form(norm=False, residual=False, probe_std=0.02)}
"""What a form stands for; each of the three can be given by itself."""


class VisualProbes(Leaf):
    """Learned probes that read some layers of a tower.

    Args:
        dim: width C of the tower's tokens.
        num_heads: heads of each attention.
        layers: the layers that are read, from 0, in rising order; layer i is what comes out of the tower's block i.
        num_probes: P.
        attention: by which they read, a name or a configuration: any that reads a context.
        form: ``"residual"``, ours; or ``"published"``, as the authors' code. Sets the three that follow.
        norm: a LayerNorm of the tokens before each attention.
        residual: add what is read to the probes, instead of putting it in their place.
        probe_std: of the normal distribution that probes start from.
        time: the most frames a sample has; each has a learned vector that is added to its tokens. None: probes are blind to the order of frames.
        time_std: of the normal distribution that these start from; 0 leaves the function as it is without them.
        qkv_bias: biases of queries, keys and values.
        norm_eps: of the norms.
        depth: layers of the tower; found wrong numbers of layers are then refused. None: as many as needed, or more.
        device: of parameters.
        dtype: of parameters.

    Raises:
        ValueError: an attention that reads no context, or needs a grid; layers that are none, negative, doubled or not in order; an unknown form.

    Example:
        >>> probes = VisualProbes(32, num_heads=4, layers=[0, 2], num_probes=5)
        >>> hidden = [torch.randn(2, 49, 32) for _ in range(3)]
        >>> probes(hidden).shape
        torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        layers: Sequence[int],
        num_probes: int = 16,
        attention: AttentionConfig | str | Mapping[str, Any] = "denoising",
        form: ProbeForm = "residual",
        *,
        norm: bool | None = None,
        residual: bool | None = None,
        probe_std: float | None = None,
        time: int | None = None,
        time_std: float = 0.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        depth: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown("form of visual probes", form, FORMS)
        self.dim, self.num_heads, self.num_probes, self.depth = dim, num_heads, num_probes, depth
        self.layers = _checked_layers(layers, depth)
        if num_probes < 1:
            raise InputError(f"num_probes must be at least 1, got {num_probes}")
        if time is not None and time < 1:
            raise InputError(f"time is the most frames that a sample has, at least 1, or None; got {time}")
        if time is None and time_std:
            raise InputError(f"time_std={time_std} has no effect without time; give the most frames that a sample has as time, or leave it out")
        self.form, self.time, self.time_std = form, time, time_std
        self.residual = FORMS[form].residual if residual is None else residual
        self.probe_std = FORMS[form].probe_std if probe_std is None else probe_std
        self.norm = FORMS[form].norm if norm is None else norm
        self.config = _config(attention)
        factory = {"device": device, "dtype": dtype}
        self.probes = nn.Parameter(torch.empty(1, num_probes, dim, **factory))
        self.time_embed = None if time is None else nn.Parameter(torch.empty(time, dim, **factory))
        self.attentions = nn.ModuleList(self.config.build(dim, num_heads, qkv_bias=qkv_bias, **factory) for _ in self.layers)
        one: Any
        for layer, one in zip(self.layers, self.attentions, strict=True):
            if _needs_grid(one):
                raise _reads_no_context(self.config.attention, "cuts windows out of a grid, and probes lie on none")
            # a few probes read many tokens
            one.few_queries = True
            # a token attention always has it; one of a user's, built on something else, may not
            if hasattr(one, "set_depth"):
                one.set_depth(layer)
        norms = [nn.LayerNorm(dim, eps=norm_eps, **factory) if self.norm else nn.Identity() for _ in self.layers]
        self.norms = nn.ModuleList(norms)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Probes and times as drawn; attentions and norms keep what they, or a tower, set."""
        nn.init.normal_(self.probes, std=self.probe_std)
        if self.time_embed is not None:
            nn.init.normal_(self.time_embed, std=self.time_std) if self.time_std else nn.init.zeros_(self.time_embed)

    def forward(self, hidden: Hidden, mask: Tensor | None = None, frame: Tensor | None = None) -> Tensor:
        """Read.

        Args:
            hidden: what comes out of each of the tower's layers, ``(B, N, C)`` each, ``hidden[i]`` of layer i; or a mapping with the chosen ones alone.
                ``hidden_states`` of transformers begin with the embeddings: give ``hidden_states[1:]``.
            mask: bool, True where a token is, at least one a sample: ``(B, N)``; or ``(B, P, N)`` of each probe apart, where P is a multiple of ``num_probes``
                and several samples lie in one row, see :func:`~foveal.models.probes.block_mask`.
            frame: with ``time``, the frame that each token belongs to, ``(B, N)`` or ``(N,)``, whole numbers from 0.

        Returns:
            ``(B, P, C)``.

        Raises:
            ValueError: too few layers, or another number than ``depth``; tokens of another width or number; a mask or frames of another form; no tokens.
        """
        chosen = self._chosen(hidden)
        probes = self.begin(len(chosen[0]), 1 if mask is None or mask.ndim != 3 else mask.shape[1] // self.num_probes)
        for layer, tokens in zip(self.layers, chosen, strict=True):
            probes = self.read(layer, probes, tokens, mask, frame)
        return probes

    def begin(self, batch: int, in_a_row: int = 1) -> Tensor:
        """The probes before the first layer, ``(B, P, C)``, for :meth:`read`; ``in_a_row`` samples of each of the batch."""
        return self.probes.repeat(1, in_a_row, 1).expand(batch, -1, -1)

    def read(self, index: int, probes: Tensor, hidden: Tensor, mask: Tensor | None = None, frame: Tensor | None = None) -> Tensor:
        """The probes behind layer ``index``, for hooks in a tower, so that no layer's tokens need be kept. Of a layer that is not chosen they come back.

        Args:
            index: of the layer, from 0.
            probes: behind the layer before, ``(B, P, C)``; :meth:`begin` for the first.
            hidden: what came out of this layer, ``(B, N, C)``.
            mask: see :meth:`forward`.
            frame: see :meth:`forward`.
        """
        if index not in self.layers:
            return probes
        at = self.layers.index(index)
        got = self.attentions[at](probes, **self._read_as(at, probes, hidden, mask, frame))
        return probes + got if self.residual else got

    def attention_map(self, hidden: Hidden, mask: Tensor | None = None, frame: Tensor | None = None) -> dict[int, dict[str, Tensor]]:
        """Where each probe looks, by layer: the maps of its attention, ``(B, H, P, N)`` each, ``combined`` always among them.

        Args:
            hidden: see :meth:`forward`, as of all others.
            mask: and so on.
            frame: and so on.
        """
        maps = {}
        chosen = self._chosen(hidden)
        probes = self.begin(len(chosen[0]), 1 if mask is None or mask.ndim != 3 else mask.shape[1] // self.num_probes)
        for at, (layer, tokens) in enumerate(zip(self.layers, chosen, strict=True)):
            reader: Any = self.attentions[at]
            maps[layer] = reader.attention_map(probes, **self._read_as(at, probes, tokens, mask, frame))
            probes = self.read(layer, probes, tokens, mask, frame)
        return maps

    @staticmethod
    def similarity(probes: Tensor) -> Tensor:
        """How alike the probes of a sample are: the mean cosine between two of them, over pairs and samples, a scalar. 1 is one vector P times.

        Args:
            probes: ``(B, P, C)``, P at least 2.

        Raises:
            ValueError: less than two probes, which have no pairs.
        """
        if probes.ndim != 3 or probes.shape[1] < 2:
            raise InputError(f"similarity compares the probes of a sample with one another: expected (B, P, C) with P of at least 2, got {tuple(probes.shape)}")
        wide = probes if probes.dtype == torch.float64 else probes.float()
        unit = nn.functional.normalize(wide, dim=-1)
        count = probes.shape[1]
        # the sum over all pairs is the square of the sum, less each with itself
        return (unit.sum(1).square().sum(-1) - unit.square().sum((-1, -2))).mean() / (count * (count - 1))

    def start_from(self, attentions: Sequence[nn.Module], alpha: WarmStart = 1e-4, *, norms: Sequence[nn.Module] | None = None) -> dict[int, Transfer]:
        """Start from the tower's own attentions, through the map that :func:`foveal.convert_` has: the module at layer i gets the weights of layer i.

        Values are copied; the tower shares nothing with the probes. Where the tower turns queries and keys by positions, the probes do not. In the authors'
        code a choice of layers got the weights of the first ones instead.

        Args:
            attentions: of the tower, one a layer, of classes that conversion knows; all of them, so that layer i is ``attentions[i]``.
            alpha: size of the negative branch relative to these weights, of denoising attention alone; ``"exact"`` or 0 leaves the function of plain probes.
            norms: of the tower, one a layer, those in front of the attentions. Tokens behind layer i are what the norm of layer i + 1 was made for, so the
                module at i gets that one, and at the last layer its own. None leaves norms as they are.

        Returns:
            By layer, what became of the weights; with what the tower had and probes have not in ``dropped``.

        Raises:
            ValueError: too few attentions; one that conversion does not know, or that has other heads, biases or widths; norms where the probes have none.
                Nothing is changed then.
        """
        chosen = {layer: attention for layer, attention in enumerate(attentions) if layer in self.layers}
        if missing := set(self.layers) - set(chosen):
            raise InputError(f"probes read layer {max(missing)}, and {len(attentions)} attentions were given; give those of all layers, the first one first")
        copies = self._norms_of(norms)
        check_norms(copies)
        report = start_attentions_(dict(zip(self.layers, self.attentions, strict=True)), chosen, self.config, alpha)
        start_norms_(copies)
        return report

    def cost(self, num_tokens: int) -> Cost:
        """Parameters, and multiply-adds to read a sample of ``num_tokens`` tokens in all of the chosen layers, counted on the meta device."""
        # takes longer to import than all else here
        from torch.utils.flop_counter import FlopCounterMode

        shadow = copy.deepcopy(self.attentions[0]).to("meta").eval().requires_grad_(False)
        place: dict[str, Any] = {"device": "meta", "dtype": next(shadow.parameters()).dtype}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            shadow(torch.empty(1, self.num_probes, self.dim, **place), context=torch.empty(1, num_tokens, self.dim, **place))
        return Cost(parameters=sum(p.numel() for p in self.parameters()), macs=len(self.layers) * counter.get_total_flops() // 2)

    def settings(self) -> dict[str, Any]:
        """How it was built, as values of JSON, but for device, dtype and what probes are drawn with."""
        eps = self.norms[0].eps if self.norm else None
        built = {"dim": self.dim, "num_heads": self.num_heads, "layers": list(self.layers), "num_probes": self.num_probes, "attention": self.config.to_dict()}
        return built | {"norm": self.norm, "residual": self.residual, "norm_eps": eps, "time": self.time}

    def no_weight_decay(self) -> set[str]:
        return {"probes", "time_embed"}

    def extra_repr(self) -> str:
        chosen = f"layers={list(self.layers)}, " if self.layers else ""
        return f"dim={self.dim}, num_heads={self.num_heads}, {chosen}num_probes={self.num_probes}, form={self.form!r}, time={self.time}"

    def _chosen(self, hidden: Hidden) -> list[Tensor]:
        if isinstance(hidden, Mapping):
            if missing := [layer for layer in self.layers if layer not in hidden]:
                raise InputError(f"probes read layer {missing[0]}, and tokens of {sorted(hidden)} were given")
            return [hidden[layer] for layer in self.layers]
        if isinstance(hidden, Tensor):
            raise InputError(f"expected the tokens of each layer, [(B, N, C), …], got one tensor {tuple(hidden.shape)}; give [hidden] for a tower of one layer")
        needed, count = max(self.layers) + 1, len(hidden)
        if count < needed or (self.depth is not None and count != self.depth):
            wanted = f"{self.depth} layers" if self.depth is not None else f"at least {needed} layers"
            raise InputError(f"expected tokens of {wanted}, got {count}; hidden_states of transformers begin with the embeddings: give hidden_states[1:]")
        if self.depth is None and count == needed + 1 and len(self.layers) == needed:
            raise InputError(
                f"all of {needed} layers are chosen, and tokens of {count} were given, so that which is which cannot be told; hidden_states of transformers "
                f"begin with the embeddings: give hidden_states[1:], or depth={count} to the probes where the tower has a layer more"
            )
        return [hidden[layer] for layer in self.layers]

    def _read_as(self, at: int, probes: Tensor, hidden: Tensor, mask: Tensor | None, frame: Tensor | None) -> dict[str, Tensor | None]:
        """The arguments of an attention beside the probes."""
        if hidden.ndim != 3 or hidden.shape[-1] != self.dim or len(hidden) != len(probes):
            raise InputError(f"expected tokens (B, N, C) with B={len(probes)} and C={self.dim} of layer {self.layers[at]}, got {tuple(hidden.shape)}")
        if not hidden.shape[1]:
            raise InputError(f"expected at least one token to read, got {tuple(hidden.shape)}: a video without frames? leave it out")
        check_dtype("tokens", hidden, self.probes)
        tokens = self.norms[at](hidden)
        if self.time_embed is not None:
            tokens = tokens + self._times(hidden, frame)
        elif frame is not None:
            raise InputError("frame says when each token was, and these probes are blind to time; make them with time=, the most frames, or leave frame out")
        return {"attn_mask": self._mask(probes, hidden, mask), "context": tokens}

    def _mask(self, probes: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        of_keys, of_pairs = hidden.shape[:2], (len(hidden), probes.shape[1], hidden.shape[1])
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) not in (tuple(of_keys), of_pairs):
            got = f"{mask.dtype} of {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(f"expected a bool mask (B, N) = {tuple(of_keys)}, or (B, P, N) with P a multiple of {self.num_probes}, got {got}")
        return mask[:, None, None] if mask.ndim == 2 else mask[:, None]

    def _times(self, hidden: Tensor, frame: Tensor | None) -> Tensor:
        assert self.time_embed is not None, "asked for with time alone"
        most = len(self.time_embed)
        if frame is None:
            raise InputError("these probes have time, and frame was not given: the frame that each token belongs to, (B, N) or (N,)")
        if frame.is_floating_point() or frame.dtype == torch.bool or tuple(frame.shape) not in (tuple(hidden.shape[:2]), tuple(hidden.shape[1:2])):
            raise InputError(f"expected frame as whole numbers, (B, N) = {tuple(hidden.shape[:2])} or (N,), got {frame.dtype} of {tuple(frame.shape)}")
        # asked on the CPU alone: elsewhere the answer would have to be waited for
        if frame.device.type == "cpu" and not torch.compiler.is_compiling() and frame.numel() and not 0 <= int(frame.min()) <= int(frame.max()) < most:
            raise InputError(f"frames go from {int(frame.min())} to {int(frame.max())}, and the probes know 0 to {most - 1}; make them with a larger time")
        return self.time_embed[frame]

    def _norms_of(self, norms: Sequence[nn.Module] | None) -> list[tuple[nn.Module, nn.Module]]:
        """Ours, and the tower's that each is to start from."""
        if norms is None:
            return []
        if not self.norm:
            raise InputError("norms were given, and these probes have none; make them with norm=True, or leave norms out")
        if len(norms) <= max(self.layers):
            raise InputError(f"probes read layer {max(self.layers)}, and {len(norms)} norms were given; give those of all layers, the first one first")
        return [(ours, norms[min(layer + 1, len(norms) - 1)]) for layer, ours in zip(self.layers, self.norms, strict=True)]


def _checked_layers(layers: Sequence[int], depth: int | None) -> tuple[int, ...]:
    chosen = tuple(int(layer) for layer in layers)
    if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0:
        raise InputError(f"expected layers from 0 in rising order, each once, at least one, such as [0, 4, 8] or range(12); got {list(chosen)}")
    if depth is not None and chosen[-1] >= depth:
        raise InputError(f"a tower of depth {depth} has layers 0 to {depth - 1}, got {chosen[-1]}")
    return chosen


def _config(attention: AttentionConfig | str | Mapping[str, Any]) -> AttentionConfig:
    if isinstance(attention, Mapping):
        config = config_from_dict(dict(attention))
    else:
        config = attention_class(attention).Config() if isinstance(attention, str) else attention
    cls: Any = type(config).module
    if cls.form != "tokens" or not _takes_context(cls):
        raise _reads_no_context(config.attention, "reads its own input alone")
    return config


def _takes_context(cls: Any) -> bool:
    return "context" in inspect.signature(cls.forward).parameters and not cls.needs_grid


def _needs_grid(module: Any) -> bool:
    return bool(getattr(getattr(module, "core", None), "needs_grid", False))


def _reads_no_context(name: str, why: str) -> InputError:
    names = [other for other in list_attentions(form="tokens") if _takes_context(registered()[other])]
    return InputError(f"{name} attention {why}; probes read a tower by one of {', '.join(names)}")
