"""Official weights in what trainers and wrappers put around them."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from foveal import official

pytestmark = pytest.mark.case("C22")

SETTINGS = {"dim": 8, "num_heads": 2, "qkv_bias": False, "sign": "-"}


def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"qqkvv.weight": (40, 8), "neg_scalers": (2,), "proj.weight": (8, 8), "proj.bias": (8,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def loaded(state) -> dict[str, torch.Tensor]:
    return official.load("dna.attention", state, **SETTINGS).state_dict()


def optimizer_state() -> dict:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


W = weights()
COUNTS = {f"{name}{kind}": torch.zeros(1) for name in ("", "proj.") for kind in ("total_ops", "total_params")}
WRAPPED = {
    "ddp": ({f"module.{key}": value for key, value in W.items()}, "'module.'"),
    "compiled": ({f"_orig_mod.{key}": value for key, value in W.items()}, "'_orig_mod.'"),
    "compiled ddp": ({f"module._orig_mod.{key}": value for key, value in W.items()}, "'module.'.*'_orig_mod.'"),
    "state_dict": ({"state_dict": W}, r"\['state_dict'\]"),
    "model, epoch": ({"model": W, "epoch": 3, "lr": 0.1, "args": object()}, r"\['model'\].*3 other"),
    "model, optimizer": ({"optimizer": optimizer_state(), "model": W, "scaler": {"scale": 1.0}}, r"\['model'\]"),
    "model_ema": ({"model_ema": W, "epoch": 3}, r"\['model_ema'\]"),
    "a name of one's own": ({"backbone_weights": W}, r"\['backbone_weights'\]"),
    "two deep": ({"checkpoint": {"model": {f"module.{key}": value for key, value in W.items()}, "step": 1}}, r"\['checkpoint'\]\['model'\].*'module.'"),
    "random state beside": ({"model": W, "rng": torch.zeros(5, dtype=torch.uint8)}, r"\['model'\]"),
    "thop": (W | COUNTS, "4 numbers"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_weights_are_the_weights(name) -> None:
    state, says = WRAPPED[name]
    before = copy.copy(state)
    with pytest.warns(UserWarning, match=says):
        got = loaded(state)
    assert state.keys() == before.keys()
    want = loaded(W)
    assert all(torch.equal(got[key], want[key]) for key in want)
    with pytest.warns(UserWarning, match=says):
        translated = official.translate("dna.attention", state, sign="-")
    assert all(torch.equal(translated[key], want[key]) for key in want)


def test_numpy_values_are_tensors() -> None:
    """Also those that nobody may write to, and those of the other order of bytes."""
    arrays = {key: value.numpy().copy() for key, value in W.items()}
    arrays["proj.bias"].setflags(write=False)
    arrays["proj.weight"] = arrays["proj.weight"].astype(">f4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = loaded(arrays)
    want = loaded(W)
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"model": W, "model_ema": W}, r"2 sets of weights, \['model'\], \['model_ema'\].*checkpoint\['model'\]"),
        ({"state_dict": W, "state_dict_ema": W, "epoch": 1}, "2 sets of weights"),
        ({"a": {"model": W}, "model": W}, "2 sets of weights"),
        ({"optimizer": optimizer_state(), "epoch": 3}, "'optimizer', 'epoch', and none of them is a state dict"),
        ({**W, "epoch": 3}, "'epoch': int"),
        ({**W, "names": np.array(["a"])}, "'names' is a NumPy array"),
        ({"epoch": 3}, "'epoch': int"),
        (list(W), "module.state_dict"),
        ({f"module.{key}" if key != "proj.bias" else key: value for key, value in W.items()}, "module.qqkvv.weight|layouts"),
        ({**W, "proj.total_ops_of_mine": torch.zeros(1)}, "total_ops_of_mine|left over"),
    ],
)
def test_nothing_is_guessed(state, says) -> None:
    with pytest.raises(ValueError, match=says):
        loaded(state)


def test_plain_weights_are_said_nothing_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(W)
