"""Softmax less its mean in the place of softmax: λ begins at 0, so nothing changes; it learns, and comes back out of files."""

import pytest
import torch
from torch import nn

import foveal
from foveal import InputError, SoftmaxAttention, convert_, load_delta, revert_, save_delta
from foveal.models import ViT
from tests.convert.test_hosts import SIDE, run, stirred, timm_vit, torchvision_vit, transformers_tower

CENTERED = SoftmaxAttention.Config(center=True)
IMAGES = torch.randn(2, 3, SIDE, SIDE)


def base(make=timm_vit) -> nn.Module:
    torch.manual_seed(0)
    return stirred(make()).eval()


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, lambda: transformers_tower("ViT")], ids=["timm", "torchvision", "transformers"])
def test_the_function_is_kept_until_lambda_learns(make, tmp_path) -> None:
    model = base(make)
    want = run(model, IMAGES)
    report = convert_(model, CENTERED, warm_start="exact")
    assert {(swap.output, tuple(swap.new)) for swap in report.swaps} == {("identical", ("lambdas",))}
    torch.testing.assert_close(run(model, IMAGES), want, rtol=1e-5, atol=1e-5)
    run(model, IMAGES).square().mean().backward()
    found = {name: value for name, value in model.named_parameters() if name.endswith("lambdas")}
    assert len(found) == len(report.swaps)
    for value in found.values():
        assert value.abs().max() == 0
        assert value.grad.abs().min() > 0, "λ learns from 0 on"
        with torch.no_grad():
            value.sub_(value.grad.sign())
    assert all(abs(value) == 1 for values in foveal.lambdas(model).values() for value in values)
    assert sorted(save_delta(model, tmp_path / "delta.safetensors")) == sorted(found)
    changed = run(model, IMAGES)
    assert not torch.allclose(changed, want, atol=1e-3)
    other = base(make)
    load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(run(other, IMAGES), changed)
    revert_(model)
    assert torch.equal(run(model, IMAGES), want)


def test_from_plain_to_centered_and_not_silently_back() -> None:
    """λ is a weight, and where it would be lost the report says so; nothing is centered twice."""
    model = ViT(options={"center": True}).build(img_size=16, in_chans=3, num_classes=2)
    with pytest.raises(InputError, match="is softmax attention already"):
        convert_(model, CENTERED)
    report = convert_(model, SoftmaxAttention.Config())
    assert {swap.output for swap in report.swaps} == {"changed"}
    assert "lambdas" in report.swaps[0].dropped
    own = ViT().build(img_size=16, in_chans=3, num_classes=2)
    assert {swap.output for swap in convert_(own, CENTERED).swaps} == {"identical"}


def test_gradient_rollout_does_not_pass_over_the_mean() -> None:
    model = ViT(options={"center": True}, patch_size=8).build(img_size=16, in_chans=3, num_classes=2).eval()
    with pytest.raises(InputError, match=r"is a SoftmaxAttention\(.*center=True\), whose map is off the path of gradients"):
        foveal.analysis.gradient_rollout(model, torch.randn(1, 3, 16, 16), 0)
    for signed in ("positive", "magnitude"):
        rolled = foveal.analysis.rollout(model, torch.randn(1, 3, 16, 16), signed=signed)
        torch.testing.assert_close(rolled.sum(-1), torch.ones(1, 5))


def test_fusing_has_nothing_to_fold() -> None:
    with pytest.raises(InputError, match="no denoising attention"):
        foveal.fuse_(SoftmaxAttention(24, 4, center=True).eval())
