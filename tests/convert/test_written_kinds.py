"""Every way of reading is kept with the conversion: biases, packs, maps beside the attention, and what was traced."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, InputError, SoftmaxAttention
from foveal.convert._steps import steps_of
from foveal.convert.structure import _kept, _read, _sister, recalled
from tests.convert.kept import GridAttention, LatentAttention, One, PooledKeysAttention
from tests.convert.test_bias import BesideAttention, DecomposedAttention, Inner, LateAttention, NetworkAttention, Packed, TableAttention, Windowed

pytest.importorskip("safetensors")

IMAGES = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)),)
LARGER = (torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)),)
PACK = (torch.randn(12, 16, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 3, 12]))
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "table": (lambda: Windowed(TableAttention(heads_first=True, keeps=True)), IMAGES),
    "masked windows": (lambda: Windowed(TableAttention(), masked=True), IMAGES),
    "network": (lambda: Windowed(NetworkAttention()), IMAGES),
    "decomposed": (lambda: Windowed(DecomposedAttention(), maps=True), IMAGES),
    "pack": (Packed, PACK),
    "map beside": (lambda: Windowed(BesideAttention()), IMAGES),
    "causal": (lambda: Windowed(LateAttention()), IMAGES),
    "traced, keys pooled": (lambda: One(PooledKeysAttention(), "rows"), LARGER),
    "traced, windows": (lambda: One(GridAttention(), "map"), LARGER),
    "traced, learned queries": (lambda: One(LatentAttention(), "tokens"), LARGER),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind][0]().eval()


def name_of(model: nn.Module) -> str:
    return "attn" if isinstance(model, One) else "attention"


def where_of(model: nn.Module) -> str:
    """All, where it is no cross-attention: what lies beside an attention is looked for where the attention is meant, too."""
    return "attn" if isinstance(model, One) and isinstance(model.attn, LatentAttention) else "*"


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model is run")

    def forbid() -> None:
        for part in (_kept, _read, _sister):
            monkeypatch.setattr(part, "given_at_place", forbidden)

    return forbid


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_is_kept_and_proven_without_a_run(kind, no_run, tmp_path) -> None:
    """Trained, saved, loaded into a fresh model: to the last bit; and given back as the first is."""
    model, inputs = made(kind), KINDS[kind][1]
    name = name_of(model)
    foveal.convert_(model, DenoisingAttention.Config(), where_of(model), warm_start=0.1, inputs=inputs)
    with torch.no_grad():
        for value in model.get_submodule(name).parameters():
            value.add_(0.1 * torch.randn_like(value))
    want = model(*inputs)
    foveal.save_delta(model, tmp_path / "delta.safetensors")
    foveal.save_pretrained(model, tmp_path / "model")
    no_run()
    other = made(kind)
    foveal.load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(other(*inputs), want)
    again = foveal.from_pretrained(tmp_path / "model", build=KINDS[kind][0])
    assert torch.equal(again(*inputs), want)
    foveal.save_pretrained(again, tmp_path / "again")
    assert torch.equal(foveal.from_pretrained(tmp_path / "again", build=KINDS[kind][0])(*inputs), want)
    for one in (model, other):
        foveal.revert_(one)
    assert torch.equal(other(*inputs), model(*inputs))
    assert list(other.state_dict()) == list(made(kind).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_no_code_is_kept(kind) -> None:
    """Words, numbers and lists, and nothing that could be run."""
    model = made(kind)
    foveal.convert_(model, SoftmaxAttention.Config(), where_of(model), inputs=KINDS[kind][1])
    text = json.dumps(steps_of(model))
    assert len(text) < 16000
    assert "def " not in text
    assert "\\n" not in text


class DeafInner(Inner):
    """Ignores its mask, which its model does not give."""

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        return super().forward(hidden)


def deaf() -> nn.Module:
    model = Windowed(BesideAttention())
    model.attention.inner = DeafInner()
    return model


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("table", lambda: Windowed(TableAttention(heads=2, heads_first=True))),
        ("network", lambda: Windowed(TableAttention())),
        ("map beside", lambda: Windowed(LateAttention())),
        ("map beside", deaf),
        ("traced, keys pooled", lambda: One(PooledKeysAttention(heads=4), "rows")),
        ("traced, windows", lambda: One(PooledKeysAttention(), "rows")),
    ],
)
def test_another_module_of_the_name_is_refused(kind, other, tmp_path) -> None:
    model = made(kind)
    foveal.convert_(model, SoftmaxAttention.Config(), where_of(model), inputs=KINDS[kind][1])
    foveal.save_pretrained(model, tmp_path / "model")
    fresh = other()
    state = copy.deepcopy(fresh.state_dict())
    with pytest.raises(InputError, match="does not compute what was read of it when the conversion was saved"):
        foveal.from_pretrained(tmp_path / "model", build=lambda: fresh)
    assert list(state) == list(fresh.state_dict())


@pytest.mark.parametrize("kind", ["pack", "map beside", "traced, windows"])
def test_what_is_damaged_is_refused(kind) -> None:
    model = made(kind)
    foveal.convert_(model, SoftmaxAttention.Config(), where_of(model), inputs=KINDS[kind][1])
    kept = json.loads(json.dumps(steps_of(model)[0]["read"]))
    fresh = made(kind).get_submodule(name_of(model))
    assert recalled("here", fresh, kept).reading == kept
    assert ("beside" in kept, "facts" in kept) == (kind == "map beside", kind.startswith("traced"))
    for other in ({}, {"way": 1}, kept | {"calls": []}, kept | {"calls": [{"args": 3}]}, kept | {"calls": [{"args": [], "kwargs": 0, "values": 0}]}):
        with pytest.raises(InputError, match=r"damaged|could not be|no call was kept|does not fit"):
            recalled("here", fresh, other)
