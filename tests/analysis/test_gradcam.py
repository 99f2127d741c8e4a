"""pytorch-grad-cam with our adapters, against Grad-CAM written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import foveal
from foveal import InputError
from foveal.analysis import reshape_transform_for, target_layers_for
from tests.convert.test_hosts import HOSTS, SIDE, stirred, timm_vit


class Logits(nn.Module):
    """transformers answers with an object; Grad-CAM wants logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(24, 5)

    def forward(self, images):
        return self.head(self.model(images).last_hidden_state[:, 0])


def swin(library: str) -> nn.Module:
    if library == "timm":
        timm = pytest.importorskip("timm")
        return timm.models.SwinTransformer(
            img_size=SIDE, patch_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5, drop_path_rate=0.0
        )
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=5)


MODELS = {name: (lambda name=name: HOSTS[name]() if "transformers" not in name else Logits(HOSTS[name]())) for name in HOSTS}
MODELS |= {"timm Swin": lambda: swin("timm"), "torchvision Swin": lambda: swin("torchvision")}
PLACES = {
    "timm ViT": "blocks.2.norm1",
    "torchvision ViT": "encoder.layers.encoder_layer_1.ln_1",
    "transformers ViT": "model.layers.1.layernorm_before",
    "transformers DINOv2": "model.encoder.layer.1.norm1",
    "transformers SigLIP": "model.encoder.layers.1.layer_norm1",
    "timm Swin": "layers.1.blocks.1.norm1",
    "torchvision Swin": "features.3.1.norm1",
}


def made(name: str, converted: bool) -> nn.Module:
    torch.manual_seed(0)
    model = stirred(MODELS[name]())
    if converted:
        foveal.convert_(model, foveal.DenoisingAttention.Config(), warm_start=0.5)
    return model


def written_out(model: nn.Module, layer: nn.Module, images: torch.Tensor, classes: list[int], prefix: int) -> torch.Tensor:
    """Selvaraju et al., eq. 1 and 2: channels weighted by their mean gradient, what is positive, from 0 to 1 over the image."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _, args, output: seen.append(output))
    logits = model(images)
    handle.remove()
    gradient = torch.autograd.grad(sum(logits[b, k] for b, k in enumerate(classes)), seen[0])[0]
    pictures = []
    for activation, slope in zip(seen[0].detach(), gradient, strict=True):
        # (places, channels), whether they came as a row or as a grid
        a, g = (x.reshape(-1, x.shape[-1])[prefix:] for x in (activation, slope))
        side = round(len(a) ** 0.5)
        assert side * side == len(a)
        cam = torch.zeros(side, side)
        for place in range(len(a)):
            cam[place // side, place % side] = sum(g[:, c].mean() * a[place, c] for c in range(a.shape[1]))
        cam = cam.clamp_min(0)
        for size in (None, SIDE):
            cam = cam - cam.min()
            cam = cam / (1e-7 + cam.max())
            if size:
                break
            cam = F.interpolate(cam[None, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
        pictures.append(cam)
    return torch.stack(pictures)


@pytest.mark.parametrize("converted", [False, True], ids=["plain", "converted"])
@pytest.mark.parametrize("name", MODELS)
def test_grad_cam_is_what_it_says(name, converted) -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if converted and not is_known(name):
        pytest.skip("this class is not among the hosts of conversion")
    model, images = made(name, converted), torch.randn(2, 3, SIDE, SIDE)
    (layer,) = target_layers_for(model)
    if name in PLACES:
        assert layer is model.get_submodule(PLACES[name])
    prefix = {"timm ViT, normed, registers": 4, "timm DeiT": 2, "transformers DeiT": 2, "transformers SigLIP": 0, "timm Swin": 0, "torchvision Swin": 0}
    want = written_out(model, layer, images, [1, 3], prefix.get(name, 1))
    assert want.max() > 0
    with grad_cam.GradCAM(model=model, target_layers=[layer], reshape_transform=reshape_transform_for(model, (SIDE, SIDE))) as cam:
        got = cam(input_tensor=images, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    torch.testing.assert_close(torch.as_tensor(got).float(), want, rtol=1e-3, atol=1e-4)


def is_known(name: str) -> bool:
    from foveal.convert import find_host

    return any(find_host(module) is not None for module in MODELS[name]().modules())


def test_transformers_swin_is_folded() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(image_size=SIDE, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)
    model = transformers.SwinModel(config)
    assert target_layers_for(model) == [model.encoder.layers[1].blocks[1].layernorm_before]
    tokens = torch.randn(2, 16, 48)
    got = reshape_transform_for(model, (SIDE, SIDE))(tokens)
    assert torch.equal(got.permute(0, 2, 3, 1).flatten(1, 2), tokens)


def test_images_need_not_be_square() -> None:
    model = HOSTS["timm ViT"]()
    tokens = torch.randn(1, 1 + 3 * 6, 24)
    got = reshape_transform_for(model, (24, 48))(tokens)
    assert got.shape == (1, 24, 3, 6)
    assert torch.equal(got[0, :, 1, 2], tokens[0, 1 + 6 + 2])
    with pytest.raises(InputError, match="are no grid of the proportions"):
        reshape_transform_for(model, (SIDE, SIDE))(tokens)
    with pytest.raises(InputError, match="none of target_layers_for"):
        reshape_transform_for(model, (SIDE, SIDE))(torch.randn(3, 24))


def test_models_without_attention_have_no_such_layer() -> None:
    with pytest.raises(InputError, match="Sequential has no block with an attention"):
        target_layers_for(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))


@pytest.mark.case("C24")
def test_layers_and_pictures_are_found_in_inference_mode() -> None:
    """What Grad-CAM asks of a model needs no gradients; that it takes one itself is its own affair."""
    model = stirred(timm_vit(reg_tokens=2))
    want = target_layers_for(model)
    with torch.inference_mode():
        assert [layer is other for layer, other in zip(target_layers_for(model), want, strict=True)] == [True]
        tokens = torch.randn(2, 19, 5)
        picture = reshape_transform_for(model, (32, 32))(tokens)
    assert torch.equal(picture, tokens[:, 3:].reshape(2, 4, 4, 5).movedim(-1, 1))
