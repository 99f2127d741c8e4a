"""Files of weights: both kinds, damaged at any byte, and for another network."""

import io
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from foveal import InputError
from foveal._weights import fill, read_saved, read_weights


def test_what_was_saved_comes_back(tmp_path) -> None:
    from safetensors.torch import save_file

    state = nn.Linear(3, 2).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"model": state, "epoch": 3}, tmp_path / "model.pt")
    for found in (read_weights(tmp_path / "model.safetensors"), read_saved(tmp_path / "model.safetensors"), read_saved(tmp_path / "model.pt")["model"]):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items())
    assert read_saved(tmp_path / "model.pt")["epoch"] == 3


def test_any_byte_may_be_wrong(tmp_path) -> None:
    """What it does to a pickle has many names, and one for the user."""
    buffer, file, errors = io.BytesIO(), tmp_path / "model.pt", list[InputError]()
    torch.save({"weight": torch.ones(2)}, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            read_saved(file)
        except InputError as error:
            errors.append(error)
    assert {UnicodeDecodeError, IndexError} <= {type(error.__cause__) for error in errors}
    assert all(str(error).startswith(f"cannot read weights from {file}: ") for error in errors)


def test_weights_of_another_network_are_refused_with_what_must_agree() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"(?s)model\.pt holds weights of another network; sizes must be those of its run: .*bias") as caught:
        fill(net, {"weight": torch.zeros(2, 3)}, Path("model.pt"), "sizes must be those of its run")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_safetensors_is_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r'safetensors, which is not installed; remedy: pip install "foveal\[train\]"'):
        read_saved(tmp_path / "model.safetensors")


@pytest.mark.case("F37")
@pytest.mark.parametrize("kind", [torch.int64, torch.complex64, torch.bool, torch.float16])
def test_weights_of_another_kind_of_number_are_refused_and_narrower_ones_are_taken(kind) -> None:
    net = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    if kind == torch.float16:
        fill(net, {name: value.half() for name, value in before.items()}, Path("f"), "")
        assert torch.equal(net.weight, before["weight"].half().float())
        return
    with pytest.raises(InputError, match=rf"f holds torch\.{str(kind)[6:]} as bias, where torch\.float32 belongs"):
        fill(net, before | {"bias": torch.ones(2, dtype=kind)}, Path("f"), "")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
