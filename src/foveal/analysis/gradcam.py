"""What pytorch-grad-cam asks of a transformer: the layers to look at, and how their tokens lie in the image."""

from collections.abc import Callable

from torch import Tensor, nn

from .._errors import InputError
from ..convert import find_host, originals_of
from ._watch import is_ours
from .layout import token_layout

__all__ = ["reshape_transform_for", "target_layers_for"]

_NORMS = ("norm1", "ln_1", "layernorm_before", "layer_norm1", "norm", "norm2")
"""Where the tokens of a block come together before, or right behind, its attention: timm and DINOv2, torchvision, transformers' ViT, its CLIP and SigLIP."""


def target_layers_for(model: nn.Module) -> list[nn.Module]:
    """The layer that Grad-CAM is to look at: the norm of the last block that mixes patches, for ``GradCAM(target_layers=…)``.

    Not a layer behind it: where a class token answers, patches have no gradient after the last attention.

    Args:
        model: of timm, torchvision or transformers, converted or not; ViTs and Swin. It may be wrapped in another module.

    Raises:
        ValueError: there is no attention in a block with a norm of a known name.
    """
    originals = originals_of(model)
    modules = dict(model.named_modules())
    for name, module in reversed(modules.items()):
        if not (name in originals or is_ours(module) or find_host(module) is not None or _looks_like_attention(module)):
            continue
        block = modules[name.rpartition(".")[0]]
        norms = dict(block.named_children())
        found = next((norms[norm] for norm in _NORMS if norm in norms), None)
        # heads that pool with an attention have a norm as well, and no patches behind it
        if found is not None and "pool" not in f"{type(block).__name__} {name}".lower():
            return [found]
    raise InputError(
        f"{type(model).__name__} has no block with an attention and a norm called {', '.join(_NORMS)}; name the layer yourself, and give GradCAM a "
        "reshape_transform that makes (B, C, H, W) of what it gives"
    )


def reshape_transform_for(
    model: nn.Module, image_size: tuple[int, int], *, num_prefix_tokens: int | None = None, grid_size: tuple[int, int] | None = None
) -> Callable[[Tensor], Tensor]:
    """How tokens become a picture, for ``GradCAM(reshape_transform=…)``: prefix tokens are cut off, the others folded to the grid, channels put first.

    Args:
        model: as for :func:`target_layers_for`.
        image_size: ``(H, W)`` of the images that will be looked at.
        num_prefix_tokens: where the model does not say, or is wrong.
        grid_size: rows and columns, where the model does not say.

    Returns:
        A function from ``(B, N, C)``, or ``(B, h, w, C)`` as in Swin, to ``(B, C, h, w)``. It raises ``ValueError`` for anything else.

    Example:
        >>> import foveal.models
        >>> vit = foveal.models.ViT(patch_size=4).build(img_size=16, in_chans=1, num_classes=3)
        >>> reshape_transform_for(vit, (16, 16))(torch.randn(2, 17, 48)).shape
        torch.Size([2, 48, 4, 4])
    """

    def transform(activations: Tensor) -> Tensor:
        if activations.ndim == 4:
            return activations.permute(0, 3, 1, 2)
        if activations.ndim != 3:
            raise InputError(f"expected tokens (B, N, C) or (B, h, w, C), got {tuple(activations.shape)}; the layer is none of target_layers_for(model)")
        layout = token_layout(model, activations.shape[1], image_size, num_prefix_tokens=num_prefix_tokens, grid_size=grid_size)
        first, (high, wide) = layout.num_prefix_tokens, layout.grid
        return activations[:, first : first + high * wide].unflatten(1, layout.grid).permute(0, 3, 1, 2)

    return transform


def _looks_like_attention(module: nn.Module) -> bool:
    """As those of Swin: classes that conversion need not know for this."""
    return "Attention" in type(module).__name__ and (hasattr(module, "num_heads") or hasattr(module, "num_attention_heads"))
