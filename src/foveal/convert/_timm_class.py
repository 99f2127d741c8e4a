"""timm: CaiT and XCiT, whose attentions do more, or other, than pairs of tokens."""

from typing import Any

from torch import Tensor, nn

from ._host import Place, register_host
from ._layouts import tokens_of
from ._parts import joined
from ._placed import Placed

__all__: list[str] = []

ONE_ASKS = "the class token alone asks, and all tokens are read"


class ClassPlaced(Placed):
    """The first token asks, all are read; called as timm's ``ClassAttn``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x[:, :1], **self.options(context=x))


def _read_class(module: Any, model: nn.Module, name: str) -> Place:
    qkv, copied = joined([module.q, module.k, module.v])
    return Place(
        dim=module.q.in_features,
        num_heads=module.num_heads,
        head_dim=module.q.out_features // module.num_heads,
        qkv=qkv,
        proj=module.proj,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        windows=1,
        no_grid="where the class token alone asks",
        needs_pairs=ONE_ASKS,
        notes=(ONE_ASKS,),
        asks_apart=True,
        copied=copied,
    )


def _read_tokens(module: Any, model: nn.Module, name: str, lost: tuple[str, ...], note: str) -> Place:
    tokens = tokens_of(model, name)
    return Place(
        dim=module.qkv.in_features,
        num_heads=module.num_heads,
        head_dim=module.proj.in_features // module.num_heads,
        qkv=module.qkv,
        proj=module.proj,
        attn_drop=module.attn_drop.p,
        proj_drop=module.proj_drop.p,
        # the class token joins in later layers
        num_prefix_tokens=0,
        grid=tokens.grid,
        no_grid=tokens.no_grid,
        lost=lost,
        notes=(note,),
    )


def _read_talking(module: Any, model: nn.Module, name: str) -> Place:
    lost = tuple(f"{part}.{key}" for part in ("proj_l", "proj_w") for key, _ in getattr(module, part).named_parameters())
    return _read_tokens(module, model, name, lost, "its heads mixed their logits and maps, which no attention here does")


def _read_channels(module: Any, model: nn.Module, name: str) -> Place:
    return _read_tokens(module, model, name, ("temperature",), "it attended from channels to channels; now tokens attend to tokens with the same weights")


register_host("timm.models.cait.ClassAttn", _read_class, lambda module, ours: ClassPlaced(ours))
register_host("timm.models.cait.TalkingHeadAttn", _read_talking)
register_host("timm.models.xcit.XCA", _read_channels)
