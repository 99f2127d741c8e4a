"""What a run of the model shows of calls: at which size, in how many forms, and where it broke off."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import InputError, SoftmaxAttention
from foveal.convert.structure._probe import given_at_place
from tests.convert.kept import PooledKeysAttention
from tests.convert.test_bias import TableAttention
from tests.convert.test_hosts import stirred


class Headed(nn.Module):
    """Its attention takes 4 × 4 tokens, which no setting says; its head takes nothing that is made up."""

    def __init__(self, head: bool) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Conv2d(3, 16, 8, 8), TableAttention(), head

    def forward(self, images: Tensor) -> Tensor:
        out = self.attention(self.stem(images).flatten(2).mT)
        if self.head:
            raise RuntimeError("no words")
        return out


@pytest.mark.parametrize("head", [False, True])
def test_a_run_that_breaks_off_inside_an_attention_is_of_no_size_of_the_model(head) -> None:
    model = Headed(head).eval()
    probe = given_at_place(model, {"attention": model.attention})
    assert probe.calls["attention"][0].args[0].shape == (2, 16, 16)
    assert probe.cut == ({"attention"} if head else set())
    assert ("size of tensor" in probe.broke) == head
    report = foveal.convert_(model, SoftmaxAttention.Config())
    assert [swap.output for swap in report.swaps] == ["identical"]


class Twice(nn.Module):
    """One attention, called on a map and on a smaller one."""

    def __init__(self, attention: nn.Module, *more: Any) -> None:
        super().__init__()
        self.stem, self.attention, self.more = nn.Conv2d(3, 16, 4, 4), attention, more

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).permute(0, 2, 3, 1)
        return self.attention(x, *self.more[:1]).mean((1, 2)) + self.attention(x[:, :4, :6], *self.more[1:]).mean((1, 2))


class SwitchedAttention(PooledKeysAttention):
    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        return super().forward(x) * (2 if double else 1)


def test_what_is_traced_is_proven_in_every_form() -> None:
    torch.manual_seed(0)
    model, images = stirred(Twice(PooledKeysAttention())), torch.randn(2, 3, 32, 32)
    assert len(given_at_place(model, {"attention": model.attention}, images).calls["attention"]) == 2
    want = model(images)
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=images)
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)
    alike = stirred(Twice(SwitchedAttention(), True, True))
    want = alike(images)
    foveal.convert_(alike, SoftmaxAttention.Config(), inputs=images)
    torch.testing.assert_close(alike(images), want, rtol=1e-5, atol=1e-5)
    apart = stirred(Twice(SwitchedAttention(), True, False))
    with pytest.raises(InputError, match=r"called in 2 forms in one run, and none of them tells .* read with double=True and is given False"):
        foveal.convert_(apart, SoftmaxAttention.Config(), inputs=images)
    assert type(apart.attention) is SwitchedAttention
