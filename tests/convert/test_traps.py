"""What a trace of one call does not show is asked in every call, or refused: never taken as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import InputError, SoftmaxAttention, convert_
from tests.convert.test_hosts import stirred
from tests.convert.traps import TRAPS, Plain


class Around(nn.Module):
    def __init__(self, attn: nn.Module, given: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.first, self.attn, self.given = nn.Linear(16, 16), attn, given

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.first(x), *self.given)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_another_call_is_the_same_or_refused(trap) -> None:
    torch.manual_seed(0)
    model, x = stirred(Around(trap.kind(), trap.given)).eval(), torch.randn(trap.samples, 9, 16)
    if trap.refused:
        with pytest.raises(InputError, match=trap.refused):
            convert_(model, SoftmaxAttention.Config(), "attn", inputs=x)
        return
    shapes = [(samples, count, 16) for count in trap.counts for samples in (1, 3)]
    given = [torch.randn(shape) for shape in shapes]
    want = model(x)
    model.given = trap.other or trap.given
    of_others = [model(one) for one in given]
    model.given = trap.given
    convert_(model, SoftmaxAttention.Config(), "attn", inputs=x)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    model.given, met = trap.other or trap.given, set()
    for one, other in zip(given, of_others, strict=True):
        try:
            got = model(one)
        except InputError:
            continue
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-5)
        met.add(one.shape[1])
    assert met >= set(trap.kept)
    if not trap.kept:
        # or it would have been found to hold at all sizes
        assert len(met) < len(trap.counts) or trap.samples == 1


class DroppingAttention(Plain):
    """What its map gives is dropped in training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.drop(self.qkv(self.before(x))).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


class DroppingHeadsAttention(DroppingAttention):
    """Queries are, once they are cut into heads."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.drop(q), k, v


@pytest.mark.parametrize("kind", [DroppingAttention, DroppingHeadsAttention])
def test_what_is_dropped_before_the_softmax_is_dropped_still(kind) -> None:
    torch.manual_seed(0)
    model, x = stirred(Around(kind())).eval(), torch.randn(2, 9, 16)
    want = model(x)
    convert_(model, SoftmaxAttention.Config(), "attn", inputs=x)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    model.train()
    # one half of the numbers is gone in each call, another half in the next
    assert (model(x) - model(x)).abs().mean() > 0.01


class SetAttention(Plain):
    """Its owner sets how sharp it is, and asks how many tokens it had."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp, self.count = 0.5, 0

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        self.count = k.shape[-2]
        return q @ k.mT * self.sharp


def test_settings_are_not_set_unseen_and_nothing_stale_is_left() -> None:
    torch.manual_seed(0)
    model, x = stirred(Around(SetAttention())).eval(), torch.randn(2, 9, 16)
    model(x)
    convert_(model, SoftmaxAttention.Config(), "attn", inputs=x)
    model.attn.sharp = 0.5
    with pytest.raises(InputError, match=r"attn was read with sharp=0.5, and is set to 2.0; call foveal.revert_"):
        model.attn.sharp = 2.0
    # nine tokens are those of another call
    with pytest.raises(AttributeError, match="count"):
        _ = model.attn.count
    foveal.revert_(model)
    model.attn.sharp = 2.0
    assert model.attn.count == 9


def test_a_network_is_read_at_the_size_that_its_weights_are_for() -> None:
    """timm's networks without a patch embedding say it in ``pretrained_cfg`` alone; at that size positions are taken as they are, at others resized."""
    from timm.layers import AttentionPool2d

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 32, 16, 16), AttentionPool2d(32, feat_size=(7, 7), out_features=8, num_heads=4, qkv_separate=True)
            self.pretrained_cfg = {"input_size": (3, 112, 112)}

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.stem(images))

    net = Pooled().double().eval()
    images = [torch.randn(2, 3, side, side, dtype=torch.float64) for side in (112, 64, 144)]
    wanted = [net(one) for one in images]
    assert len(convert_(net, SoftmaxAttention.Config()).swaps) == 1
    for one, want in zip(images, wanted, strict=True):
        torch.testing.assert_close(net(one), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", [4, 5, 9])
def test_sizes_of_a_modules_own_are_proven_whatever_it_was_read_at(side) -> None:
    """Nothing says the size of images that its positions are for: at that size they are taken as they are, at others resized."""
    from timm.layers import AttentionPool2d

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 32, 16, 16), AttentionPool2d(32, feat_size=(side, side), out_features=8, num_heads=4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.stem(images))

    net = Pooled().double().eval()
    images = [torch.randn(2, 3, 16 * one, 16 * one, dtype=torch.float64) for one in (side, 4, 6)]
    wanted = [net(one) for one in images]
    assert len(convert_(net, SoftmaxAttention.Config()).swaps) == 1
    for one, want in zip(images, wanted, strict=True):
        torch.testing.assert_close(net(one), want, rtol=1e-10, atol=1e-10)
