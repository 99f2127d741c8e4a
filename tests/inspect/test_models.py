"""``foveal inspect`` on models that are no runs: by name, folder and file, tiny ones, nothing downloaded."""

import base64
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal import InputError
from foveal.analysis import attention_maps, look_from, rollout, token_layout, upsample
from foveal.analysis.pictures import overlay, to_pixels
from foveal.cli import main
from foveal.lab.inspect import LoadedModel, inspect_model, load_model

timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # tyro wraps its messages at the width of the terminal
    monkeypatch.setenv("COLUMNS", "300")
    gradient = np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3).astype(np.uint8)
    Image.fromarray(gradient).save("picture.png")
    (tmp_path / "broken.png").write_text("{")


def run(*words: str) -> int:
    try:
        return main(["inspect", *words])
    except SystemExit as left:
        return int(left.code or 0)


def test_a_timm_model_by_name(tmp_path, capsys) -> None:
    assert run("test_vit", "picture.png", "--weights", "random", "--out", "maps") == 0
    printed = capsys.readouterr().out
    assert "test_vit, weights drawn at random: nothing was learned" in printed
    assert "predicted" not in printed
    depth, heads = len(timm.create_model("test_vit").blocks), timm.create_model("test_vit").blocks[0].attn.num_heads
    page = (tmp_path / "maps" / "maps.html").read_text()
    assert page.count("<img ") == depth * (2 + heads)
    for name in ("maps.png", "maps.html", "rollout.png"):
        assert str(tmp_path.joinpath("maps", name).relative_to(tmp_path)) in printed
        assert (tmp_path / "maps" / name).stat().st_size > 0


def test_where_and_the_folder_by_default(tmp_path, capsys) -> None:
    assert run("timm:test_vit", "picture.png", "--weights", "random", "--where", "blocks.1.*") == 0
    page = (tmp_path / "inspect-timm-test_vit-picture" / "maps.html").read_text()
    assert re.findall(r"<th>([^<]*)</th>", page) == ["blocks.1.attn: combined"]


def test_a_network_of_halo_attention(capsys) -> None:
    assert run("test_fov_halonet", "picture.png", "--weights", "random", "--out", "maps") == 0
    printed = capsys.readouterr().out
    assert "maps/maps.png" in printed
    assert "no rollout: tokens change between layers" in printed


def test_converted_first(capsys) -> None:
    assert run("test_vit", "picture.png", "--weights", "random", "--attention", "denoising", "--where", "blocks.0.attn", "--out", "maps") == 0
    printed = capsys.readouterr().out
    assert "1 attentions converted to denoising, untrained: the output is within warm start" in printed
    assert re.search(r"blocks\.0\.attn: λ 0\.500 \(0\.500 to 0\.500\); 0\.\d°, 0\.\d°", printed)
    assert re.search(r"by chance, 32 of 64 dimensions: \d+\.\d°, \d+\.\d°", printed)


def test_weights_of_a_file(tmp_path, capsys) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    model = timm.create_model("test_vit", num_classes=7).eval()
    save_file(model.state_dict(), "w.safetensors")
    torch.save({"state_dict": model.state_dict()}, "w.pt")
    image = Image.open("picture.png")
    for file in ("w.safetensors", "w.pt"):
        loaded = load_model(file, base="test_vit")
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.model.state_dict().items())
        inputs = loaded.prepare(image)[None]
        want = attention_maps(model, inputs)["blocks.2.attn"]["combined"]
        torch.testing.assert_close(attention_maps(loaded.model, inputs)["blocks.2.attn"]["combined"], want)
    assert run("w.pt", "picture.png", "--model", "test_vit", "--out", "maps") == 0
    assert "test_vit, weights of w.pt" in capsys.readouterr().out


def test_the_rollout_is_drawn_over_the_image() -> None:
    torch.manual_seed(0)
    loaded = load_model("test_vit", weights="random")
    # untrained weights make maps as good as flat
    with torch.no_grad():
        for block in loaded.model.blocks:
            block.attn.qkv.weight.mul_(12)
    inputs = loaded.prepare(Image.open("picture.png"))
    inspect_model(loaded, Image.open("picture.png"), Path("maps"))
    rolled = rollout(loaded.model, inputs[None])
    size = tuple(inputs.shape[-2:])
    picture = upsample(look_from(rolled, token_layout(loaded.model, rolled.shape[-1], size))[0], size)
    with Image.open("maps/rollout.png") as sheet:
        drawn = np.asarray(sheet)
    # below it a line says who looks
    assert drawn.shape == (size[0] + 16, 2 * size[1] + 6, 3)
    assert (drawn[size[0] :] < 100).any()
    drawn = drawn[: size[0]]
    for half, attention in ((drawn[:, : size[1]], None), (drawn[:, size[1] + 6 :], picture.numpy())):
        uri = overlay(to_pixels(inputs), attention)
        want = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        np.testing.assert_allclose(half.astype(float), want.astype(float), atol=1)


@pytest.fixture
def folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_labels=2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1}))
    model.save_pretrained(tmp_path / "tower")
    return tmp_path / "tower"


def test_a_folder_of_transformers(folder, capsys) -> None:
    assert run("tower", "picture.png", "--out", "maps") == 0
    printed = capsys.readouterr().out
    assert re.search(r"predicted (cat|dog) with probability \d+%", printed)
    assert "no preprocessor_config.json: the image was brought to 32×32" in printed
    assert (folder.parent / "maps" / "rollout.png").exists()
    assert run("hf:tower", "picture.png", "--weights", "random", "--out", "maps") == 0
    assert "predicted" not in capsys.readouterr().out


def test_weights_that_are_missing_are_never_random(folder, capsys) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.startswith("classifier")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert run("tower", "picture.png") == 2
    assert re.search(r"tower lacks 1 weights of a ViTForImageClassification, as classifier\.\w+, which would be random", capsys.readouterr().err)


BAD = [
    (["test_vitt", "picture.png"], "unknown network 'test_vitt'; did you mean test_vit"),
    (["nowhere/at/all", "picture.png"], "nowhere/at/all is no run, no folder with a config.json and no file of weights"),
    (["test_vit", "nowhere.png"], "cannot read the image nowhere.png"),
    (["test_vit", "broken.png"], "cannot read the image broken.png"),
    (["test_vit", "picture.png"], "cannot load test_vit"),
    (["hf:nobody/nothing", "picture.png"], "cannot load nobody/nothing"),
    (["test_convnext", "picture.png", "--weights", "random"], "no attention whose maps could be seen"),
    (["test_vit", "picture.png", "--weights", "random", "--where", "layers.*"], "no attention that ran is chosen by 'layers.*'"),
    (["test_vit", "picture.png", "--weights", "random", "--attention", "denoisng"], "did you mean denoising"),
    (["test_vit", "picture.png", "--model", "test_vit"], "--model says what a file of weights is for"),
    (["broken.png", "picture.png"], "name the model, as in --model"),
    (["broken.png", "picture.png", "--model", "test_vit"], "cannot read weights from broken.png"),
    (["broken.png", "picture.png", "--model", "test_vitt"], "did you mean test_vit"),
    (["other.pt", "picture.png", "--model", "test_vit"], "other.pt does not hold the weights of test_vit: missing"),
    (["test_vit", "picture.png", "--weights", "random", "--out", "picture.png"], "picture.png is a file"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_ends_with_a_message_and_code_2(words, says, capsys) -> None:
    torch.save({"other.weight": torch.zeros(3)}, "other.pt")
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "Traceback" not in printed.err


def test_code_in_a_checkpoint_is_never_run(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="cannot read weights"):
        load_model("evil.pt", base="test_vit")
    assert not (tmp_path / "ran").exists()


def test_windows_alone_are_said_to_be_no_map_of_the_image(capsys) -> None:
    model = timm.models.SwinTransformer(img_size=32, patch_size=4, embed_dim=24, depths=(2,), num_heads=(2,), window_size=4, num_classes=5)
    with pytest.raises(InputError, match="windows, and not over the image"):
        inspect_model(LoadedModel("swin", model, lambda image: torch.randn(3, 32, 32)), None, None)
    assert foveal.attention_maps(model, torch.randn(1, 3, 32, 32))


def shown_on_the_page(folder: Path) -> list[str]:
    import json

    page = (folder / "attention.html").read_text(encoding="utf8")
    return [model["name"] for model in json.loads(re.search(r'<script id="about"[^>]*>(.*?)</script>', page, re.DOTALL)[1])["models"]]


def test_the_viewer_of_one_model_of_two_and_of_a_conversion(tmp_path, capsys) -> None:
    given = ("test_vit", "picture.png", "--weights", "random")
    assert run(*given, "--out", "one") == 0
    assert "one/attention.html" in capsys.readouterr().out
    assert shown_on_the_page(tmp_path / "one") == ["test_vit"]
    assert run(*given, "--against", "test_vit2", "--out", "two") == 0
    assert shown_on_the_page(tmp_path / "two") == ["test_vit", "test_vit2"]
    assert run(*given, "--attention", "denoising", "--out", "converted") == 0
    assert shown_on_the_page(tmp_path / "converted") == ["test_vit, before", "test_vit, denoising"]
    assert run(*given, "--truth", "no such thing", "--out", "none") == 2
    assert "'no such thing' is no class of this model" in capsys.readouterr().err
    assert not (tmp_path / "none" / "maps.png").exists()
