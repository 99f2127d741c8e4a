"""The authors' three layouts of one attention hold the same weights; their own concatenation does not."""

import pytest
import torch
from torch import Tensor

from foveal import official
from tests.official.test_golden import part, read

SETTINGS = {"dim": 48, "num_heads": 4, "qkv_bias": True, "sign": "-"}


def fused() -> dict[str, Tensor]:
    return part(read("dna_subtract")[2], "state.", torch.float64)


def apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {key: value for key, value in state.items() if not key.startswith("qqkvv")}
    for field in ("weight", "bias"):
        q, q_neg, k, v, v_neg = state[f"qqkvv.{field}"].chunk(5)
        out |= {f"qkv.{field}": torch.cat([q, k, v]), f"q_neg.{field}": q_neg, f"v_neg.{field}": v_neg}
    return out


def six(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {key.replace("proj.", "out_proj."): value for key, value in state.items() if not key.startswith("qqkvv")}
    for field in ("weight", "bias"):
        for name, rows in zip(("q_pos", "q_neg", "k", "v_pos", "v_neg"), state[f"qqkvv.{field}"].chunk(5), strict=True):
            out[f"{name}_proj.{field}"] = rows
    return out


@pytest.mark.parametrize("layout", [apart, six])
def test_layouts_agree(layout) -> None:
    x = torch.randn(2, 17, 48, dtype=torch.float64)
    want = official.load("dna.attention", fused(), **SETTINGS)(x)
    assert torch.equal(official.load("dna.attention", layout(fused()), **SETTINGS)(x), want)


def test_the_authors_concatenation_is_wrong() -> None:
    """Their loader joins [qkv | q_neg | v_neg]; the forward reads [Q⁺, Q⁻, K, V⁺, V⁻]. Only Q⁺ and V⁻ land where they belong."""
    state, x = apart(fused()), torch.randn(2, 17, 48, dtype=torch.float64)
    naive = {key: value for key, value in state.items() if key.startswith("proj") or key == "neg_scalers"}
    for field in ("weight", "bias"):
        naive[f"qqkvv.{field}"] = torch.cat([state[f"{layer}.{field}"] for layer in ("qkv", "q_neg", "v_neg")])
    right = official.translate("dna.attention", state, **SETTINGS)
    wrong = official.translate("dna.attention", naive, **SETTINGS)
    dim = SETTINGS["dim"]
    assert torch.equal(wrong["qkv.weight"][:dim], right["qkv.weight"][:dim])
    assert torch.equal(wrong["v_neg.weight"], right["v_neg.weight"])
    assert torch.equal(wrong["q_neg.weight"], right["qkv.weight"][dim : 2 * dim]), "their Q⁻ is K"
    assert torch.equal(wrong["qkv.weight"][dim : 2 * dim], right["qkv.weight"][2 * dim :]), "their K is V⁺"
    assert torch.equal(wrong["qkv.weight"][2 * dim :], right["q_neg.weight"]), "their V⁺ is Q⁻"
    outputs = [official.load("dna.attention", layout, **SETTINGS)(x) for layout in (state, naive)]
    assert (outputs[0] - outputs[1]).abs().max() > 0.1 * outputs[0].abs().max()


def test_the_sign_matters_and_is_folded() -> None:
    x = torch.randn(2, 17, 48, dtype=torch.float64)
    minus = official.load("dna.attention", fused(), **SETTINGS)
    plus = official.load("dna.attention", fused(), **SETTINGS | {"sign": "+"})
    assert torch.equal(plus.v_neg.weight, -minus.v_neg.weight)
    assert torch.equal(plus.lambdas, minus.lambdas)
    assert (plus(x) - minus(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "change", "settings", "says"),
    [
        ("dna.attentions", {}, {}, "did you mean dna.attention"),
        ("dna.attention", {"qqkvv.weight": None}, {}, "missing qkv.weight"),
        ("dna.attention", {"mix_logit": torch.zeros(1)}, {}, "mix_logit"),
        ("dna.attention", {}, {"dim": 24}, "wanted"),
        ("dna.attention", {}, {"sign": "plus"}, "sign"),
        ("dna.attention", {}, {"heads": 3}, "heads"),
        ("external.multihead", {}, {"dim": 48, "num_heads": 4, "qkv_bias": None, "sign": None}, "is no key of"),
    ],
)
def test_foreign_files_are_refused(kind, change, settings, says) -> None:
    state = {key: value for key, value in (fused() | change).items() if value is not None}
    settings = {key: value for key, value in (SETTINGS | settings).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        official.load(kind, state, **settings)
