"""What was read of attentions that nobody declared is kept with the conversion: a fresh model is converted as the first was, without its inputs."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal import DenoisingAttention, InputError, SoftmaxAttention
from foveal.convert._record import record_of
from foveal.convert._steps import steps_of
from foveal.convert.structure._probe import Given
from foveal.convert.structure._written import call_again, call_kept, packed, unpacked
from tests.convert.test_structure import Attention, CrossAttention, PositionsAttention, Rotated

pytest.importorskip("safetensors")


class Net(nn.Module):
    """Of five channels and two inputs, which no signature tells."""

    def __init__(self, kind: type[nn.Module] = Attention, **options: Any) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(5, 16, 8, 8), kind(**options)
        self.where = nn.Parameter(torch.randn(1, 4, 16))

    def forward(self, maps: Tensor, more: Tensor) -> Tensor:
        x = self.patches(maps).flatten(2).mT
        x = x + more[:, None]
        if isinstance(self.attention, CrossAttention):
            return self.attention(x, x[:, :3])
        if isinstance(self.attention, PositionsAttention):
            return self.attention(x, where=self.where.expand_as(x))
        if isinstance(self.attention, Rotated):
            angles = torch.outer(torch.arange(4.0), torch.tensor([1.0, 0.5, 0.2, 0.1])).repeat(1, 2)
            return self.attention(x, (angles.cos(), angles.sin()))
        return self.attention(x)[0]


INPUTS = (torch.randn(3, 5, 16, 16), torch.randn(3, 16))


def net(kind: type[nn.Module] = Attention, **options: Any) -> Net:
    torch.manual_seed(0)
    return Net(kind, **options).eval()


def trained(kind: type[nn.Module], config: Any = None) -> Net:
    model = net(kind)
    where = "attention" if kind is CrossAttention else "*"
    foveal.convert_(model, config or DenoisingAttention.Config(), where, warm_start=0.1, inputs=INPUTS)
    with torch.no_grad():
        for value in model.attention.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


@pytest.mark.parametrize("kind", [Attention, PositionsAttention, Rotated, CrossAttention])
def test_a_fresh_model_needs_no_inputs(kind, tmp_path) -> None:
    """To the last bit, from a delta and from a folder."""
    model = trained(kind)
    want = model(*INPUTS)
    with pytest.raises(InputError, match="no run reached it"):
        foveal.convert_(net(kind), SoftmaxAttention.Config(), "attention")
    foveal.save_delta(model, tmp_path / "delta.safetensors")
    other = net(kind)
    foveal.load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(other(*INPUTS), want)
    foveal.save_pretrained(model, tmp_path / "model")
    again = foveal.from_pretrained(tmp_path / "model", build=lambda: Net(kind))
    assert torch.equal(again(*INPUTS), want)
    # what was loaded can be saved
    foveal.save_pretrained(again, tmp_path / "again")
    assert torch.equal(foveal.from_pretrained(tmp_path / "again", build=lambda: Net(kind))(*INPUTS), want)
    foveal.revert_(other)
    foveal.revert_(model)
    assert torch.equal(other(*INPUTS), model(*INPUTS))
    assert list(other.state_dict()) == list(net(kind).state_dict())


@pytest.mark.parametrize("kind", [Attention, PositionsAttention, Rotated])
def test_what_is_kept_is_words_and_numbers_and_none_of_the_inputs(kind) -> None:
    model = trained(kind)
    part = record_of(model).parts[0]
    text = json.dumps(steps_of(model))
    assert len(text) < 4000
    reading = unpacked(json.loads(json.dumps(part.reading)), torch.device("cpu"))
    assert reading.plan == model.attention.plan
    assert json.loads(json.dumps(packed(reading))) == json.loads(json.dumps(part.reading))


def test_another_module_of_the_name_is_refused(tmp_path) -> None:
    """Other mathematics, other shapes, or none of the name: the numbers are looked at again, and the model stays as it is."""
    foveal.save_pretrained(trained(Attention), tmp_path / "model")
    for options, says in (
        ({"gain": 0.01}, r"attention \(Attention\) does not compute what was read .*differs by"),
        ({"scale": 0.31}, "does not compute what was read .*differs by"),
        ({"heads": 2}, "does not compute what was read .*differs by"),
    ):
        with pytest.raises(InputError, match=says):
            foveal.from_pretrained(tmp_path / "model", build=lambda options=options: Net(Attention, **options))
    with pytest.raises(InputError, match="has no module attention"):
        foveal.from_pretrained(tmp_path / "model", build=lambda: nn.Sequential(Attention()))
    with pytest.raises(InputError, match="could not be run by itself"):
        foveal.from_pretrained(tmp_path / "model", build=lambda: Net(PositionsAttention))


class Thing:
    pass


class ThingAttention(Attention):
    def forward(self, x: Tensor, thing: Any = None) -> Any:
        return super().forward(x)


class ThingNet(Net):
    def forward(self, maps: Tensor, more: Tensor) -> Tensor:
        return self.attention(self.patches(maps).flatten(2).mT + more[:, None], Thing())[0]


def test_what_no_file_can_hold_is_refused_when_it_is_saved(tmp_path) -> None:
    model = ThingNet(ThingAttention).eval()
    foveal.convert_(model, SoftmaxAttention.Config(), inputs=INPUTS)
    for save in (foveal.save_delta, foveal.save_pretrained):
        with pytest.raises(InputError, match=r"attention was read by its structure, .*given a .*Thing, .*Declare ThingAttention with foveal\.register_host"):
            save(model, tmp_path / "what")
    assert not list(tmp_path.iterdir())
    foveal.revert_(model)


def test_a_call_is_kept_by_its_shapes() -> None:
    x, mask = torch.randn(2, 3, 4), torch.tensor([[True, False, True]])
    kept = call_kept(Given((x, x), {"mask": mask, "sizes": (2, 3), "ids": torch.arange(3), "turn": (torch.randn(3, 2).repeat(1, 2),), "rate": float("-inf")}))
    again = call_again(json.loads(json.dumps(kept)), torch.device("cpu"))
    assert again.args[0] is again.args[1]
    assert again.args[0].shape == x.shape
    assert not torch.equal(again.args[0], x)
    assert again.kwargs["mask"].dtype == torch.bool
    assert again.kwargs["sizes"] == (2, 3)
    assert torch.equal(again.kwargs["ids"], torch.arange(3))
    assert torch.equal(again.kwargs["turn"][0][:, :2], again.kwargs["turn"][0][:, 2:])
    assert again.kwargs["rate"] == float("-inf")
    assert "Thing" in call_kept(Given((Thing(),), {}))
