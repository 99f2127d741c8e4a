"""One layer in which the points of a cloud meet, by any mechanism.

Paper      Guo et al., "PCT: Point Cloud Transformer", 2021 (arXiv 2012.09688), Sec. 3.2; external attention in its place (EAT): arXiv 2105.02358, Sec. 4.6.
Official   MenghaoGuo/PCT, ``SA_Layer``
Formula    x + ReLU(BN(W (x − mix(x))))   "offset";   x + ReLU(BN(W mix(x)))   "plain"
Differs    EAT's code is not published. Ours puts external attention where offset attention's map and values stand, and keeps the rest of the layer.

Shapes     B batch, C channels, N points
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from ..._errors import InputError, unknown
from ..._renamed import renamed_keys
from ...attention import ExternalAttention, ExternalMemory, config_from_dict, list_attentions
from ...attention._grid import without_grid
from ...functional.offset import offset_attention, offset_attention_map
from ...functional.softmax import softmax_attention, softmax_attention_map

__all__ = ["ExternalMix", "LayerForm", "OffsetMix", "PointMixer", "list_point_mixers"]

LayerForm = Literal["offset", "plain"]


class OffsetMix(nn.Module):
    """Queries and keys are one projection of a quarter of the channels. ``plain`` is the paper's self-attention row: softmax, scaled, normalized once."""

    def __init__(self, channels: int, form: LayerForm, *, width: int | None = None, eps: float = 0.0) -> None:
        super().__init__()
        self.form, self.eps = form, eps
        self.qk = nn.Conv1d(channels, width or max(1, channels // 4), 1, bias=False)
        self.v = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.qk(x).mT, self.v(x).mT
        if self.form == "plain":
            return softmax_attention(k[:, None], k[:, None], v[:, None])[:, 0].mT
        return offset_attention(k, v, eps=self.eps).mT

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        """``combined``, ``(B, 1, N, N)``."""
        k = self.qk(x).mT
        return {"combined": softmax_attention_map(k[:, None], k[:, None]) if self.form == "plain" else offset_attention_map(k, eps=self.eps)[:, None]}


class ExternalMix(nn.Module):
    """External attention without an output map: the layer's own W is it."""

    def __init__(self, channels: int, *, slots: int = 64, **options: Any) -> None:
        super().__init__()
        self.q = nn.Conv1d(channels, channels, 1, bias=False)
        self.memory = ExternalMemory(channels, slots, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(self.q(x).mT[:, None])[:, 0].mT

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        """``slots``, points over memory, ``(B, 1, N, S)``, and ``combined``, the implied map of points, as of :class:`foveal.ExternalAttention`."""
        return self.memory.attention_map(self.q(x).mT[:, None])


class _Tokens(nn.Module):
    """A token attention of the registry, with its own output map."""

    def __init__(self, channels: int, name: str, num_heads: int, options: dict[str, Any]) -> None:
        super().__init__()
        config = without_grid(config_from_dict({"attention": name, **options}), "in clouds of points, which lie on no grid")
        self.attn = config.build(channels, num_heads=num_heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x.mT).mT

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.attn.attention_map(x.mT)
        return maps


class _Nothing(nn.Module):
    """No mixing and no weights: the layer is W alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _pointwise(channels: int) -> nn.Module:
    """The weights of offset attention's values without the meeting of points."""
    return nn.Conv1d(channels, channels, 1)


def list_point_mixers() -> list[str]:
    """Names that :class:`PointMixer` takes."""
    return sorted({"none", "offset", "pointwise", *list_attentions(form="tokens")} - {"halo"})


class PointMixer(nn.Module):
    """The layer of PCT with any mechanism inside.

    Args:
        channels: C.
        attention: ``offset`` (PCT's), ``external`` (EAT's), ``none`` (W alone), ``pointwise`` (weights without mixing), or a token attention of
            :func:`foveal.list_attentions` that needs no grid; those bring an output map of their own.
        form: whether W sees the difference between a point and what it gathered, or what it gathered.
        num_heads: of token attentions.
        options: of the mechanism.

    Shape:
        ``(B, C, N) -> (B, C, N)``, any N. With ``position``, ``(B, C, N)``, added first and part of the residual.

    Raises:
        ValueError: an unknown name, option or form; a mechanism that needs a grid.
    """

    def __init__(
        self, channels: int, attention: str = "offset", form: LayerForm = "offset", *, num_heads: int = 4, options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if attention not in list_point_mixers():
            raise unknown("attention of points", attention, list_point_mixers())
        if form not in ("offset", "plain"):
            raise unknown("form of a layer of points", form, ["offset", "plain"])
        own: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
            "offset": lambda options: OffsetMix(channels, form, **options),
            "external": lambda options: ExternalMix(channels, **renamed_keys("external", options, ExternalAttention.old_names)),
            "pointwise": lambda options: _pointwise(channels, **options),
            "none": lambda options: _Nothing(**options),
        }
        self.form = "plain" if attention == "none" else form
        try:
            self.mix = own[attention](options or {}) if attention in own else _Tokens(channels, attention, num_heads, options or {})
        except TypeError as error:
            raise InputError(f"options {options} do not fit {attention} in a layer of points: {error}") from None
        self.proj = nn.Conv1d(channels, channels, 1)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        x = x if position is None else x + position
        gathered = self.mix(x)
        return x + self.norm(self.proj(x - gathered if self.form == "offset" else gathered)).relu()

    def attention_map(self, x: Tensor, position: Tensor | None = None) -> dict[str, Tensor]:
        """How much each point takes from each, by name, ``(B, H, N, N)``: ``combined``, and what else the mechanism has; nothing where points do not meet."""
        x = x if position is None else x + position
        return self.mix.attention_map(x) if isinstance(self.mix, (OffsetMix, ExternalMix, _Tokens)) else {}
