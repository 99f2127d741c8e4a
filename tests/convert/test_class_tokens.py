"""Where one token asks and all are read: converted with the attentions of all tokens, and said; where others ask, only by name."""

from typing import Any

import pytest
import torch

from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention, convert, convert_
from tests.convert.kept import CASES, LatentAttention, One, of_timm
from tests.convert.test_hosts import stirred

pytestmark = pytest.mark.filterwarnings("ignore")

ASKS: dict[str, Any] = {
    "CaiT": of_timm("models.cait.ClassAttn", 16, num_heads=2),
    "CrossViT": of_timm("models.crossvit.CrossAttention", 16, num_heads=2),
    "VOLO": of_timm("models.volo.ClassAttention", 16, num_heads=2),
}


@pytest.mark.parametrize("config", [SoftmaxAttention.Config(), DenoisingAttention.Config()], ids=lambda config: config.attention)
@pytest.mark.parametrize("name", list(ASKS))
def test_a_class_token_that_asks_is_converted_and_said(name, config) -> None:
    torch.manual_seed(0)
    host, images = stirred(One(ASKS[name](), "tokens")), torch.randn(2, 3, 32, 32)
    model, report = convert(host, config, warm_start="exact", inputs=images)
    (swap,) = report.swaps
    assert (swap.name, swap.output) == ("attn", "identical")
    assert any("asks, and all tokens are read" in note or "asks, as a class token does, and all tokens are read" in note for note in swap.notes)
    assert "all tokens are read" in report.table()
    torch.testing.assert_close(model(images), host(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"external attention (has no pairs|reads no other tokens)"):
        convert_(host, ExternalAttention.Config(), "attn", inputs=images)


def test_all_tokens_that_ask_are_no_class_token() -> None:
    case = CASES["PVT v2"]
    report = convert_(case.model(), SoftmaxAttention.Config(), inputs=case.images())
    assert not any("asks" in note for swap in report.swaps for note in swap.notes)


def test_a_latent_that_asks_is_left_and_said_and_converted_by_name() -> None:
    """No class token: it is none of the tokens that are read."""
    timm = pytest.importorskip("timm")
    model, images = stirred(One(torch.nn.Sequential(timm.layers.Attention(16, 2), LatentAttention()), "tokens")), torch.randn(2, 3, 32, 32)
    report = convert_(model, SoftmaxAttention.Config(), inputs=images)
    assert [(one.name, "converted only where it is named" in one.reason) for one in report.left] == [("attn.1", True)]
    report = convert_(model, SoftmaxAttention.Config(), "attn.1", inputs=images)
    assert [swap.name for swap in report.swaps] == ["attn.1"]
    assert not any("asks, as a class token" in note for swap in report.swaps for note in swap.notes)
