"""Checkpoints of MenghaoGuo/PCT (Jittor) and of its PyTorch port Strawberry-Eat-Mango/PCT_Pytorch.

Query and key are one tensor that both store twice; we check that they are equal and keep one. The official divisor has 1e-9 added, which is loaded as
``eps``. The official farthest-point sampling skips points near the origin, and so do the networks loaded here. Modules take ``(B, C, N)`` as theirs do.
"""

import re
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError
from ._registry import State, kind
from ._rename import Rule, rename, same

__all__: list[str] = []

_EPS = 1e-9
_WHAT = "point transformer"
_LAYER = {"q_conv.": "mix.qk.", "v_conv.": "mix.v.", "trans_conv.": "proj.", "after_norm.": "norm."}
_HEAD = {"linear1.": "head.0.", "bn6.": "head.1.", "linear2.": "head.4.", "bn7.": "head.5.", "linear3.": "head.8."}
_CLASSIFIER = {
    "conv1.": "embed.0.0.",
    "bn1.": "embed.0.1.",
    "conv2.": "embed.1.0.",
    "bn2.": "embed.1.1.",
    "pt_last.conv1.": "stem.0.0.",
    "pt_last.bn1.": "stem.0.1.",
    "pt_last.conv2.": "stem.1.0.",
    "pt_last.bn2.": "stem.1.1.",
    "pt_last.conv_pos.": "pos_embed.",
    "pt_last.pos_xyz.": "pos_embed.",
    "conv_fuse.": "fuse.",
    **{
        f"gather_local_{n}.{theirs}": f"locals.{n}.{ours}"
        for n in (0, 1)
        for theirs, ours in (("conv1.", "conv1.0."), ("bn1.", "conv1.1."), ("conv2.", "conv2.0."), ("bn2.", "conv2.1."))
    },
    **_HEAD,
}
_PARTS = {
    "conv1.": "trunk.embed.0.0.",
    "bn1.": "trunk.embed.0.1.",
    "conv2.": "trunk.embed.1.0.",
    "bn2.": "trunk.embed.1.1.",
    "conv_fuse.": "trunk.fuse.",
    "label_conv.": "shape_embed.",
    "convs1.": "head.0.0.",
    "bns1.": "head.0.1.",
    "convs2.": "head.2.0.",
    "bns2.": "head.2.1.",
    "convs3.": "head.3.",
}


class _ChannelsFirst(nn.Module):
    """Takes and gives ``(B, C, N)``, the reference's order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *shape: Tensor) -> Tensor:
        out = self.network(x.mT, *shape)
        return out.mT if out.ndim == 3 else out


class _Group(nn.Module):
    """``sample_and_group`` as the reference has it."""

    def __init__(self, n: int, k: int) -> None:
        super().__init__()
        self.n, self.k = n, k

    def forward(self, xyz: Tensor, points: Tensor, *expected: Tensor) -> Tensor:
        from ..models.points.grouping import sample_and_group

        return sample_and_group(xyz, points, self.n, self.k, skip_origin=True)[1]


def _offset(channels: int, position: bool = False) -> nn.Module:
    from ..models.points import PointMixer

    return PointMixer(channels, options={"eps": _EPS})


def _group(npoint: int, nsample: int) -> nn.Module:
    return _Group(npoint, nsample)


def _classifier(
    num_classes: int = 40,
    width_divisor: int = 1,
    npoints: tuple[int, int] = (512, 256),
    neighbors: int = 32,
    position: bool = True,
    head_activation: Literal["relu", "leaky_relu_0.2"] = "relu",
    position_bias: bool = False,
) -> nn.Module:
    from ..models.points import PCT

    return _ChannelsFirst(
        PCT(
            num_classes,
            width=64 // width_divisor,
            npoints=(npoints[0], npoints[1]),
            neighbors=neighbors,
            options={"eps": _EPS},
            position=position,
            position_bias=position_bias,
            stem=1 if position else 2,
            head_activation=head_activation,
            skip_origin=True,
        )
    )


def _parts(num_parts: int = 50, num_shapes: int = 16, width_divisor: int = 1) -> nn.Module:
    from ..models.points import PCTParts

    # the divisor leaves the width of the keys as it is
    return _ChannelsFirst(PCTParts(num_parts, num_shapes, width=64 // width_divisor, options={"eps": _EPS, "width": 32}))


@kind("pct.offset_attention", build=_offset)
def _translate_offset(state: State, **settings: Any) -> dict[str, Tensor]:
    return rename(_untied(state), _named(_LAYER), _WHAT)


@kind("pct.sample_and_group", build=_group)
def _translate_group(state: State, **settings: Any) -> dict[str, Tensor]:
    return dict(state)


@kind("pct.classifier", build=_classifier, old_names={"neighbours": "neighbors"})
def _translate_classifier(state: State, **settings: Any) -> dict[str, Tensor]:
    return _network(state, _CLASSIFIER, r"pt_last\.sa([1-4])\.(.+)", "layers")


@kind("pct.part_segmentation", build=_parts)
def _translate_parts(state: State, **settings: Any) -> dict[str, Tensor]:
    return _network(state, _PARTS, r"sa([1-4])\.(.+)", "trunk.layers")


def _network(state: State, rules: dict[str, str], layer: str, ours: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for key, value in _untied(state).items():
        match = re.fullmatch(layer, key)
        renamed = rename({match[2]: value}, _named(_LAYER), _WHAT) if match else rename({key: value}, _named(rules), _WHAT)
        prefix = f"{ours}.{int(match[1]) - 1}." if match else ""
        out |= {f"network.{prefix}{name}": tensor for name, tensor in renamed.items()}
    return out


def _untied(state: State) -> dict[str, Tensor]:
    """Without the second of two names for one tensor. Gradients have it once already."""
    out = dict(state)
    for key in list(out):
        if "k_conv." in key:
            twin = key.replace("k_conv.", "q_conv.")
            if twin not in out or not torch.equal(out[key], out[twin]):
                raise InputError(f"{key} and {twin} are one tensor in PCT, and differ here: this is no checkpoint of it")
            del out[key]
    return out


def _named(names: dict[str, str]) -> dict[str, Rule]:
    """Nothing but names changes."""
    return {theirs: (ours, same) for theirs, ours in names.items()}
