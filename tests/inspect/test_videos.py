"""``foveal inspect`` on videos: runs, timm's names and transformers' folders; what is drawn is held against the network's own weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foveal.cli import main
from foveal.lab.inspect import LoadedModel, inspect_video, load_model
from foveal.lab.inspect.clip_maps import maps_over_clip
from foveal.lab.inspect.video import _rows
from foveal.models import TimeSformer

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3, "num_frames": 3}


def frames_folder(path: Path, count: int = 5, side: tuple[int, int] = (20, 28)) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (*side, 3), dtype=np.uint8)).save(path / f"{number}.png")
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "300")
    frames_folder(tmp_path / "clip")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("picture.png")


def run(*words: str) -> int:
    try:
        return main(["inspect", *words])
    except SystemExit as left:
        return int(left.code or 0)


def softmax_of(attention: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The map of a plain attention, by its weights alone, ``(B, H, N, N)``."""
    heads = attention.num_heads
    q, k, _ = attention.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize("kind", ["divided_space_time", "space_only", "joint_space_time"])
def test_maps_are_those_of_the_weights(kind) -> None:
    torch.manual_seed(0)
    model = TimeSformer(attention_type=kind, **SMALL).eval()
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    clip, seen = torch.randn(1, 3, 3, 16, 16), {}
    for name, module in model.named_modules():
        if name.endswith("attn"):
            module.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, softmax_of(module, args[0]).detach()))
    with torch.no_grad():
        model(clip)
    maps = maps_over_clip(model, clip, clip.shape[1:])
    assert set(maps.layers) == set(seen)
    for name, whole in seen.items():
        got = maps.layers[name]["combined"]
        assert got.shape == (2, 3, 2, 2)
        for frame in range(3):
            if name.endswith("temporal_attn"):
                # patches of a clip, row by row; what frames take of this one
                want = whole[:, :, :, frame].mean(2).T.unflatten(-1, (2, 2))
            elif kind == "joint_space_time":
                want = whole[0, :, 0, 1 + 4 * frame : 5 + 4 * frame].unflatten(-1, (2, 2))
            else:
                want = whole[frame, :, 0, 1:].unflatten(-1, (2, 2))
            torch.testing.assert_close(got[:, frame], want)
        if name.endswith("temporal_attn"):
            torch.testing.assert_close(maps.times[name]["combined"], whole.mean(0))
    assert maps.looks == "the class token"


def test_frames_of_a_row_share_their_scale(tmp_path) -> None:
    """What is dark in one frame and bright in another differs by what the network gives, and not by the frame."""
    torch.manual_seed(0)
    model = TimeSformer(attention_type="joint_space_time", **SMALL).eval()
    loaded = LoadedModel("it", model, lambda image: image, prepare_clip=lambda clip: clip)
    clip = torch.zeros(3, 3, 16, 16)
    maps = maps_over_clip(model, clip[None], clip.shape)
    value = maps.layers["blocks.1.attn"]["combined"]
    value.copy_(torch.tensor([0.1, 0.2, 1.0])[:, None, None].expand_as(value))
    cells = [picture.astype(int).sum() for picture, _ in next(cells for title, cells in _rows(clip, maps) if title == "blocks.1.attn: combined")]
    assert cells[0] < cells[1] < cells[2]
    inspect_video(loaded, clip, tmp_path / "drawn")
    assert (tmp_path / "drawn" / "maps.png").stat().st_size > 0


def test_a_timm_name_and_conversion(capsys) -> None:
    assert run("test_fov_timesformer", "clip", "--weights", "random", "--out", "maps") == 0
    printed = capsys.readouterr().out
    assert "nothing was learned" in printed
    assert "3 frames; in space where the class token looks" in printed
    page = Path("maps/maps.html").read_text()
    # the clip; three blocks, in each of which time shows three frames and two heads, and space three frames
    assert page.count("<img ") == 3 + 3 * (3 + 2 + 3)
    assert run("test_fov_timesformer", "clip", "--weights", "random", "--attention", "denoising", "--where", "blocks.0.attn", "--out", "other") == 0
    assert "1 attentions converted to denoising" in capsys.readouterr().out
    assert "blocks.0.attn: negative" in Path("other/maps.html").read_text()
    assert run("test_fov_timesformer", "clip", "--weights", "random", "--where", "blocks.1.*attn", "--out", "some") == 0
    assert "blocks.0" not in Path("some/maps.html").read_text()


def test_frames_are_those_of_the_clip_in_their_order() -> None:
    loaded = load_model("test_fov_timesformer", weights="random")
    from foveal.lab.inspect import open_video

    clip = open_video(loaded, Path("clip"))
    assert clip.shape == (3, 3, 32, 32)
    # the first, the middle and the last of five, the shorter side 20 brought to 32, the middle cut out
    import torch.nn.functional as F

    for place, number in enumerate((0, 2, 4)):
        picture = torch.from_numpy(np.array(Image.open(f"clip/{number}.png"))).permute(2, 0, 1)[None].float()
        want = F.interpolate(picture, size=(32, 44), mode="bilinear")[0, :, :, 6:38] / 255
        torch.testing.assert_close(clip[:, place], (want - 0.45) / 0.225)


@pytest.mark.parametrize("kind", ["timesformer", "videomae"])
@pytest.mark.parametrize("with_processor", [False, True])
def test_transformers_folders(kind, with_processor, capsys) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    made = {
        "timesformer": lambda: transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**sizes)),
        "videomae": lambda: transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**sizes, tubelet_size=2)),
    }[kind]()
    made.save_pretrained("model")
    if with_processor:
        transformers.VideoMAEImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained("model")
    capsys.readouterr()
    assert run("model", "clip", "--out", "maps") == 0
    printed = capsys.readouterr().out
    assert "predicted LABEL_" in printed
    assert ("no preprocessor_config.json" in printed) != with_processor
    page = Path("maps/maps.html").read_text()
    # time: four frames and two heads; space: four frames; both together: two steps of two frames
    assert page.count("<img ") == 4 + 2 * (4 + 2 + 4 if kind == "timesformer" else 2)
    assert "not drawn" not in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("test_fov_timesformer", "picture.png", "--weights", "random"), "picture.png is a picture, and test_fov_timesformer takes videos"),
        (("test_vit", "clip", "--weights", "random"), "test_vit takes images, and clip is a video"),
        (("test_fov_timesformer", "test:0", "--weights", "random"), "test:0 is a clip out of the test of a run on videos"),
        (("test_fov_timesformer", "nowhere.mp4", "--weights", "random"), "nowhere.mp4 does not exist"),
        (("test_fov_timesformer", "empty", "--weights", "random"), "empty holds no pictures"),
        (("test_fov_timesformer", "broken.mp4", "--weights", "random"), "cannot read the video broken.mp4"),
        (("test_fov_timesformer", "clip", "--weights", "random", "--against", "test_vit"), "test_vit takes images, and clip is a video"),
        (("test_fov_timesformer", "clip", "--weights", "random", "--where", "nothing*"), "nothing*"),
    ],
)
def test_what_is_refused(words, said, capsys) -> None:
    Path("empty").mkdir()
    Path("broken.mp4").write_text("{")
    assert run(*words) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message


def test_a_run_and_a_clip_of_its_test(tmp_path, capsys) -> None:
    assert main(["train", "moving-digits", "--smoke", "--out", "run"]) == 0
    capsys.readouterr()
    assert run("run", "test:2") == 0
    printed = capsys.readouterr().out
    from foveal.lab.training import load_run

    recipe, bundle, model = load_run(Path("run"))
    clip, label = bundle.test[2]
    with torch.no_grad():
        chances = recipe.task.predict(model.eval(), clip[None]).softmax(-1)[0]
    assert f"predicted {bundle.classes[int(chances.argmax())]} with probability {float(chances.max()):.0%}" in printed
    assert f"the true class is {bundle.classes[label]}" in printed
    assert Path("run/inspect-test-2/maps.html").is_file()
    # a video of one's own: the digits' set takes brightness alone
    assert run("run", "clip", "--out", "own") == 0
    assert run("run", "test:99999") == 2
    assert "expected test:NUMBER with a number from 0 to" in capsys.readouterr().err
    assert run("run", "picture.png") == 2
    assert "takes videos" in capsys.readouterr().err
