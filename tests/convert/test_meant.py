"""What was chosen by name is converted, all of it, or nothing is; and an attention that is called several times is proven for every way."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import InputError, SoftmaxAttention
from tests.convert.test_structure import Attention, CrossAttention, Decoder, WavedAttention


class Three(nn.Module):
    """One that fits, two whose logits are more than products and what is added; and what is no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({"good": Attention(), "bad": WavedAttention(), "odd": WavedAttention(), "mlp": nn.Linear(16, 16)})

    def forward(self, x: Tensor) -> Tensor:
        for name, block in self.blocks.items():
            x = block(x) if name == "mlp" else block(x)[0]
        return x


TOKENS = torch.randn(2, 5, 16)
SOFTMAX = SoftmaxAttention.Config()


@pytest.mark.parametrize(
    "chosen",
    [
        {"where": "blocks.*"},
        {"where": re.compile(r"blocks\.(good|bad|odd)")},
        {"where": lambda name, module: True},
        {"config": {"blocks.*": SOFTMAX}},
    ],
)
def test_one_that_was_meant_and_does_not_fit_refuses_all(chosen) -> None:
    """And is named with all others that do not; what is no attention was not meant."""
    model = Three().eval()
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(
        InputError, match=r"blocks\.bad \(WavedAttention\) .*; blocks\.odd \(WavedAttention\) .*2 of the 3 attentions that `where` chose"
    ) as told:
        foveal.convert_(model, **({"config": SOFTMAX, "inputs": TOKENS} | chosen))
    assert "mlp" not in str(told.value)
    assert "good" not in str(told.value)
    assert {name: id(module) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("chosen", [{}, {"where": "all"}, {"config": {"*": SOFTMAX}}, {"config": {"blocks.good": SOFTMAX, "*": SOFTMAX}}])
def test_what_was_not_meant_is_left_and_said(chosen) -> None:
    model = Three().eval()
    report = foveal.convert_(model, **({"config": SOFTMAX, "inputs": TOKENS} | chosen))
    assert [swap.name for swap in report.swaps] == ["blocks.good"]
    assert [one.name for one in report.left] == ["blocks.bad", "blocks.odd"]


def test_what_was_left_out_is_nobodys_matter() -> None:
    model = Three().eval()
    for chosen in ({"where": "blocks.good"}, {"config": {"blocks.bad": None, "blocks.odd": None, "blocks.*": SOFTMAX}}):
        report = foveal.convert_(model, **({"config": SOFTMAX, "inputs": TOKENS} | chosen))
        assert [swap.name for swap in report.swaps] == ["blocks.good"]
        foveal.revert_(model)


class Often(nn.Module):
    """One attention, called several times."""

    def __init__(self, attention: nn.Module, *calls: Any) -> None:
        super().__init__()
        self.attention, self.calls = attention, calls

    def forward(self, x: Tensor) -> Tensor:
        for call in self.calls:
            out = call(self.attention, x)
            x = out[0] if isinstance(out, tuple) else out
        return x


class TwiceAttention(Attention):
    """Twice as much where it is asked for."""

    def forward(self, x: Tensor, double: bool = False) -> Any:
        out, none = super().forward(x)
        return (2 * out if double else out), none


def test_every_call_is_proven() -> None:
    calls = [lambda attn, x: attn(x), lambda attn, x: attn(x), lambda attn, x: attn(x, double=True)]
    model = Often(TwiceAttention(), *calls[:2]).eval()
    want = model(TOKENS)
    assert len(foveal.convert_(model, SOFTMAX, inputs=TOKENS).swaps) == 1
    torch.testing.assert_close(model(TOKENS), want, rtol=1e-5, atol=1e-6)
    # the third call alone is another function
    model = Often(TwiceAttention(), *calls).eval()
    want = model(TOKENS)
    with pytest.raises(InputError, match=r"called in 2 forms in one run, and .*differs by"):
        foveal.convert_(model, SOFTMAX, inputs=TOKENS)
    assert torch.equal(model(TOKENS), want)


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_read_of_one_call_may_hold_for_all(order) -> None:
    """Asked by the tokens that it reads, and by others: as a cross-attention it can be both, and as the first call shows it only one."""
    calls = [lambda attn, x: attn(x, x), lambda attn, x: attn(x, x[:, :3])]
    model = Often(CrossAttention(), *calls[::order]).eval()
    want = model(TOKENS)
    assert len(foveal.convert_(model, SOFTMAX, "attention", inputs=TOKENS).swaps) == 1
    torch.testing.assert_close(model(TOKENS), want, rtol=1e-5, atol=1e-6)


def test_what_breaks_off_proves_nothing_of_what_is_called_again() -> None:
    def breaks(attn: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("no further")

    for calls, shared in (((lambda attn, x: attn(x),) * 2, False), ((lambda attn, x: attn(x),), True), ((lambda attn, x: attn(x),), False)):
        model = Often(Attention(), *calls, breaks).eval()
        if shared:
            model.again = model.attention
        if len(calls) > 1 or shared:
            with pytest.raises(InputError, match=r"called several times in a run, and the run broke off .*no further"):
                foveal.convert_(model, SOFTMAX, inputs=TOKENS)
        else:
            assert len(foveal.convert_(model, SOFTMAX, inputs=TOKENS).swaps) == 1


def test_too_many_forms_are_refused() -> None:
    model = Often(Attention(), *[lambda attn, x, n=n: attn(x[:, :n])[0].sum(1, keepdim=True) + x for n in range(2, 12)]).eval()
    with pytest.raises(InputError, match="more than 8 forms"):
        foveal.convert_(model, SOFTMAX, inputs=torch.randn(2, 12, 16))


def test_a_cross_attention_beside_others() -> None:
    torch.manual_seed(0)
    model = Decoder().eval()
    report = foveal.convert_(model, SOFTMAX, inputs=TOKENS)
    assert [(left.name, "cross-attention" in left.reason) for left in report.left] == [("cross_attention", True)]
