"""Warm start: a trained softmax model becomes a denoising model that starts as the same function, and then uses its new branch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foveal.lab.data import ClutteredDigits
from foveal.models import ViT

SCENES = ClutteredDigits(source="digits", digit=8, cells=2, distractors=2, train_scenes=2000, val_scenes=1, test_scenes=200)
SHAPE = {"img_size": 16, "in_chans": 1, "num_classes": 10}
WARM = 1e-4


def train(model: nn.Module, steps: int, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()


def strength_of_the_negative_branch(model: nn.Module, images: torch.Tensor) -> float:
    """Norm of λ A⁻ V⁻ relative to A⁺ V⁺, first layer."""
    attention = model.blocks[0].attn
    x = model.blocks[0].norm1(model._pos_embed(model.patch_embed(images)))
    split = lambda value: value.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # noqa: E731
    maps = attention.attention_map(x)
    positive = maps["positive"] @ split(attention.qkv(x).chunk(3, -1)[2])
    negative = attention.lambdas.view(-1, 1, 1) * (maps["negative"] @ split(attention.v_neg(x)))
    return (negative.norm() / positive.norm()).item()


@pytest.mark.parametrize("steps", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_warm_start_keeps_the_function_and_the_branch_grows(steps) -> None:
    bundle = SCENES.load()
    images = torch.stack([bundle.train[i][0] for i in range(len(bundle.train))])
    labels = torch.tensor([bundle.train[i][1] for i in range(len(bundle.train))])
    torch.manual_seed(0)
    softmax = ViT(attention="softmax").build(**SHAPE)
    train(softmax, steps, images, labels)
    weights = softmax.state_dict()
    denoising = ViT(attention="denoising").build(**SHAPE)
    for name in denoising.state_dict().keys() - weights.keys():
        if "lambdas" in name:
            weights[name] = denoising.state_dict()[name]
        else:
            layer, branch, field = name.rsplit(".", 2)
            q, _, v = softmax.state_dict()[f"{layer}.qkv.{field}"].chunk(3)
            weights[name] = WARM * {"q_neg": q, "v_neg": v}[branch]
    denoising.load_state_dict(weights)
    for model in (softmax, denoising):
        model.eval()
    some = images[:64]
    with torch.no_grad():
        before, after = softmax(some), denoising(some)
        assert 0 < (after - before).abs().max() < 1e-3 * before.abs().max()
        start = strength_of_the_negative_branch(denoising, some)
    assert start < WARM
    train(denoising.train(), steps, images, labels)
    with torch.no_grad():
        assert strength_of_the_negative_branch(denoising.eval(), some) > 100 * start
