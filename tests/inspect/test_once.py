"""The sheet, the viewer's page, the rollout and the answer are of one run of the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import foveal
from foveal.analysis import attention_maps, rollout
from foveal.analysis.rollout import Flow
from foveal.cli import main
from foveal.lab.inspect import LoadedModel, inspect_model, inspect_video
from foveal.lab.inspect.maps import maps_over_image
from foveal.models import TimeSformer
from tests.analysis.test_viewer import read
from tests.convert.test_hosts import SIDE, stirred, timm_vit
from tests.training.helpers import tiny


class Counted:
    """Calls of a model, each with the batch that it had."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(lambda module, args: self.calls.append(tuple(args[0].shape)))


class Page:
    def __init__(self, path: Path) -> None:
        self.html = path.read_text("utf8")


def signed_vit() -> nn.Module:
    """Plain attention below denoising attention."""
    torch.manual_seed(0)
    model = stirred(timm_vit(patch_size=16))
    foveal.convert_(model, foveal.DenoisingAttention.Config(), "blocks.1.*")
    return model.eval()


def test_of_an_image(tmp_path) -> None:
    model, image = signed_vit(), torch.randn(3, SIDE, SIDE)
    loaded = LoadedModel("it", model, lambda _: image, labels=dict(enumerate("abcdefg")))
    want, logits = maps_over_image(model, image[None]), model(image[None])
    counted = Counted(model)
    lines, files = inspect_model(loaded, None, tmp_path)
    assert counted.calls == [(1, 3, SIDE, SIDE)]
    assert {path.name for path in files} == {"attention.html", "maps.png", "maps.html", "rollout.png"}
    best = int(logits.argmax())
    assert f"predicted {'abcdefg'[best]} with probability {logits.softmax(-1)[0, best]:.0%}" in lines
    about, values = read(Page(tmp_path / "attention.html"))
    (shown,) = about["models"]
    assert [layer["name"] for layer in shown["layers"]] == list(want.layers)
    for kind, stored in shown["rollout"]["maps"].items():
        exact = rollout(model, image[None], signed=kind)
        torch.testing.assert_close(values(stored), exact.double(), rtol=0, atol=about["error"] * 1.01 + 1e-6)


@pytest.mark.parametrize("attention", [None, "denoising"])
def test_of_a_clip(attention, tmp_path) -> None:
    torch.manual_seed(0)
    model = TimeSformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3, num_frames=3)
    loaded = LoadedModel("it", model, lambda image: image, prepare_clip=lambda clip: clip, labels=dict(enumerate("abc")))
    counted = Counted(model)
    lines, files = inspect_video(loaded, torch.randn(3, 3, 16, 16), tmp_path, attention=attention)
    # before a conversion and behind it; convert_ itself runs the model too
    seen = counted.calls if attention is None else counted.calls[:1] + counted.calls[-1:]
    assert seen == [(1, 3, 3, 16, 16)] * (1 if attention is None else 2)
    assert any(line.startswith("predicted ") for line in lines)
    assert {path.name for path in files} == {"attention.html", "maps.png", "maps.html"}


@pytest.mark.parametrize("kind", ["positive", "negative", "combined"])
def test_a_flow_is_the_rollout_of_its_kind(kind) -> None:
    model, images = signed_vit().double(), torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    flow = Flow()
    attention_maps(model, images, reduce=lambda layer, maps: flow.take(maps))
    assert torch.equal(flow.result()[kind], rollout(model, images, signed=kind))
    plain = stirred(timm_vit(patch_size=16)).double().eval()
    flow = Flow()
    attention_maps(plain, images, reduce=lambda layer, maps: flow.take(maps))
    assert list(flow.result()) == ["combined"]
    assert torch.equal(flow.result()["combined"], rollout(plain, images, signed=kind))


def test_what_makes_no_rollout_is_said_at_its_end() -> None:
    flow = Flow()
    with pytest.raises(foveal.InputError, match="there are none"):
        flow.result()
    for tokens in (4, 9, 9):
        flow.take({"combined": torch.ones(1, 2, tokens, tokens) / tokens})
    with pytest.raises(foveal.InputError, match="tokens change between layers, from"):
        flow.result()


@pytest.mark.parametrize(("name", "maps"), [("test_fov_halonet", True), ("resnet10t", False)])
def test_a_run_of_any_classifier_is_taken(name, maps, tmp_path, capsys) -> None:
    """As its last words promise: maps where its layers have some over the image, and else what it says."""
    from foveal.lab.training import fit
    from foveal.timm import TimmModel

    recipe = tiny(model=TimmModel(name=name), steps=1, eval_every=1, checkpoint_every=1)
    fit(recipe, tmp_path / "run", quiet=True)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "picture.png")
    capsys.readouterr()
    words = ["inspect", str(tmp_path / "run"), str(tmp_path / "picture.png"), "--out", str(tmp_path / "drawn")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "predicted " in printed
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert {"maps.png", "attention.html"} <= drawn if maps else drawn == {"prediction.png", "prediction.html"}
    assert ("no maps: the model has no attention whose maps could be seen" in printed) == (not maps)
    if not maps:
        assert main([*words, "--truth", "0"]) == 2
        assert "of which no maps are drawn; leave out --against and --truth" in capsys.readouterr().err
