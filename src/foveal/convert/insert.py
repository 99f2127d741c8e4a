"""An attention on feature maps after a stage of any convolutional network, which begins as if it were not there.

The stage keeps its name and its weights theirs: the block is a further child of the stage. In an ``nn.Sequential`` it runs last, elsewhere a hook calls it on
what the stage gives.
"""

import fnmatch
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError, unknown
from .._fx import tracer_of
from ..attention import AttentionConfig, attention_class, list_attentions
from ._digest import digests
from ._record import Record, begin_record, layout_of
from ._wrapped import refuse_wrapped
from .report import ConversionReport, Swap

__all__ = ["CHILD", "GrownIn", "Inserted", "insert_"]

CHILD = "foveal_attention"
"""The name of the block in its stage."""


class GrownIn(nn.Module):
    """A block on feature maps that grows into a network: ``gamma``, which starts at 0, leads from the input to what the block gives.

    ``x + gamma · (block(x) − x)`` where the block adds its input itself, so that 1 is the block alone; else ``x + gamma · block(x)``.
    """

    def __init__(self, attn: nn.Module, residual: bool, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.attn, self.residual = attn, residual
        self.gamma = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        out = self.attn(x)
        return x + self.gamma.to(x.dtype) * (out - x if self.residual else out)

    def no_weight_decay(self) -> set[str]:
        return {"gamma", *(f"attn.{name}" for name in self.attn.no_weight_decay())}  # type: ignore[operator]


@dataclass
class Inserted:
    """What is remembered of one inserted block."""

    after: str
    config: AttentionConfig
    channels: int
    start: str

    def step(self) -> dict[str, Any]:
        return {"names": [f"{self.after}.{CHILD}"], "after": self.after, "config": self.config.to_dict(), "channels": self.channels, "start": self.start}

    def stands_in(self, model: nn.Module) -> bool:
        """Whether the stage is there and holds the block."""
        try:
            model.get_submodule(f"{self.after}.{CHILD}")
        except AttributeError:
            return False
        return True

    def take_out(self, model: nn.Module) -> str:
        stage = model.get_submodule(self.after)
        delattr(stage, CHILD)
        for key in [key for key, hook in stage._forward_hooks.items() if hook is _then]:
            del stage._forward_hooks[key]
        return f"{self.after}.{CHILD}"


def insert_(
    model: nn.Module, config: AttentionConfig, after: str | list[str], *, channels: int | None = None, start: Literal["identity", "paper"] = "identity"
) -> ConversionReport:
    """Put an attention on feature maps behind stages of a network, in place.

    :func:`revert_` takes it out again, :func:`save_delta` and :func:`load_delta` know it, and names of other weights stay as they were.

    Args:
        model: any network with modules that give feature maps ``(B, C, H, W)``: ResNets of timm and torchvision, alone or as backbones of detectors.
        config: of an attention on feature maps, such as ``foveal.ExternalAttention2d.Config()``.
        after: names of stages, or globs: ``"layer4"``, ``"backbone.body.layer[34]"``.
        channels: C of what the stages give; of the last layer in each if None.
        start: ``"identity"`` begins as if nothing were there, whatever the block; ``"paper"`` is the block as its paper starts it.

    Returns:
        What was inserted; ``kept`` is said of the function where it begins as the identity.

    Raises:
        ValueError: an attention for tokens; no such module, or one that holds modules without running them; a stage that has a block already; channels that
            cannot be found, or do not fit the attention; a compiled or wrapped model. In ``forward``: a stage that gives something else than a feature map
            of so many channels.

    Example:
        >>> from foveal import LinearAttention2d
        >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1))
        >>> report = insert_(net, LinearAttention2d.Config(), after="0")
        >>> report.swaps[0].function, net(torch.randn(1, 3, 9, 9)).shape
        ('kept', torch.Size([1, 8, 1, 1]))
    """
    refuse_wrapped(model, "insert")
    if attention_class(config.attention).form != "2d":
        raise InputError(f"{config.attention} attention takes tokens, and stages give feature maps; insert one of {', '.join(list_attentions(form='2d'))}")
    if start not in ("identity", "paper"):
        raise unknown("start of an inserted block", start, ("identity", "paper"))
    before, layout = digests(model.state_dict()), layout_of(model.state_dict())
    planned = [_plan(model, name, config, channels, start) for name in _stages(model, after)]
    # from here on nothing can fail
    record: Record = begin_record(model, before, layout)
    for inserted, block, _ in planned:
        stage = model.get_submodule(inserted.after)
        stage.add_module(CHILD, block)
        if not isinstance(stage, nn.Sequential):
            # before other hooks, so that whoever listens to the stage hears what goes on
            stage.register_forward_hook(_then, prepend=True)
        own = {f"{inserted.after}.{CHILD}.{name}": value for name, value in block.state_dict().items()}
        record.inserted.append(inserted)
        record.start |= digests(own)
        record.layout |= layout_of(own)
        record.new |= set(own)
    return ConversionReport([swap for _, _, swap in planned])


def _then(stage: nn.Module, args: Any, output: Any) -> Any:
    if not isinstance(output, Tensor) and tracer_of(output) is None:
        raise InputError(f"{type(stage).__name__} gives {type(output).__name__}, no feature map; insert after a module that gives one")
    return getattr(stage, CHILD)(output)


def _stages(model: nn.Module, after: str | list[str]) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    found: list[str] = []
    for pattern in [after] if isinstance(after, str) else after:
        chosen = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not chosen:
            raise InputError(f"the model has no module {pattern!r}; its parts are {', '.join(name for name, _ in model.named_children())}")
        found += [name for name in chosen if name not in found]
    return found


def _plan(model: nn.Module, name: str, config: AttentionConfig, channels: int | None, start: str) -> tuple[Inserted, nn.Module, Swap]:
    stage = model.get_submodule(name)
    if isinstance(stage, nn.ModuleList | nn.ModuleDict):
        one = next((child for child, _ in stage.named_children()), "")
        raise InputError(f"{name} is a {type(stage).__name__}, which holds modules and does not run them; name one of them, such as {name}.{one}")
    if hasattr(stage, CHILD):
        raise InputError(f"{name} has an inserted block already; call foveal.revert_(model) first")
    width = _channels(stage, name) if channels is None else channels
    like = next(iter(stage.parameters()), None)
    if like is None:
        like = next(model.parameters())
    factory = {"device": like.device, "dtype": like.dtype}
    block = type(config).module(width, **config.options(), **factory)
    residual = attention_class(config.attention).is_residual and bool(getattr(config, "residual", True))
    if start == "identity" and not (residual and getattr(config, "gamma_init", None) == 0):
        block = GrownIn(block, residual, **factory)
    block.train(stage.training)
    new = [key for key, _ in block.named_parameters()]
    swap = Swap(
        name=f"{name}.{CHILD}",
        was="",
        to=config.to_dict(),
        function="kept" if start == "identity" else "changed",
        kept=[],
        mapped=[],
        new=new,
        new_objects=[f"{name}.{CHILD}.{key}" for key in new],
        dropped=[],
        parameters=(0, sum(p.numel() for p in block.parameters())),
        macs=None,
        notes=[f"after {name}, {width} channels"],
    )
    return Inserted(name, config, width, start), block, swap


def _channels(stage: nn.Module, name: str) -> int:
    """Of the last layer that has a width."""
    for module in reversed(list(stage.modules())):
        for attribute in ("out_channels", "num_features", "out_features"):
            width = getattr(module, attribute, None)
            if isinstance(width, int):
                return width
    raise InputError(f"how many channels {name} gives cannot be read off it; say channels=")
