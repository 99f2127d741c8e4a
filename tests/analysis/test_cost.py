"""What a model costs, against counts and allocations made another way."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import foveal
from foveal.analysis import cost, latency, peak_memory
from foveal.models import SIZES, ViT
from tests.convert.test_hosts import HOSTS, SIDE

FLOATS = 40_000_000


@pytest.mark.parametrize(("size", "img_size"), [("tiny", 16), ("small", 32), ("base", 48)])
def test_softmax_costs_what_timm_costs(size, img_size) -> None:
    """timm's own model with its own attention, in which the products of attention are ordinary matrix multiplications."""
    from timm.models import VisionTransformer

    dial = SIZES[size]
    with torch.device("meta"):
        theirs = VisionTransformer(
            img_size=img_size, patch_size=img_size // 8, in_chans=1, num_classes=10, embed_dim=dial.dim, depth=dial.depth, num_heads=dial.num_heads
        ).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            theirs(torch.empty(1, 1, img_size, img_size))
    got = cost(ViT(size=size).build(img_size=img_size, in_chans=1, num_classes=10), (1, img_size, img_size))
    assert got.macs == counter.get_total_flops() // 2
    assert got.parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("attention", "layer_macs"), [("softmax", (4, 2)), ("denoising", (6, 4))])
def test_multiply_adds_by_hand(attention, layer_macs) -> None:
    """65 tokens of 48 channels, three layers; projections in units of N·C², maps in units of N²·C."""
    n, c, depth = 65, 48, 3
    projections, maps = layer_macs
    want = 64 * 4 * c + depth * (projections * n * c * c + maps * n * n * c + 2 * n * c * 4 * c) + c * 10
    vit = ViT(attention=attention).build(img_size=16, in_chans=1, num_classes=10)
    assert cost(vit, (1, 16, 16)).macs == want
    assert next(vit.parameters()).device.type == "cpu", "the model itself is not touched"


@pytest.mark.parametrize(
    "name", ["timm ViT", "timm ViT, normed, registers", "torchvision ViT", "transformers ViT", "transformers DINOv2", "transformers SigLIP"]
)
@pytest.mark.parametrize("config", [None, foveal.SoftmaxAttention.Config(), foveal.DenoisingAttention.Config()], ids=["plain", "softmax", "denoising"])
def test_hosts_cost_what_their_layers_cost(name, config) -> None:
    """Plain and converted, with their fused kernels: 4 × 4 patches of 24 channels; every host has other things around its blocks."""
    torch.manual_seed(0)
    model, c = HOSTS[name](), 24
    prefix = {"timm ViT, normed, registers": 4, "transformers SigLIP": 0}.get(name, 1)
    n, depth, hidden = 16 + prefix, 3 if "timm" in name else 2, {"timm": 4 * c, "torchvision": 48}.get(name.split()[0], 48)
    if "DINOv2" in name:
        hidden = 4 * c
    projections, maps = (6, 4) if config is not None and config.attention == "denoising" else (4, 2)
    want = 16 * 3 * 64 * c + depth * (projections * n * c * c + maps * n * n * c + 2 * n * c * hidden)
    # a head of five classes; a pooler; a pooling head that asks with one query
    want += {"timm": c * 5, "torchvision": c * 5}.get(name.split()[0], 0) + (c * c if name == "transformers ViT" else 0)
    if "SigLIP" in name:
        want += 2 * c * c + 2 * n * c * c + 2 * n * c + 2 * c * hidden
    if config is not None:
        foveal.convert_(model, config)
    got = foveal.cost(model, (3, SIDE, SIDE))
    assert got.macs == want
    assert got.parameters == sum(p.numel() for p in model.parameters())
    assert all(not p.is_meta for p in model.parameters())


def test_counting_leaves_the_mode_alone() -> None:
    vit = ViT().build(img_size=16, in_chans=1, num_classes=10).train()
    cost(vit, (1, 16, 16))
    assert vit.training


def test_plain_layers_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 25, 7))
    got = cost(model, (3, 5, 5))
    assert got.macs == 25 * 3 * 9 * 8 + 8 * 25 * 7
    assert got.parameters == 3 * 9 * 8 + 8 + 8 * 25 * 7 + 7


def test_latency_is_the_median_of_rounds_taken_in_turn(monkeypatch) -> None:
    """With a clock of our own: the second round is a hundred times slower, for both alike."""
    order, rounds = [], {"light": [1.0, 100.0, 2.0], "heavy": [5.0, 500.0, 4.0]}

    class Scripted:
        def __init__(self, statement: str, globals: dict[str, Any], num_threads: int) -> None:
            assert num_threads == 2
            self.call = globals["call"]

        def blocked_autorange(self, min_run_time: float) -> SimpleNamespace:
            order.append(self.call())
            return SimpleNamespace(median=rounds[order[-1]][(len(order) - 1) // 2])

    monkeypatch.setattr("torch.utils.benchmark.Timer", Scripted)
    assert latency({"light": lambda: "light", "heavy": lambda: "heavy"}, threads=2, rounds=3) == {"light": 2.0, "heavy": 5.0}
    assert order == ["light", "heavy"] * 3


def test_latency_really_calls() -> None:
    calls = []
    assert latency({"it": lambda: calls.append(1)}, rounds=2, min_run_time=0.001)["it"] > 0
    assert len(calls) >= 2


def test_peak_memory_sees_an_allocation(tmp_path, monkeypatch) -> None:
    """160 MB that the call takes and gives back, beside 40 MB that were there before."""
    (tmp_path / "allocating.py").write_text(
        "import torch\n"
        "def prepare(floats):\n"
        "    kept = torch.ones(10_000_000)\n"
        "    def call():\n"
        "        return (torch.ones(floats).sum() + kept[0]).item()\n"
        "    return call\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import allocating

    got = peak_memory(allocating.prepare, FLOATS)
    assert got == pytest.approx(4 * FLOATS, rel=0.1)


def test_peak_memory_says_when_there_is_no_answer(tmp_path, monkeypatch, capfd) -> None:
    (tmp_path / "failing.py").write_text("def prepare():\n    raise OSError('on purpose')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import failing

    with pytest.raises(RuntimeError, match="ended without an answer"):
        peak_memory(failing.prepare)
    assert "on purpose" in capfd.readouterr().err
