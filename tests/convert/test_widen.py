"""More heads in a trained model: the function is the same, what is new learns, and the way back and the files are those of every conversion."""

import copy

import pytest
import timm
import torch
from torch import nn

import foveal
from foveal import InputError, SoftmaxAttention, convert, convert_, load_delta, revert_, save_delta, widen_
from foveal.attention import TokenAttention
from foveal.models import ViT
from tests.convert.test_hosts import SIDE, run, stirred, timm_vit, torchvision_vit, transformers_tower

IMAGES = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)


def own_vit() -> nn.Module:
    return ViT(patch_size=8).build(img_size=SIDE, in_chans=3, num_classes=5)


MAKE = {
    "timm": timm_vit,
    "timm, norms of heads": lambda: timm_vit(qk_norm=True),
    "timm, rotary": lambda: timm.create_model("vit_small_patch16_rope_224", img_size=SIDE, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5),
    "torchvision": torchvision_vit,
    "transformers": lambda: transformers_tower("ViT"),
    "ours": own_vit,
}


def base(make) -> nn.Module:
    torch.manual_seed(0)
    return stirred(make()).double().eval()


def attentions(model: nn.Module) -> list[SoftmaxAttention]:
    return [module for module in model.modules() if isinstance(module, TokenAttention)]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_the_function_is_kept_and_what_is_new_learns(make) -> None:
    model = base(make)
    want, untouched = run(model, IMAGES), copy.deepcopy(model)
    heads = [module.num_heads for module in attentions(convert(model, SoftmaxAttention.Config())[0])]
    report = widen_(model, times=1.5)
    assert {swap.output for swap in report.swaps} == {"identical"}
    assert [module.num_heads for module in attentions(model)] == [3 * count // 2 for count in heads]
    got = run(model, IMAGES)
    assert (got - want).abs().max() < 1e-12 * want.abs().max()
    # the further heads' values learn at once, all else of them from the second step
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        run(model, IMAGES).square().mean().backward()
        for module, count in zip(attentions(model), heads, strict=True):
            width, whole = count * module.head_dim, module.inner_dim
            q, k, v = (part[width:] for part in module.qkv.weight.grad.chunk(3))
            assert v.abs().max() > 0
            assert (q.abs().max() > 0) == (k.abs().max() > 0) == (module.proj.weight.grad[:, width:whole].abs().max() > 0) == (step > 0)
        optimizer.step()
    module = attentions(model)[0]
    first, further = (module.qkv.weight[-module.inner_dim :][rows] for rows in (slice(module.head_dim), slice(-module.head_dim, None)))
    assert not torch.allclose(first, further), "the heads of a pair are not one"
    revert_(model)
    assert {name: type(module) for name, module in model.named_modules()} == {name: type(module) for name, module in untouched.named_modules()}


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, own_vit], ids=["timm", "torchvision", "ours"])
def test_the_way_back_is_to_the_weights_of_before(make) -> None:
    model = base(make)
    want = run(model, IMAGES)
    widen_(model, times=2)
    assert revert_(model)
    assert torch.equal(run(model, IMAGES), want)


def test_the_start_is_that_of_exact_denoising_without_its_ties() -> None:
    """Trained on, an untied model takes the step that denoising attention takes, as far as that is tied to nothing: the same gradient of the second values."""
    wide, denoising = base(timm_vit), base(timm_vit)
    widen_(wide, times=2)
    convert_(denoising, foveal.DenoisingAttention.Config(lambda_init=1.0), warm_start="exact")
    for model in (wide, denoising):
        run(model, IMAGES).square().mean().backward()
    for ours, theirs in zip(attentions(wide), attentions(denoising), strict=True):
        further = ours.qkv.weight.grad.chunk(3)[2][ours.inner_dim // 2 :]
        torch.testing.assert_close(further, -theirs.v_neg.weight.grad, rtol=1e-9, atol=1e-15)


def test_equal_weights() -> None:
    """1.5 times the heads are as many weights as denoising attention, 1.25 times as with shared values; biases and λ apart."""

    def matrices(model: nn.Module) -> int:
        return sum(value.numel() for module in attentions(model) for value in module.parameters() if value.ndim == 2)

    for times, config in ((1.5, foveal.DenoisingAttention.Config()), (1.25, foveal.DenoisingAttention.Config(shared_values=True))):
        wide, denoising = (timm.create_model("test_vit", embed_dim=32, num_heads=4) for _ in range(2))
        widen_(wide, times=times)
        convert_(denoising, config)
        assert matrices(wide) == matrices(denoising)


def test_a_delta_and_a_folder_bring_it_back(tmp_path) -> None:
    model = base(timm_vit)
    widen_(model, num_heads=6, where="blocks.[01].attn")
    for name, value in model.named_parameters():
        if "blocks.1.attn.qkv" in name:
            with torch.no_grad():
                value.add_(0.1 * torch.randn_like(value))
    names = save_delta(model, tmp_path / "delta.safetensors")
    assert all("attn" in name for name in names)
    other = base(timm_vit)
    load_delta(other, tmp_path / "delta.safetensors")
    assert [module.num_heads for module in attentions(other)] == [6, 6]
    assert torch.equal(run(other, IMAGES), run(model, IMAGES))
    own = base(own_vit)
    widen_(own, times=1.5)
    want = run(own, IMAGES)
    foveal.save_pretrained(own, tmp_path / "folder")
    assert torch.equal(run(foveal.from_pretrained(tmp_path / "folder").double().eval(), IMAGES), want)


def test_what_cannot_be_widened_is_refused_and_left_alone() -> None:
    def refused(says: str, model: nn.Module | None = None, **options) -> None:
        model = base(timm_vit) if model is None else model
        before = {name: (type(module), id(module)) for name, module in model.named_modules()}
        with pytest.raises(InputError, match=says):
            widen_(model, **options)
        assert before == {name: (type(module), id(module)) for name, module in model.named_modules()}

    refused("num_heads or times, one of the two")
    refused("num_heads or times, one of the two", num_heads=6, times=1.5)
    refused("a whole number, got 6.0", num_heads=6.0)
    refused("to more than these; got 4", num_heads=4)
    refused("to more than these; got 0", times=0.0)
    refused("give at most 8 heads", num_heads=9)
    refused("no whole number", times=1.3)
    refused("normalizes over all heads", timm_vit(scale_attn_norm=True), times=1.5)
    refused("no module is chosen", times=1.5, where="none.*")
    refused("bias of pairs", timm.create_model("beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=4), times=1.5)
    refused("lambdas, what softmax attention makes", ViT(options={"center": True}).build(img_size=16, in_chans=3, num_classes=2), times=1.5)
    refused("would change", ViT(attention="denoising").build(img_size=16, in_chans=3, num_classes=2), times=1.5)
    converted = base(timm_vit)
    convert_(converted, SoftmaxAttention.Config())
    refused("revert_", converted, times=1.5)
    widened = base(timm_vit)
    widen_(widened, times=1.5)
    refused("revert_", widened, times=2)
    hooked = base(timm_vit)
    hooked.blocks[0].attn.qkv.register_forward_hook(lambda *_: None)
    refused("more than a plain linear map", hooked, times=1.5)
