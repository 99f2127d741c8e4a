"""A pretrained classifier of any library, with a new head and, if wanted, another attention, as the model of a recipe."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from ...attention import FAMILIES, attention_class, config_from_dict, list_attentions
from ...convert import ConversionReport, Where, calibrate_, convert_, every_nth, insert_, widen_
from ...convert._digest import digests, fingerprint
from ...convert._record import end_record, record_of
from ...convert.insert import CHILD, GrownIn
from ...models import Arm, ModelConfig, register_model
from ...models._config import NAMED_OPTIONS
from ...models.mixing import CONTROL, PointwiseControl
from ._handed import taken
from ._heads import Logits, head_modules, replace_head_
from ._sources import SOURCES
from ._widened import WIDE

__all__ = ["Pretrained", "base_digest"]

_EVERY = re.compile(r"every_(\d+)(?:st|nd|rd|th)")
_CALIBRATION = (64, 8)
"""Images, and images a batch."""
_NORMS = (nn.modules.batchnorm._BatchNorm,)


@register_model
@dataclass(frozen=True, kw_only=True)
class Pretrained(ModelConfig):
    """A network with the weights that it comes with; its head is new, for the classes of the data."""

    targets: ClassVar[str] = "labels"
    about: ClassVar[str] = "a pretrained network"
    brings_weights: ClassVar[bool] = True
    baseline: ClassVar[str] = "own"
    default_arms: ClassVar[tuple[str, ...]] = ("own", "denoising", "external")

    ranges: ClassVar[Mapping[str, Range]] = {
        **ModelConfig.ranges,
        **dict.fromkeys(("calibrate", "lora"), Range(at_least=0, at_most=10**6)),
    }

    library: str
    """timm, torchvision, transformers, wheel, or folder: one of foveal.save_pretrained."""
    name: str
    """Of the network in that library, or the folder's path."""
    weights: str = "pretrained"
    """pretrained, random, or a file."""
    digest: str = ""
    """Of the weights that it began with; a run is not gone on with from others. Not checked if empty."""
    attention: str | None = None
    """Put in the places of the network's own, or with insert_after behind stages; the network as it is if None."""
    attention_options: dict[str, Any] | None = None
    """Of that attention, as in its Config."""
    where: str = "*"
    """Which places: a glob on names of modules, last_stage, global_only, or every_2nd, every_3rd and so on."""
    warm_start: float | Literal["exact"] | None = None
    """Of denoising attention: size of its negative branch, or exact; the mechanism's own if None."""
    insert_after: tuple[str, ...] = ()
    """Stages of a convolutional network behind which the attention, one on maps, or the control pointwise, is put."""
    calibrate: int = 0
    """Steps a layer in which what was put in is fitted to what it replaced, before training; 0 is none."""
    freeze: Literal["nothing", "all-but-head", "all-but-new", "all-but-attention"] = "nothing"
    """What does not learn. New are the head and what the attention brought; all-but-attention trains the converted attentions whole, and the head."""
    lora: int = 0
    """Rank of low-rank adapters on the linear layers, which then learn in their place, with what is new; 0 is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.library not in SOURCES:
            raise InputError(f"library must be one of {', '.join(SOURCES)}, got {self.library!r}")
        if self.attention is None and (self.where != "*" or self.warm_start is not None or self.calibrate or self.insert_after or self.attention_options):
            raise InputError("where, warm_start, calibrate, insert_after and attention_options are of an attention, and none is named")
        if self.insert_after and (self.where != "*" or self.warm_start is not None or self.calibrate):
            raise InputError("insert_after puts a block behind stages, which begins as the identity: where, warm_start and calibrate are of a conversion")
        if self.attention == CONTROL and not self.insert_after:
            raise InputError(f"{CONTROL} is the control of what is inserted; say behind which stages with insert_after")
        if self.attention == WIDE and (set(self.attention_options or {}) != {"num_heads"} or self.warm_start is not None):
            raise InputError(f"{WIDE} is the network's own attention with more heads: give attention_options={{'num_heads': …}}, and no warm_start")
        if self.lora and self.freeze != "nothing":
            raise InputError("lora freezes all but its adapters and what is new; leave freeze out")

    def build(self, *, img_size: int, in_chans: int = 3, num_classes: int) -> nn.Module:
        """The network with a new head, converted or grown, and frozen as wanted. ``new_parameter_names`` and ``conversion`` say what is not pretrained.

        Raises:
            ValueError: the weights cannot be loaded or are not those of ``digest``; no such attention, place or stage.
        """
        model: Any = taken(self.library, self.name, self.weights, img_size) or SOURCES[self.library].build(self.name, self.weights, img_size)
        if self.digest and base_digest(model) != self.digest:
            raise InputError(f"the weights of {self.name} are other ones than when this run began ({base_digest(model)}, then {self.digest}); bring those back")
        return self._made(model, in_chans, num_classes)

    def keep(self, folder: Path) -> None:
        SOURCES[self.library].keep(self.name, folder)

    def rebuild(self, folder: Path | None, *, img_size: int, in_chans: int = 3, num_classes: int) -> nn.Module:
        return self._made(SOURCES[self.library].alike(self.name, img_size, folder), in_chans, num_classes)

    def _made(self, model: Any, in_chans: int, num_classes: int) -> nn.Module:
        if in_chans != 3:
            raise InputError(f"pretrained networks take color images, got in_chans={in_chans}")
        head = replace_head_(model, num_classes)
        new = {id(value) for module in head for value in module.parameters()}
        report = self._put(model)
        added = _added(model, report)
        of_attention = {id(value) for swap in report.swaps for value in model.get_submodule(swap.name).parameters()}
        if self.lora:
            added |= self._adapt(model, head, new | added)
        self._freeze(model, new, added, of_attention)
        wrapped: Any = Logits(model) if type(model).__module__.startswith("transformers.") else model
        wrapped.new_parameter_names = tuple(name for name, value in wrapped.named_parameters() if id(value) in new | added)
        wrapped.conversion = report
        return wrapped

    def new_parameters(self, model: nn.Module) -> frozenset[str]:
        return frozenset(getattr(model, "new_parameter_names", ()))

    def begin_(self, model: nn.Module, split: Any, seed: int) -> list[str]:
        """Calibration on training images, if wanted; once, before the first step."""
        if not self.calibrate:
            return []
        count, size = min(_CALIBRATION[0], len(split)), _CALIBRATION[1]
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        torch.manual_seed(seed)
        device = next(model.parameters()).device
        batches = [torch.stack([split[i][0] for i in order[at : at + size]]).to(device) for at in range(0, count, size)]
        inner = model.model if isinstance(model, Logits) else model
        if isinstance(model, Logits):
            fits = calibrate_(inner, None, [{"pixel_values": batch} for batch in batches], steps=self.calibrate, seed=seed, progress=False)
        else:
            fits = calibrate_(inner, None, batches, steps=self.calibrate, seed=seed, progress=False)
        before, after = (sum(getattr(fit, at) for fit in fits.layers) / len(fits.layers) for at in ("before", "after"))
        return [f"calibrated on {count} training images: mean relative error of {len(fits.layers)} layers {before:.3f} → {after:.3f}"]

    def arms(self) -> dict[str, Arm]:
        """The network as it is, fine-tuned, and with every attention on tokens, and some with options, in the same places."""
        plain = replace(self, attention=None, attention_options=None, where="*", warm_start=None, calibrate=0, insert_after=())
        found = {"own": Arm("own", "the network as it is, fine-tuned", plain)}
        form: Literal["2d", "tokens"] = "2d" if self.insert_after else "tokens"
        for name in list_attentions(form=form):
            found[name] = Arm(name, FAMILIES[attention_class(name).family], replace(self, attention=name, attention_options=None, warm_start=None))
        for name, (attention, about, options) in ({} if self.insert_after else NAMED_OPTIONS).items():
            found[name] = Arm(name, about, replace(self, attention=attention, attention_options=options, warm_start=None))
        if self.insert_after:
            found[CONTROL] = Arm(CONTROL, "two 1×1 convolutions in its place", replace(self, attention=CONTROL, attention_options=None))
        return found

    def smoke_model(self) -> "Pretrained":
        """timm's smallest vision transformer, or its smallest convolutional network where something is inserted."""
        after = ("layer4",) if self.insert_after else ()
        return replace(self, library="timm", name="test_resnet" if after else "test_vit", weights="random", digest="", where="*", insert_after=after)

    def _put(self, model: nn.Module) -> ConversionReport:
        if self.attention is None:
            return ConversionReport([])
        if self.attention == CONTROL:
            return self._control(model)
        every = _EVERY.fullmatch(self.where)
        where: Where = every_nth(int(every[1])) if every else self.where
        if self.attention == WIDE:
            return widen_(model, where=where, **(self.attention_options or {}))
        config = config_from_dict({"attention": self.attention, **(self.attention_options or {})})
        if self.insert_after:
            return insert_(model, config, after=list(self.insert_after))
        return convert_(model, config, where, warm_start=self.warm_start)

    def _control(self, model: nn.Module) -> ConversionReport:
        # where an attention on maps would go, and as if it were not there at the start, as it does
        report = insert_(model, config_from_dict({"attention": "linear_2d"}), after=list(self.insert_after))
        swaps = []
        for inserted, swap in zip(record_of(model).inserted, report.swaps, strict=True):
            block = GrownIn(PointwiseControl(inserted.channels), residual=True)
            setattr(model.get_submodule(inserted.after), CHILD, block)
            names = [name for name, _ in block.named_parameters()]
            counts = (0, sum(value.numel() for value in block.parameters()))
            swaps.append(replace(swap, to={"attention": CONTROL}, new=names, new_objects=[f"{swap.name}.{name}" for name in names], parameters=counts))
        end_record(model)
        return ConversionReport(swaps)

    def _adapt(self, model: nn.Module, head: list[nn.Module], new: set[int]) -> set[int]:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise missing_extra("peft", "peft", "--lora") from error
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module not in head and not any(id(value) in new for value in module.parameters())
        ]
        if not linear:
            raise InputError(f"{self.name} has no linear layer besides its head, which low-rank adapters could go on; leave lora out")
        inject_adapter_in_model(LoraConfig(r=self.lora, lora_alpha=2 * self.lora, target_modules=linear), model)
        return {id(value) for name, value in model.named_parameters() if "lora_" in name}

    def _freeze(self, model: nn.Module, head: set[int], added: set[int], of_attention: set[int]) -> None:
        learns = {"nothing": None, "all-but-head": head, "all-but-new": head | added, "all-but-attention": head | added | of_attention}[self.freeze]
        if self.lora:
            learns = head | added
        if learns is None:
            return
        for value in model.parameters():
            value.requires_grad_(id(value) in learns)
        for module in model.modules():
            # statistics of frozen layers stay what they were
            if isinstance(module, _NORMS) and not any(value.requires_grad for value in module.parameters()):
                module.register_forward_pre_hook(_still)


def _still(module: nn.Module, args: Any) -> None:
    module.training = False


def base_digest(model: nn.Module) -> str:
    """Of all weights but the head's, which does not stay."""
    head = {value.data_ptr() for module in head_modules(model) for value in module.parameters()}
    return fingerprint(digests({name: value for name, value in model.state_dict().items() if value.data_ptr() not in head}))


def _added(model: nn.Module, report: ConversionReport) -> set[int]:
    """Parameters that hold nothing of the pretrained network."""
    found: set[int] = set()
    for swap in report.swaps:
        module = model.get_submodule(swap.name)
        if not swap.was or isinstance(module, GrownIn):
            found |= {id(value) for value in module.parameters()}
            continue
        own = dict(module.named_parameters())
        found |= {id(value) for name, value in own.items() if any(name == new or name.endswith(f".{new}") for new in swap.new)}
    return found
