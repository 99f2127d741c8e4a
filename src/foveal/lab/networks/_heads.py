"""A new head for other classes, on a classifier of any library."""

from typing import Any

from torch import nn

from ..._errors import InputError

__all__ = ["Logits", "head_modules", "replace_head_"]


class Logits(nn.Module):
    """A classifier of transformers, called with images and giving logits, as all others do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Any) -> Any:
        return self.model(pixel_values=images).logits


def head_modules(model: Any) -> list[nn.Module]:
    """What gives the logits: what timm says of its own, else the last linear layer.

    Raises:
        ValueError: nothing is found, or several layers give as many logits, as with auxiliary heads.
    """
    if hasattr(model, "get_classifier"):
        head = model.get_classifier()
        return [part for part in (head if isinstance(head, tuple) else (head,)) if not isinstance(part, nn.Identity)]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"{type(model).__name__} has no linear layer, so its head is not known; take one whose last layer is linear")
    same: list[nn.Module] = [module for module in linear if module.out_features == linear[-1].out_features and module.out_features != linear[-1].in_features]
    if len(same) != 1:
        raise InputError(f"{type(model).__name__} has {len(same)} layers of {linear[-1].out_features} outputs, expected one head; take a network with one")
    return same


def replace_head_(model: Any, num_classes: int) -> list[nn.Module]:
    """A fresh head in the place of the network's own; gives its modules."""
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(num_classes)
        return head_modules(model)
    (old,) = head_modules(model)
    assert isinstance(old, nn.Linear), "heads that timm does not name are linear layers"
    name = next(name for name, module in model.named_modules() if module is old)
    fresh = nn.Linear(old.in_features, num_classes, bias=old.bias is not None).to(old.weight)
    holder, _, key = name.rpartition(".")
    setattr(model.get_submodule(holder), key, fresh)
    return [fresh]
