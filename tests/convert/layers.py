"""What people hang on layers, and the hosts to hang it on: one entry of a table each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.convert.hosts import CASES
from tests.convert.test_hosts import HOSTS

NAMES = ("timm ViT", "timm ViT, normed, registers", "torchvision ViT", "transformers ViT", "transformers CLIP", "transformers DINOv2")
FURTHER = ("timm EVA02", "timm EVA, biases apart", "timm BEiT", "timm Swin", "timm Swin V2", "timm MaxViT, TensorFlow's", "timm CaiT")
LAST = ("torchvision Swin", "torchvision Swin V2", "transformers DINOv3", "transformers VideoMAE", "transformers TimeSformer")


class Encoder(nn.Module):
    """``nn.MultiheadAttention`` alone, on the patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.attn = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).mT
        return self.attn(x, x, x, need_weights=False)[0]


MAKE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {name: (HOSTS[name], (2, 3, 32, 32)) for name in NAMES}
MAKE |= {name: (CASES[name].make, CASES[name].shape) for name in (*FURTHER, *LAST)}
MAKE["nn.MultiheadAttention"] = (Encoder, (2, 3, 32, 32))
MAIN = [
    name for name in MAKE if name not in ("timm ViT, normed, registers", "transformers DINOv2", "timm MaxViT, TensorFlow's", "timm CaiT", "transformers DINOv3")
]


@dataclass
class Seen:
    """What a thing that was hung on tells of itself."""

    calls: list[str] = field(default_factory=list)
    remove: Callable[[], None] | None = None


def lora(module: nn.Module, child: str, dora: bool = False) -> None:
    import pytest

    peft = pytest.importorskip("peft")
    wrapper: Any = nn.ModuleDict({"layer": module.get_submodule(child)})
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False, use_dora=dora), wrapper)
    exchange(module, child, wrapper["layer"].eval())


def ia3(module: nn.Module, child: str) -> None:
    import pytest

    peft = pytest.importorskip("peft")
    wrapper: Any = nn.ModuleDict({"layer": module.get_submodule(child)})
    peft.inject_adapter_in_model(peft.IA3Config(target_modules=["layer"], feedforward_modules=[], init_ia3_weights=False), wrapper)
    exchange(module, child, wrapper["layer"].eval())


def exchange(module: nn.Module, child: str, other: nn.Module) -> None:
    parent, _, key = child.rpartition(".")
    setattr(module.get_submodule(parent), key, other)


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Around(nn.Module):
    """Somebody's wrapper of a layer, which shows its weights."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    weight = property(lambda self: self.layer.weight)
    bias = property(lambda self: self.layer.bias)
    in_features = property(lambda self: self.layer.in_features)
    out_features = property(lambda self: self.layer.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.layer(x)


def doubled(module: nn.Module, child: str) -> None:
    layer: Any = module.get_submodule(child)
    other = Doubled(layer.in_features, layer.out_features, bias=layer.bias is not None)
    other.load_state_dict(layer.state_dict())
    exchange(module, child, other)


def own_forward(module: nn.Module, child: str) -> None:
    layer: Any = module.get_submodule(child)
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)


def larger(out: Any) -> Any:
    """Of a tuple the first."""
    return (1.5 * out[0], *out[1:]) if isinstance(out, tuple) else 1.5 * out


def hook(kind: str) -> Callable[[nn.Module, str, Seen], None]:
    def hang(module: nn.Module, child: str, seen: Seen) -> None:
        layer = module.get_submodule(child)
        if kind == "forward":
            handle = layer.register_forward_hook(lambda m, args, out: (seen.calls.append(kind), larger(out))[1])
        elif kind == "pre":
            handle = layer.register_forward_pre_hook(lambda m, args: (seen.calls.append(kind), (1.5 * args[0], *args[1:]))[1])
        elif kind == "backward":
            handle = layer.register_full_backward_hook(lambda m, a, b: seen.calls.append(kind))
        elif kind == "backward pre":
            handle = layer.register_full_backward_pre_hook(lambda m, b: seen.calls.append(kind))
        elif kind == "state dict":
            handle = layer.register_state_dict_post_hook(lambda m, state, prefix, meta: seen.calls.append(kind))
        else:
            handle = layer.register_load_state_dict_pre_hook(lambda *args: seen.calls.append(kind))
        seen.remove = handle.remove

    return hang


def on_weight(do: Callable[[Any], Any]) -> Callable[[nn.Module, str], None]:
    return lambda module, child: do(module.get_submodule(child))


THINGS: dict[str, Callable[..., None]] = {
    "LoRA": lora,
    "DoRA": lambda module, child: lora(module, child, dora=True),
    "IA3": ia3,
    "subclass": doubled,
    "wrapper": lambda module, child: exchange(module, child, Around(module.get_submodule(child))),
    "forward put on": own_forward,
    "pruning": on_weight(lambda layer: prune.random_unstructured(layer, "weight", 0.7)),
    "weight_norm of old": on_weight(weight_norm),
    "weight_norm": on_weight(parametrizations.weight_norm),
    "spectral_norm of old": on_weight(spectral_norm),
    "spectral_norm": on_weight(parametrizations.spectral_norm),
    "orthogonal": on_weight(parametrizations.orthogonal),
    "gradient hook": on_weight(lambda layer: layer.weight.register_hook(lambda grad: 0 * grad)),
    "buffer": on_weight(lambda layer: layer.register_buffer("mine", torch.ones(3))),
    "parameter": on_weight(lambda layer: layer.register_parameter("mine", nn.Parameter(torch.ones(3)))),
}
HOOKS = ("forward", "pre", "backward", "backward pre", "state dict", "load state dict")
