"""The page of errors: every message on it is raised, by what the page says raises it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

import foveal
from foveal._errors import missing_extra
from foveal.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text("utf8")
MESSAGES = re.findall(r"^```text\n(.*?)\n```", PAGE, re.DOTALL | re.MULTILINE)


def tokens(count: int = 17) -> torch.Tensor:
    return torch.randn(1, count, 64)


def vit(**options) -> torch.nn.Module:
    return timm.create_model("test_vit", **options)


def no_extra() -> None:
    raise missing_extra("tyro", "train", "foveal list")


def other_base(folder: Path) -> None:
    model = vit()
    foveal.convert_(model, foveal.SoftmaxAttention.Config())
    foveal.save_delta(model, folder / "d.safetensors")
    foveal.load_delta(vit(), folder / "d.safetensors")


def another_size() -> None:
    model = vit(img_size=64, dynamic_img_size=True)
    foveal.convert_(model, foveal.HaloAttention.Config(block_size=2, halo_size=1))
    model(torch.randn(1, 3, 96, 64))


RAISES: list[tuple[str, Callable[[], object]]] = [
    ("foveal list needs tyro", no_extra),
    ("unknown attention 'denoisng'", lambda: foveal.create_attention("denoisng", dim=64)),
    ("num_heads must divide dim", lambda: foveal.create_attention("denoising", dim=64, num_heads=6)),
    ("expected tokens in the dtype", lambda: foveal.create_attention("denoising", dim=64, num_heads=4)(tokens().bfloat16())),
    ("halo attention on tokens", lambda: foveal.create_attention("halo", dim=64, num_heads=4)(tokens(198))),
    ("ExternalAttention cannot be causal", lambda: foveal.create_attention("external", dim=64, num_heads=4)(tokens(), is_causal=True)),
    ("a mask per query", lambda: foveal.create_attention("external", dim=64, num_heads=4)(tokens(), attn_mask=torch.ones(17, 17).bool())),
    ("no module is chosen", lambda: foveal.convert_(vit(), foveal.SoftmaxAttention.Config(), where="layers.*.attn")),
    ("68 modules are chosen", lambda: foveal.convert_(timm.create_model("resnet10t"), foveal.SoftmaxAttention.Config())),
    ("external_2d attention takes maps", lambda: foveal.convert_(vit(), foveal.ExternalAttention2d.Config())),
    ("warm_start='exact' has no effect", lambda: foveal.convert_(vit(), foveal.ExternalAttention.Config(), warm_start="exact")),
    ("attention in windows", another_size),
    ("this model was not converted", lambda: foveal.revert_(vit())),
    ("the model has no attention whose maps", lambda: foveal.attention_maps(timm.create_model("resnet10t"), torch.randn(1, 3, 64, 64))),
]
COMMANDS: list[tuple[str, list[str]]] = [
    ("photographs does not exist", ["train", "image-folder", "--data.root", "photographs"]),
    ("runs/first is no run", ["eval", "runs/first"]),
    ("holds a run already", ["train", "digits", "--out", "run"]),
    ("invalid choice 'fp8'", ["train", "digits", "--precision", "fp8"]),
]


def on_the_page(begins: str) -> str:
    (message,) = (message for message in MESSAGES if message.startswith(begins))
    # a dash of three points stands for names of which there are many
    return message.partition(", …")[0]


def test_every_message_of_the_page_is_tried() -> None:
    tried = [begins for begins, _ in [*RAISES, *COMMANDS]] + ["d.safetensors belongs"]
    untried = [message for message in MESSAGES if not any(message.startswith(begins) for begins in tried)]
    assert not untried
    assert len(MESSAGES) == len(tried)


@pytest.mark.parametrize(("begins", "provoke"), RAISES, ids=[begins for begins, _ in RAISES])
def test_a_message_is_what_is_raised(begins, provoke) -> None:
    with pytest.raises(foveal.InputError) as raised:
        provoke()
    assert on_the_page(begins) in str(raised.value)


def test_a_delta_for_another_base(tmp_path) -> None:
    with pytest.raises(foveal.InputError) as raised:
        other_base(tmp_path)
    assert on_the_page("d.safetensors belongs") in str(raised.value)


@pytest.mark.parametrize(("begins", "words"), COMMANDS, ids=[begins for begins, _ in COMMANDS])
def test_a_message_is_what_the_command_line_prints(begins, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert main(words) == 2
    assert on_the_page(begins) in capsys.readouterr().err
