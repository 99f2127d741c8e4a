"""A model that was saved comes back to the last bit; a folder that is not what it should be is refused, by name."""

import copy
import json
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import foveal
from foveal import CrossSampleAttention, DenoisingAttention, ExternalAttention, HaloAttention, convert_, from_pretrained, push_to_hub, save_pretrained
from foveal.attention import attention_class, list_attentions
from foveal.hub import Card
from foveal.models import DenoisingViT, T2TViT, TimeSformer, VisionTransformer, ViT
from foveal.models._mlp import Mlp
from tests.convert.test_hosts import SIDE, run, stirred, timm_vit, torchvision_vit, transformers_tower

IMAGES = torch.randn(2, 3, SIDE, SIDE)
TIMM = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 4, "num_classes": 5}
TORCHVISION = {"image_size": SIDE, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 24, "mlp_dim": 48, "num_classes": 5}


def created() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("test_vit", num_classes=5, img_size=SIDE, drop_path_rate=0.0)


HOSTS = {
    "timm by name": (created, {}),
    "timm by class": (timm_vit, {"base": "timm:VisionTransformer", "kwargs": TIMM}),
    "torchvision": (torchvision_vit, {"base": "torchvision:VisionTransformer", "kwargs": TORCHVISION}),
    "transformers": (lambda: transformers_tower("ViT"), {}),
    "transformers CLIP": (lambda: transformers_tower("CLIPVision"), {}),
}


@pytest.fixture(params=list(HOSTS))
def host(request) -> tuple[nn.Module, dict]:
    torch.manual_seed(0)
    make, said = HOSTS[request.param]
    return stirred(make()), said


def same(model: nn.Module, other: nn.Module, images: torch.Tensor = IMAGES) -> None:
    assert torch.equal(run(model.eval(), images), run(other, images))


def test_every_host_comes_back_to_the_last_bit(host, tmp_path) -> None:
    model, said = host
    save_pretrained(model, tmp_path / "plain", **said)
    same(model, from_pretrained(tmp_path / "plain"))
    names = [name for name, module in model.named_modules() if type(module).__name__.endswith("Attention")]
    convert_(model, {names[0]: DenoisingAttention.Config(lambda_init=0.3), "*": ExternalAttention.Config(slots=3)})
    stirred(model)
    folder = save_pretrained(model, tmp_path / "converted", **said)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    before = torch.get_rng_state()
    again = from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before), "loading draws no random numbers that the user would miss"
    same(model, again)
    assert not again.training
    save_pretrained(again, tmp_path / "again", **said)
    assert json.loads((tmp_path / "again/config.json").read_text()) == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", list_attentions(form="tokens"))
def test_every_attention_comes_back(name, tmp_path) -> None:
    model = stirred(timm_vit(depth=1))
    convert_(model, attention_class(name).Config())
    stirred(model)
    save_pretrained(model, tmp_path / "m", base="timm:VisionTransformer", kwargs=TIMM | {"depth": 1})
    same(model, from_pretrained(tmp_path / "m"))


def test_clusters_come_back_fitted(tmp_path) -> None:
    model = timm_vit(depth=1)
    convert_(model, CrossSampleAttention.Config(dictionary_size=3, init="kmeans", prior=True))
    foveal.fit_dictionaries_(model, [torch.randn(4, 3, SIDE, SIDE)])
    save_pretrained(model, tmp_path / "m", base="timm:VisionTransformer", kwargs=TIMM | {"depth": 1})
    same(model, from_pretrained(tmp_path / "m"))


def test_several_conversions_shared_modules_and_half_precision(tmp_path) -> None:
    model = timm_vit()
    model.blocks[2].attn = model.blocks[0].attn
    convert_(model, HaloAttention.Config(block_size=2, halo_size=1), where="blocks.0.attn")
    convert_(model, DenoisingAttention.Config(shared_values=True), where="blocks.1.attn", warm_start="exact")
    model = stirred(model).bfloat16()

    def build() -> nn.Module:
        made = timm_vit()
        made.blocks[2].attn = made.blocks[0].attn
        return made

    save_pretrained(model, tmp_path / "m")
    again = from_pretrained(tmp_path / "m", build=build)
    assert again.blocks[2].attn is again.blocks[0].attn
    assert again.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    same(model, again, IMAGES.bfloat16())


OURS = {
    "vit": lambda: ViT(attention="halo", options={"block_size": 2}).build(img_size=SIDE, in_chans=3, num_classes=5),
    "t2t": lambda: T2TViT(attention="external", options={"slots": 4}, img_size=SIDE, embed_dim=24, depth=1, num_heads=2, token_dim=8, num_classes=5),
    "dna": lambda: DenoisingViT(img_size=SIDE, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=5),
    "timesformer": lambda: TimeSformer(
        attention="denoising", num_frames=2, img_size=(16, 24), patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=5, drop_path_rate=0.1
    ),
}


@pytest.mark.parametrize("name", list(OURS))
def test_our_own_models_say_how_they_are_built(name, tmp_path) -> None:
    model = stirred(OURS[name]())
    images = torch.randn(2, 3, 2, 16, 24) if name == "timesformer" else IMAGES
    save_pretrained(model, tmp_path / "m", card=Card(data="digits"))
    same(model, from_pretrained(tmp_path / "m"), images)
    # copies and pickles are made without arguments, and remember all the same
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    save_pretrained(again, tmp_path / "again")
    same(model, from_pretrained(tmp_path / "again"), images)


def test_a_model_remembers_its_own_arguments_and_defaults() -> None:
    model = DenoisingViT(options={"shared_values": True}, img_size=SIDE, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=5, mlp_layer=Mlp)
    given = {
        "options": {"shared_values": True},
        "no_embed_class": True,
        "img_size": SIDE,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 1,
        "num_heads": 2,
        "num_classes": 5,
    }
    assert given.items() <= model._built_with.items()
    assert "mlp_layer" not in model._built_with, "no JSON holds a class"
    assert TimeSformer(num_frames=2, img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2)._built_with["attention_type"] == "divided_space_time"


def test_the_methods_of_before_still_work_and_warn(tmp_path, monkeypatch) -> None:
    model = stirred(OURS["dna"]())
    with pytest.warns(DeprecationWarning, match=r"call foveal\.save_pretrained"):
        model.save_pretrained(tmp_path / "m", card=Card(data="digits"))
    assert "digits" in (tmp_path / "m/README.md").read_text()
    with pytest.warns(DeprecationWarning, match=r"call foveal\.from_pretrained"):
        same(model, type(model).from_pretrained(tmp_path / "m"), IMAGES)
    with pytest.warns(DeprecationWarning, match="from_pretrained"), pytest.raises(ValueError, match="holds a DenoisingViT, not a TimeSformer"):
        TimeSformer.from_pretrained(tmp_path / "m")
    monkeypatch.setattr("foveal.hub.push_to_hub", lambda model, repo_id, **options: (model, repo_id, options))
    with pytest.warns(DeprecationWarning, match=r"call foveal\.push_to_hub"):
        assert model.push_to_hub("me/it", private=True) == (model, "me/it", {"private": True})


def test_published_networks_of_timms_registry(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    import foveal.timm  # noqa: F401

    name = next(name for name in timm.list_models("test_fov_*"))
    model = timm.create_model(name, num_classes=3)
    save_pretrained(stirred(model), tmp_path / "m")
    same(model, from_pretrained(tmp_path / "m"), torch.randn(1, *model.pretrained_cfg["input_size"]))


def test_attention_and_attn_layer_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="got both"):
        VisionTransformer(attention="denoising", attn_layer=DenoisingAttention)


# -- what a folder knows of where it came from -------------------------------------------------------------------------------------------------------


def test_a_delta_of_a_loaded_model_is_as_small_and_fits_the_base(tmp_path) -> None:
    torch.manual_seed(0)
    base = stirred(timm_vit())
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    convert_(base, ExternalAttention.Config(slots=3))
    save_pretrained(base, tmp_path / "m", base="timm:VisionTransformer", kwargs=TIMM)
    again = from_pretrained(tmp_path / "m")
    assert foveal.save_delta(again, tmp_path / "loaded.safetensors") == foveal.save_delta(base, tmp_path / "trained.safetensors")
    other = timm_vit()
    other.load_state_dict(weights)
    foveal.load_delta(other, tmp_path / "loaded.safetensors")
    same(base, other.eval())
    with pytest.raises(ValueError, match="no way back"):
        foveal.revert_(again)


def test_the_card_says_data_command_and_metrics(tmp_path) -> None:
    model = created()
    convert_(model, DenoisingAttention.Config())
    card = Card(data="MNIST-5k scenes", command="foveal train x", metrics={"test accuracy": 0.75}, license="apache-2.0", description="A try.", tags=("digits",))
    save_pretrained(model, tmp_path / "m", card=card)
    text = (tmp_path / "m/README.md").read_text()
    loaded = huggingface_hub.ModelCard.load(tmp_path / "m/README.md")
    assert loaded.data.library_name == "foveal"
    assert loaded.data.license == "apache-2.0"
    assert {"foveal", "denoising-attention", "digits"} <= set(loaded.data.tags)
    for part in ("MNIST-5k scenes", "foveal train x", "| test accuracy | 0.75 |", "A try.", "`blocks.5.attn` | denoising", "`test_vit` of timm"):
        assert part in text
    save_pretrained(model, tmp_path / "m")
    assert (tmp_path / "m/README.md").read_text().count("Not stated.") == 3


# -- refusals ------------------------------------------------------------------------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    model = created()
    convert_(model, DenoisingAttention.Config())
    return save_pretrained(model, folder / "m")


def test_a_base_that_does_not_build_the_model_is_refused_and_nothing_is_left(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", num_classes=5, drop_path_rate=0.3)
    with pytest.raises(ValueError, match=r"drop_prob is 0\.\d+ in the model and .* as built.*give the kwargs"):
        save_pretrained(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    save_pretrained(model, tmp_path / "m", kwargs={"drop_path_rate": 0.3})
    assert from_pretrained(tmp_path / "m").blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"weight is missing|has no place|wanted|is \(.*\) in the model"):
        save_pretrained(timm_vit(), tmp_path / "n", base="timm:VisionTransformer", kwargs=TIMM | {"depth": 2})
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"base": "vit_b_16"}, "library:name"),
        ({"base": "tim:test_vit"}, "did you mean timm"),
        ({"base": "timm:test_vitt"}, "did you mean test_vit"),
        ({"base": "timm:VisionTransformer", "kwargs": {"attn_layer": nn.Identity}}, "no JSON value"),
        ({"base": "timm:test_vit", "kwargs": {"pretrained": True}}, "leave pretrained out"),
        ({"base": "timm:test_vit", "kwargs": {"num_clases": 5}}, "cannot build test_vit"),
        ({"base": "transformers:ViTModel"}, "expected the argument config"),
        ({"base": "torchvision:vit_b_17"}, "did you mean vit_b_16"),
        ({"base": "foveal:os.system"}, "expected a class of foveal"),
        ({"kwargs": TIMM}, "name it"),
    ],
)
def test_bases_that_cannot_be(said, match, tmp_path) -> None:
    with pytest.raises(ValueError, match=match):
        save_pretrained(timm_vit(), tmp_path / "m", **said)
    assert not (tmp_path / "m").exists()


def test_a_model_of_no_library_asks_for_build(tmp_path) -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True))
    convert_(model, DenoisingAttention.Config())
    save_pretrained(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"Sequential.*build=f"):
        from_pretrained(tmp_path / "m")
    again = from_pretrained(tmp_path / "m", build=lambda: nn.Sequential(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)))
    same(model, again, torch.randn(2, 5, 16))
    with pytest.raises(ValueError, match="not of the model that was built"):
        from_pretrained(tmp_path / "m", build=lambda: nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)))
    assert "build=make" in (tmp_path / "m/README.md").read_text()


def test_a_model_without_memory_cannot_be_saved(tmp_path) -> None:
    with pytest.raises(ValueError, match="has no memory"):
        save_pretrained(nn.Linear(2, 2, device="meta"), tmp_path / "m")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "file")


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("pickled code was run",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "checkpoint.pth.tar", "x.pkl"])
def test_pickled_code_is_refused_with_the_reason(name, tmp_path) -> None:
    folder = saved(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Boom()))
    with pytest.raises(ValueError, match=f"{name}: pickled files run whatever code"):
        from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="ask for safetensors"):
        from_pretrained(folder)


def test_a_pickle_under_the_name_of_safetensors_is_not_read(tmp_path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        from_pretrained(folder)


def test_damage_is_named(tmp_path) -> None:
    folder = saved(tmp_path)
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        from_pretrained(folder)
    weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or belongs to another model"):
        from_pretrained(folder)
    weights.write_bytes(whole)
    from_pretrained(folder)
    for broken, match in [
        (text[:-40], "holds no JSON"),
        ("[" * 100_000, "holds no JSON"),
        ("9" * 6000, "holds no JSON"),
        (text.replace('"names"', '"namet"', 1), "how the model was converted"),
        ("[]", "was not written by"),
        ('{"model_type": "vit"}', "load the model with its own library"),
        (json.dumps({key: value for key, value in json.loads(text).items() if key != "weights"}), "is damaged"),
        (json.dumps(json.loads(text) | {"weights": {"file": "../x", "fingerprint": ""}}), "is damaged"),
        (json.dumps(json.loads(text) | {"base": {"library": "os", "name": "system", "kwargs": {}}}), "unknown library"),
    ]:
        config.write_text(broken)
        with pytest.raises(ValueError, match=match):
            from_pretrained(folder)
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        from_pretrained(folder)
    config.write_text(text)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        from_pretrained(folder)


def test_weights_of_another_shape_under_the_right_fingerprint(tmp_path) -> None:
    """As a base of another version of its library would have it."""
    from foveal.convert._digest import digests, fingerprint

    folder = saved(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = torch.zeros(2)
    del tensors["norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    about["weights"]["fingerprint"] = fingerprint(digests(tensors))
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"norm\.weight is missing; extra has no place"):
        from_pretrained(folder)


# -- the hub -------------------------------------------------------------------------------------------------------------------------------------------


def test_a_repository_is_fetched_without_anything_pickled(tmp_path, monkeypatch) -> None:
    folder, asked = saved(tmp_path), {}

    def snapshot(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert run(from_pretrained("someone/something", revision="v1", token=False), IMAGES).shape == (2, 5)
    assert asked["repo_id"] == "someone/something"
    assert asked["revision"] == "v1"
    assert asked["token"] is False
    assert asked["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]


def test_what_the_hub_does_not_give(tmp_path, monkeypatch) -> None:
    for wrong in ("nowhere", "/no/such/folder", "./a/b", tmp_path / "none"):
        with pytest.raises(ValueError, match=r"is no folder; expected one|is no folder here"):
            from_pretrained(wrong)

    def offline(repo_id, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"someone/something is no folder here.*no connection"):
        from_pretrained("someone/something")


def test_pushing_uploads_the_same_folder(monkeypatch) -> None:
    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, **options):
            seen["made"] = (repo_id, options)
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
            seen["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            seen["model"] = from_pretrained(folder_path)
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = stirred(OURS["vit"]())
    assert push_to_hub(model, "someone/vit", private=True, token="t") == "https://huggingface.co/someone/vit/commit/1"
    assert seen["files"] == ["README.md", "config.json", "model.safetensors"]
    assert seen["made"] == ("someone/vit", {"private": True, "exist_ok": True})
    assert seen["token"] == "t"
    same(model, seen["model"])

    def refused(self, **options):
        raise OSError("no space")

    monkeypatch.setattr(Api, "upload_folder", refused)
    with pytest.raises(ValueError, match="did not take someone/vit: no space"):
        push_to_hub(model, "someone/vit")
