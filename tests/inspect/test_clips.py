"""``foveal inspect`` on videos: frames that are read are those that should be, and the page shows what the model makes of them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.analysis import attention_maps
from foveal.cli import main
from foveal.lab.inspect import load_model, open_video
from foveal.lab.training import fit, load_run
from tests.analysis.test_viewer import read
from tests.tasks.test_video import RECIPE
from tests.training.helpers import tiny

FRAMES = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "videos"
    fit(replace(RECIPE, steps=1, eval_every=1, checkpoint_every=1), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A folder of eight frames, 40 × 32, each of its own gray with a white square."""
    folder = tmp_path_factory.mktemp("video") / "clip"
    folder.mkdir()
    for number in range(FRAMES):
        picture = np.full((32, 40, 3), 20 * number, np.uint8)
        picture[8:16, 4 * number : 4 * number + 8] = 255
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


class Page:
    """Of a file, as :func:`read` takes one in memory."""

    def __init__(self, path) -> None:
        self.html = path.read_text("utf8")


def test_a_run_on_videos_takes_a_folder_of_frames(run, frames, tmp_path, capsys) -> None:
    assert main(["inspect", str(run), str(frames), "--out", str(tmp_path)]) == 0
    assert "3 frames" in capsys.readouterr().out
    about, values = read(Page(tmp_path / "attention.html"))
    assert len(about["photos"]) == 3
    # by hand: the first, a middle and the last frame, the square in the middle at 24 pixels, gray, as MNIST is standardized
    numbers = [int(place) for place in np.linspace(0, FRAMES - 1, 3)]
    clip = []
    for number in numbers:
        pixels = torch.from_numpy(np.array(Image.open(frames / f"{number}.png"))).permute(2, 0, 1).float()
        small = torch.nn.functional.interpolate(pixels[None], size=(24, 30), mode="bilinear")[0, :, :, 3:27].mean(0).round()
        clip.append((small / 255 - 0.13) / 0.25)
    _, _, model = load_run(run)
    want = attention_maps(model, torch.stack(clip)[None, None])
    (shown,) = about["models"]
    assert {layer["name"] for layer in shown["layers"]} == set(want)
    for layer in shown["layers"]:
        if layer["axis"] == "space":
            got, exact = values(layer["maps"]["positive"]), want[layer["name"]]["positive"]
            assert torch.allclose(got.view(exact.shape), exact.double(), atol=2 * about["error"] + 1e-6)
            break
    else:
        raise AssertionError("a network with divided attention has layers over space")


def test_a_network_of_transformers_takes_as_many_frames_as_it_has(frames, tmp_path, capsys) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    config.architectures = ["VideoMAEForVideoClassification"]
    transformers.VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "model")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "model"), str(frames), "--out", str(tmp_path / "page")]) == 0
    about, _ = read(Page(tmp_path / "page" / "attention.html"))
    assert [layer["frames"] for layer in about["models"][0]["layers"]] == [2]
    loaded = load_model(str(tmp_path / "model"))
    given = open_video(loaded, frames)
    assert given.shape == (3, 4, 32, 32)
    # the gray of a corner that the square never reaches, from −1 to 1
    assert [round(float(frame[0, -1, -1] + 1) * 127.5) for frame in given.transpose(0, 1)] == [20 * int(place) for place in np.linspace(0, FRAMES - 1, 4)]
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "model"), str(frames / "0.png")]) == 2
    assert "takes videos; give a video file, or a folder with its frames" in capsys.readouterr().err


def test_what_does_not_go_together_is_one_line(run, frames, tmp_path, capsys) -> None:
    assert main(["inspect", "test_vit", "--weights", "random", str(frames), "--out", str(tmp_path / "none")]) == 2
    assert f"test_vit takes images, and {frames} is a video; give an image file" in capsys.readouterr().err
    assert main(["inspect", str(run), str(frames / "0.png"), "--out", str(tmp_path / "none")]) == 2
    assert "is a picture, and videos takes videos; give a video file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(run), str(tmp_path / "empty"), "--out", str(tmp_path / "none")]) == 2
    assert "holds no pictures" in capsys.readouterr().err
    fit(tiny(steps=1, eval_every=1, checkpoint_every=1), tmp_path / "images", quiet=True)
    assert main(["inspect", str(tmp_path / "images"), str(frames), "--out", str(tmp_path / "none")]) == 2
    assert "takes images, and" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_page_of_a_video_names_its_answer(run, frames, tmp_path, capsys) -> None:
    assert main(["inspect", str(run), str(frames), "--truth", "right", "--out", str(tmp_path)]) == 0
    html = (tmp_path / "attention.html").read_text("utf8")
    about = json.loads(re.search(r'<script id="about"[^>]*>(.*?)</script>', html, re.DOTALL)[1])
    assert about["models"][0]["truth"][0] == "right"
    assert about["models"][0]["answers"][0][0] in capsys.readouterr().out


@pytest.mark.parametrize(("words", "names"), [(("--attention", "denoising"), [", before", ", denoising"]), (("--against", "test_fov_timesformer"), ["", ""])])
def test_two_models_stand_side_by_side(words, names, frames, tmp_path, capsys) -> None:
    assert main(["inspect", "test_fov_timesformer", str(frames), "--weights", "random", *words, "--out", str(tmp_path)]) == 0
    about, _ = read(Page(tmp_path / "attention.html"))
    assert [model["name"] for model in about["models"]] == [f"test_fov_timesformer{name}" for name in names]
    first, second = (["negative" in layer["maps"] for layer in model["layers"]] for model in about["models"])
    assert not any(first)
    assert all(second) is (words[0] == "--attention")


@pytest.mark.parametrize("words", [(), ("--attention", "denoising")])
def test_maps_that_no_page_takes_do_not_cost_the_sheet(words, frames, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("foveal.analysis.viewer.viewed.LARGEST", 1)
    assert main(["inspect", "test_fov_timesformer", str(frames), "--weights", "random", *words, "--out", str(tmp_path)]) == 0
    assert "no attention.html: no layer has maps over the whole image" in capsys.readouterr().out
    assert not (tmp_path / "attention.html").exists()
    assert (tmp_path / "maps.png").exists()
