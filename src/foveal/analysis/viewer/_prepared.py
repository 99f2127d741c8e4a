"""How timm makes an image ready for a model, at the size that this model was built for."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["timm_transform"]


def timm_transform(model: nn.Module) -> Callable[[Any], Tensor]:
    """From a PIL image to ``(C, H, W)``, as ``model.pretrained_cfg`` says.

    Its size is that of the published weights. A model that was built for another one (``img_size=``) takes no image of that size.
    """
    from timm.data import create_transform, resolve_model_data_config

    settings: dict[str, Any] = resolve_model_data_config(model)
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(own, tuple) and len(own) == 2:
        settings["input_size"] = (settings["input_size"][0], *own)
    made: Any = create_transform(**settings, is_training=False)
    colors = "L" if settings["input_size"][0] == 1 else "RGB"

    def ready(image: Any) -> Tensor:
        found: Tensor = made(image.convert(colors))
        return found

    return ready
