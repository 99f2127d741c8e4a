"""The tasks are what they say, scene by scene; and the theorem's own weights solve them, where training need not."""

import pytest
import torch

from foveal import SoftmaxAttention
from foveal.lab.study import load_registration
from foveal.lab.study.single_layer import common_mode, contrast, judge_layer, limit, make_layer, train_layer

STUDY = load_registration("denoising")


def roles(tokens: torch.Tensor, rank: int, count: int) -> list[int]:
    """Who holds each role of one scene; nobody holds two, and no role is held twice."""
    marks = tokens[:, rank : rank + count]
    assert marks.sum(0).tolist() == [1] * count
    assert marks.sum(1).max() == 1
    return [int(marks[:, role].argmax()) for role in range(count)]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("rank", [12, 28])
def test_contrast_scene_by_scene(rank, asked) -> None:
    x, asks, wanted = contrast(50, rank, torch.Generator().manual_seed(3), asked=asked)
    assert x.shape == (50, 12, 32)
    for scene, asking, answer in zip(x, asks.tolist(), wanted, strict=True):
        t, u, who = roles(scene, rank, 3)
        assert who == asking
        assert torch.equal(answer, scene[t, :rank] - scene[u, :rank])
        assert bool(scene[who, :rank].abs().max()) == asked
        assert scene[:, rank + 3 :].abs().sum() == 0
    content = torch.cat([scene[[n for n in range(12) if n != who], :rank] for scene, who in zip(x, asks.tolist(), strict=True)])
    assert content.mean().abs() < 0.05
    assert content.std() == pytest.approx(1, abs=0.03)


def test_common_mode_scene_by_scene() -> None:
    """What is left of a token when the answer is taken away is the same in all scenes' own way: n, and independent of it."""
    x, asks, wanted = common_mode(400, 28, torch.Generator().manual_seed(3))
    shared = []
    for scene, asking, answer in zip(x, asks.tolist(), wanted, strict=True):
        t, who = roles(scene, 28, 2)
        assert who == asking
        shared.append(scene[t, :28] - answer)
    n = torch.stack(shared)
    assert n.std() == pytest.approx(1, abs=0.03)
    assert (n * wanted).mean().abs() < 0.03
    others = x[..., :28] - n[:, None]
    assert others.std() == pytest.approx(1, abs=0.03)
    # the least squares of what can be known: N/(N + 1) of the mean of all tokens is n
    best = (n - 12 / 13 * x[..., :28].mean(1)).square().mean()
    assert best == pytest.approx(limit("common-mode", 12), rel=0.05)
    assert [limit("common-mode", tokens) for tokens in (24, 48)] == [1 / 25, 1 / 49]
    assert limit("contrast", 12) == 0


def test_weights_are_those_that_the_theory_counts() -> None:
    """C = 32, with biases: 4C² + 128 of softmax, and so on; counted by hand in the study's theory."""
    counted = {name: sum(p.numel() for p in make_layer(layer, 32).parameters()) for name, layer in STUDY.arms.items()}
    assert counted == {
        "softmax": 4224,
        "softmax-wide": 6320,
        "softmax-many": 6320,
        "softmax-2H": 8416,
        "denoising": 6340,
        "denoising-shared": 5284,
        "differential": 4272,
        "softmax-centered": 4228,
    }


def test_the_mean_is_enough_for_a_contrast_of_any_rank_by_hand() -> None:
    """With t at twice and u at none of the common weight, A − 1/N is (e_t − e_u)/N: 4C² + H weights, where softmax needs an inner width of twice the rank."""
    rank, width, heads, tokens = 28, 32, 4, 12
    layer = SoftmaxAttention(width, heads, center=True, lambda_init=1.0)
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.proj.weight.zero_()
        layer.proj.bias.zero_()
        for head in range(heads):
            asks, keys = 8 * head, width + 8 * head
            # a head's first two dimensions: what the query asks of t and of u
            layer.qkv.weight[asks, rank + 2] = layer.qkv.weight[asks + 1, rank + 2] = 8**0.5
            layer.qkv.weight[keys, rank], layer.qkv.weight[keys + 1, rank + 1] = torch.log(torch.tensor(2.0)), -60.0
        layer.qkv.weight[2 * width :][range(rank), range(rank)] = 1
        layer.proj.weight[range(rank), range(rank)] = tokens
    x, asks, wanted = contrast(200, rank, torch.Generator().manual_seed(0), asked=True)
    got = layer(x)[torch.arange(200), asks, :rank]
    assert (got - wanted).square().mean() < 1e-8


def test_a_run_is_decided_by_its_seed_and_learns() -> None:
    from dataclasses import replace

    part = replace(STUDY.parts["S2"], steps=60, test_scenes=256)
    layer = STUDY.arms["denoising-shared"]
    first, again, other = (train_layer(part, layer, 28, 0.03, seed) for seed in (7, 7, 8))
    found = judge_layer(part, first, 28, 7)
    assert found == judge_layer(part, again, 28, 7)
    assert found != judge_layer(part, other, 28, 8)
    assert set(found) == {"error at 12", "error at 24", "error at 48"}
    assert found["error at 12"] < judge_layer(part, make_layer(layer, 32), 28, 7)["error at 12"]
