"""A few rows of the sweep, and what it is to notice: it is worth nothing if it cannot fail."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import foveal
from tests.convert.test_sizes import ScoredAttention
from tests.sweep import of_timm, of_torchvision, table
from tests.sweep.measure import measure
from tests.sweep.seen import softmaxes


@pytest.mark.parametrize(("family", "verdict"), [("vit", "whole"), ("nn.TransformerEncoder", "whole"), ("nn.Transformer (DETR-like)", "part")])
def test_rows_of_torchvision(family, verdict) -> None:
    pytest.importorskip("torchvision")
    row = measure(*of_torchvision.ROWS[family]())
    assert row["verdict"] == verdict
    assert row["revert"] is True
    assert row["maps"]["right"] == row["maps"]["all"] == row["attentions"]


def test_cross_attention_is_whole_where_it_is_named() -> None:
    row = measure(*of_torchvision.ROWS["nn.Transformer (DETR-like)"](), quick=True)
    assert (row["verdict"], row["by name"]["verdict"], row["by name"]["revert"]) == ("part", "whole", True)
    assert row["by name"]["converted"] == row["by name"]["of"] == row["attentions"] > row["converted"]


class _Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.pool = _Tower(), ScoredAttention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.attn(x))


def test_weights_of_a_map_alone_are_another_kind() -> None:
    row = measure(_Pooled(), torch.randn(2, 5, 16), quick=True)
    assert (row["verdict"], row["attentions"], row["others_left"]) == ("whole", 1, {"ScoredAttention": 1})
    assert (row["maps"]["all"], row["maps"]["right"], row["maps"]["wrong"]) == (1, 1, 0)


def test_a_row_of_timm() -> None:
    pytest.importorskip("timm")
    row = measure(*of_timm._build("vit", "vit_tiny_patch16_224"))
    assert (row["verdict"], row["converted"], row["attentions"], row["external"]) == ("whole", 2, 2, "runs")


class _Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


def _conversion(monkeypatch: Any, then: Any) -> dict[str, Any]:
    real = foveal.convert_

    def other(model: nn.Module, *args: Any, **options: Any) -> Any:
        return then(model, real(model, *args, **options))

    monkeypatch.setattr(foveal, "convert_", other)
    return measure(_Tower(), torch.randn(2, 5, 16))


def test_what_is_said_to_be_kept_and_is_not_is_wrong(monkeypatch) -> None:
    def spoil(model: nn.Module, report: Any) -> Any:
        model.attn.attn.proj.weight.data.mul_(1.01)  # type: ignore[union-attr,operator]
        return report

    row = _conversion(monkeypatch, spoil)
    assert row["verdict"] == "wrong"
    assert row["revert"] is False


def test_a_silent_no_op_a_crash_and_a_late_failure_are_seen(monkeypatch) -> None:
    def nothing(model: nn.Module, report: Any) -> Any:
        foveal.revert_(model)
        return SimpleNamespace(swaps=[], left=[])

    def crash(model: nn.Module, report: Any) -> Any:
        raise AttributeError("of the making")

    def late(model: nn.Module, report: Any) -> Any:
        model.attn.attn.qkv = nn.Linear(3, 3)  # type: ignore[union-attr]
        return report

    for then, verdict in ((nothing, "silent"), (crash, "crash"), (late, "late")):
        with monkeypatch.context() as patch:
            assert _conversion(patch, then)["verdict"] == verdict


def test_maps_that_are_not_the_models_are_wrong(monkeypatch) -> None:
    real = foveal.attention_maps

    def other(*args: Any, **options: Any) -> Any:
        maps = real(*args, **options)
        for layer in maps.values():
            layer["combined"] = layer["combined"].roll(1, dims=-1)
        return maps

    monkeypatch.setattr(foveal, "attention_maps", other)
    row = measure(_Tower(), torch.randn(2, 5, 16))
    assert (row["maps"]["right"], row["maps"]["wrong"]) == (0, 1)


def test_softmaxes_are_told_by_the_module_that_has_the_weights() -> None:
    found, called = softmaxes(_Tower().eval(), torch.randn(2, 5, 16))
    assert [(one.owner, one.kind, tuple(one.map.shape)) for one in found] == [("attn", "MultiheadAttention", (2, 4, 5, 5))]
    assert "attn" in called


def test_the_table_counts() -> None:
    one = {"library": "timm", "family": "a", "verdict": "whole", "attentions": 2, "converted": 2, "maps": {"all": 2, "right": 2, "wrong": 0}, "revert": True}
    rows = [one, one | {"family": "b", "verdict": "late"}, one | {"family": "c", "verdict": "not built"}]
    counted = table.counts(rows)
    assert (counted["rows"], counted["whole"], counted["faults"]["late"], counted["maps right"]) == (2, 1, 1, 2)
    assert "1 late" in table.summary(rows)
    named = one | {"verdict": "part", "by name": {"verdict": "whole", "revert": True}}
    spoiled = one | {"verdict": "part", "by name": {"verdict": "wrong", "revert": False}}
    counted = table.counts([one, named, spoiled])
    assert (counted["whole"], counted["by name"], counted["part"], counted["faults"]["wrong"], counted["revert wrong"]) == (1, 1, 2, 1, 1)
