"""Checkpoints of SAGAN by POSTECH-CVLab/PyTorch-StudioGAN, May 2021 (``src/models/resnet.py``).

Its blocks and attentions stand in one list; ours have lists of their own. What its spectral norm keeps as ``weight_orig``, ``weight_u`` and ``weight_v`` is our
``weight``, ``spectral.u`` and ``spectral.v``.
"""

import re
from typing import Any

from torch import Tensor, nn

from .._errors import InputError
from ._registry import State, kind

__all__: list[str] = []

_NORMALIZED = {"weight_orig": "weight", "weight_u": "spectral.u", "weight_v": "spectral.v"}
_PARTS = {
    "conv1x1_theta": "core.q",
    "conv1x1_phi": "core.k",
    "conv1x1_g": "core.v",
    "conv1x1_attn": "proj",
    "conv2d0": "skip",
    "conv2d1": "conv1",
    "conv2d2": "conv2",
    "bn1.bn": "norm1.norm",
    "bn1.embed0": "norm1.gain",
    "bn1.embed1": "norm1.bias",
    "bn2.bn": "norm2.norm",
    "bn2.embed0": "norm2.gain",
    "bn2.embed1": "norm2.bias",
    "linear0": "fc",
    "linear1": "fc",
    "bn4": "norm",
    "conv2d5": "conv",
    "embedding": "embed",
}


def _attention(channels: int) -> nn.Module:
    from ..models import GanMixer

    return GanMixer(channels)


def _generator(img_size: int = 32, z_dim: int = 128, conv_dim: int = 64, num_classes: int = 10, attention_after: int | None = None) -> nn.Module:
    from ..models import SAGANGenerator

    return SAGANGenerator(img_size=img_size, z_dim=z_dim, width=conv_dim, num_classes=num_classes, places=_place(attention_after))


def _discriminator(img_size: int = 32, conv_dim: int = 64, num_classes: int = 10, attention_after: int | None = None) -> nn.Module:
    from ..models import SAGANDiscriminator

    return SAGANDiscriminator(img_size=img_size, width=conv_dim, num_classes=num_classes, places=_place(attention_after))


def _both(
    img_size: int = 32,
    z_dim: int = 128,
    conv_dim_g: int = 64,
    conv_dim_d: int = 64,
    num_classes: int = 10,
    attention_after_g: int | None = None,
    attention_after_d: int | None = None,
) -> nn.Module:
    from ..models import GeneratorDiscriminator

    common: dict[str, Any] = {"img_size": img_size, "num_classes": num_classes}
    return GeneratorDiscriminator(
        {**common, "z_dim": z_dim, "width": conv_dim_g, "places": _place(attention_after_g)},
        {**common, "width": conv_dim_d, "places": _place(attention_after_d)},
    )


def _place(attention_after: int | None) -> tuple[int, ...] | None:
    return None if attention_after is None else (attention_after,)


@kind("sagan.attention", build=_attention)
def _translate_attention(state: State, **settings: Any) -> dict[str, Tensor]:
    return {_renamed(key): value for key, value in state.items()}


@kind("sagan.generator", build=_generator)
@kind("sagan.discriminator", build=_discriminator)
def _translate_network(state: State, **settings: Any) -> dict[str, Tensor]:
    # an entry of the list of blocks may be an attention, and those behind it are counted one less
    attentions = sorted({int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.0\.(?:sigma|conv1x1_)", key))})
    out = {}
    for key, value in state.items():
        found = re.match(r"blocks\.(\d+)\.0\.", key)
        if found is None:
            out[_renamed(key)] = value
            continue
        place, rest = int(found[1]), _renamed(key[found.end() :])
        before = sum(attention < place for attention in attentions)
        out[f"mixers.{place - before}.{rest}" if place in attentions else f"blocks.{place - before}.{rest}"] = value
    return out


@kind("sagan.step", build=_both)
def _translate_both(state: State, **settings: Any) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for prefix in ("G.", "D."):
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        out |= {prefix + key: value for key, value in _translate_network(own).items()}
    strays = [key for key in state if not key.startswith(("G.", "D."))]
    if strays:
        raise InputError(f"{strays[0]!r} is no key of a generator (G.) or a discriminator (D.)")
    return out


def _renamed(key: str) -> str:
    part = next((theirs for theirs in _PARTS if key.startswith(f"{theirs}.")), None)
    if part is None and key != "sigma":
        raise InputError(f"{key!r} is no key of this official SAGAN; expected sigma, {', '.join(_PARTS)}")
    if part is None:
        return key
    rest = key.removeprefix(f"{part}.")
    return f"{_PARTS[part]}.{_NORMALIZED.get(rest, rest)}"
