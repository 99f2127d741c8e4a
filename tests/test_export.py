"""An exported file computes what the model computes, run by somebody else's program; what differs, or cannot be traced, leaves no file."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foveal import DenoisingAttention, InputError, convert_, create_attention, export_model, save_pretrained
from foveal.attention import CORES, attention_class, config_from_dict, list_attentions
from foveal.cli import main
from foveal.export import FORMATS, example_images
from foveal.lab.inspect import convert_named_, load_model
from foveal.lab.training import read_weights, write_json
from foveal.models import TimeSformer
from tests.convert.test_hosts import SIDE, stirred, timm_vit, torchvision_vit, transformers_tower
from tests.training.helpers import tiny

TOKENS = list_attentions(form="tokens")
MAPS = list_attentions(form="2d")


def vit(*configs: dict) -> nn.Module:
    """A block of each."""
    torch.manual_seed(0)
    model = stirred(timm_vit(depth=len(configs)))
    convert_(model, {f"blocks.{n}.attn": config_from_dict(config) for n, config in enumerate(configs)})
    return stirred(model)


def convnet(*names: str) -> nn.Module:
    torch.manual_seed(0)
    attentions = [create_attention(name, 8) for name in names]
    return stirred(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), *attentions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))


def by_onnxruntime(path: Path, images: torch.Tensor) -> list[np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images.numpy()})


def agrees(model: nn.Module, path: Path, side: int = SIDE) -> None:
    for count in (1, 4):
        images = torch.randn(count, 3, side, side)
        with torch.no_grad():
            want = model(images)
        np.testing.assert_allclose(by_onnxruntime(path, images)[0], (want if isinstance(want, torch.Tensor) else want[0]).numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("names", [TOKENS[n::3] for n in range(3)], ids=lambda names: "+".join(names))
def test_every_attention_on_tokens_in_onnx(names, tmp_path) -> None:
    model = vit(*({"attention": name} for name in names))
    done = export_model(model, tmp_path / "m.onnx")
    assert done.shape == (3, SIDE, SIDE)
    assert 0 <= done.error <= 1e-4
    agrees(model, done.path)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_every_attention_on_maps_in_onnx(tmp_path) -> None:
    model = convnet(*MAPS)
    done = export_model(model, tmp_path / "m.onnx", torch.randn(1, 3, SIDE, SIDE))
    agrees(model, done.path)


EACH = {
    **{name: lambda name=name: vit({"attention": name}) for name in TOKENS},
    **{f"denoising over {core}": lambda core=core: vit({"attention": "denoising", "core": core}) for core in CORES},
    "halo, windows": lambda: vit({"attention": "halo", "block_size": 2, "halo_size": 1}),
    **{name: lambda name=name: convnet(name) for name in MAPS},
    "torchvision": lambda: on_host(torchvision_vit(), "denoising"),
    **{f"transformers, {name}": lambda name=name: on_host(transformers_tower("ViT"), name) for name in TOKENS},
}


def on_host(host: nn.Module, name: str) -> nn.Module:
    convert_(stirred(host), attention_class(name).Config())
    return stirred(host)


@pytest.mark.slow
@pytest.mark.parametrize("to", list(FORMATS))
@pytest.mark.parametrize("which", list(EACH))
def test_each_alone(which, to, tmp_path) -> None:
    export_model(EACH[which](), tmp_path / f"m.{to}", torch.randn(1, 3, SIDE, SIDE))


def test_transformers_gives_all_its_outputs(tmp_path) -> None:
    """The external attention there is given a mask by the export itself."""
    model = on_host(transformers_tower("ViT"), "external")
    done = export_model(model, tmp_path / "m.onnx")
    agrees(model, done.path)
    assert len(by_onnxruntime(done.path, torch.randn(1, 3, SIDE, SIDE))) == 2


def test_a_program_of_pytorch_and_the_mode_of_the_model(tmp_path) -> None:
    model = vit({"attention": "denoising"}).train()
    model.blocks[0].eval()
    done = export_model(model, tmp_path / "m.pt2")
    assert model.training
    assert not model.blocks[0].training
    images = torch.randn(6, 3, SIDE, SIDE)
    torch.testing.assert_close(torch.export.load(done.path).module()(images), model.eval()(images), rtol=1e-5, atol=1e-5)


def test_video(tmp_path) -> None:
    model = stirred(TimeSformer(attention="denoising", num_frames=2, img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=5))
    assert export_model(model, tmp_path / "m.pt2").shape == (3, 2, 16, 16)


@pytest.mark.parametrize(
    ("model", "size", "shape"),
    [
        (timm_vit, None, (3, SIDE, SIDE)),
        (torchvision_vit, None, (3, SIDE, SIDE)),
        (lambda: transformers_tower("ViT"), None, (3, SIDE, SIDE)),
        (lambda: nn.Conv2d(2, 4, 3), 9, None),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3)), (9, 7), (2, 9, 7)),
    ],
)
def test_models_say_what_they_take(model, size, shape) -> None:
    made = model()
    assert tuple(example_images(made, size).shape[1:]) == (shape or (2, 9, 9))
    with pytest.raises(ValueError, match="--img-size"):
        example_images(nn.Sequential(nn.Conv2d(2, 4, 3)))


# -- refusals ------------------------------------------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class OfThree(Branches):
    def forward(self, x):
        return self.layer(x).reshape(3, -1)


class Drifts(Branches):
    """As a bug of an exporter would have it."""

    def forward(self, x):
        return self.layer(x) * (1 if torch.compiler.is_exporting() else 1.01)


@pytest.mark.parametrize(
    ("model", "match"), [(Branches, "cannot be traced.*branches on the values"), (OfThree, "cannot be traced"), (Drifts, "differs from the model")]
)
def test_models_that_cannot_be_exported(model, match, tmp_path) -> None:
    with pytest.raises(InputError, match=match):
        export_model(stirred(model()), tmp_path / "m.pt2", torch.randn(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "match"), [(lambda x: [torch.full((len(x), 5), float("nan"))], "by nan"), (lambda x: [torch.zeros(2, 2)], r"gives \[\(2, 2\)\]")]
)
def test_a_file_that_computes_something_else_is_not_written(run, match, tmp_path, monkeypatch) -> None:
    def write(program, path):
        path.write_bytes(b"half")
        return run

    monkeypatch.setitem(FORMATS, "onnx", write)
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(InputError, match=match):
        export_model(vit({"attention": "softmax"}), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_formats_and_dtypes_that_cannot_be(tmp_path, monkeypatch) -> None:
    model = vit({"attention": "softmax"})
    with pytest.raises(ValueError, match="unknown format 'onx'; did you mean onnx"):
        export_model(model, tmp_path / "m.onx")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        export_model(model, tmp_path / "file" / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs onnxruntime.*foveal\[onnx\]"):
        export_model(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"export model\.float"):
        export_model(model.bfloat16(), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- the command ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_json(folder / "tiny.json", tiny(steps=4, eval_every=2).to_dict())
    assert main(["train", "--from", str(folder / "tiny.json"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_and_its_checkpoint_by_command(run, capsys) -> None:
    assert main(["export", str(run), "--to", "pt2"]) == 0
    printed = capsys.readouterr().out
    assert "images (any number, 1, 16, 16)" in printed
    assert str(run / "model.pt2") in printed
    program = torch.export.load(run / "model.pt2")
    want = read_weights(run / "model.safetensors")
    assert all(torch.equal(value, want[name]) for name, value in program.state_dict.items())
    checkpoint = next((run / "checkpoints").iterdir())
    assert set(load_model(str(checkpoint)).model.state_dict()) == set(want)
    assert all(torch.equal(value, want[name]) for name, value in load_model(str(checkpoint)).model.state_dict().items()), (
        "the averaged weights, as the run's own"
    )


def test_a_name_of_timms_converted_by_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "test_vit", "--attention", "denoising", "--where", "blocks.0.attn", "--img-size", "32", "--to", "pt2"]) == 0
    assert "\ntest_vit.pt2\n" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "test_vit.pt2")
    assert program.module()(torch.randn(2, 3, 32, 32)).shape == (2, 1000)
    assert "blocks.0.attn.q_neg.weight" in program.state_dict
    assert "blocks.1.attn.q_neg.weight" not in program.state_dict


def test_what_a_word_means(tmp_path) -> None:
    model = load_model("test_vit", weights="random").model
    convert_named_(model, json.dumps({"attention": "halo", "block_size": 5}), "blocks.1.attn")
    model.eval()
    assert model.blocks[1].attn.core.block_size == 5
    assert not model.training
    save_pretrained(model, tmp_path / "saved")
    images = torch.randn(1, 3, 160, 160)
    assert torch.equal(load_model(str(tmp_path / "saved")).model(images), model(images))
    convert_named_(other := load_model("test_vit", weights="random").model, "denoising")
    assert isinstance(other.blocks[0].attn, DenoisingAttention)
    assert type(load_model("test_fov_dna_vit", weights="random").model).__name__ == "DenoisingViT"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["test_vi"], "did you mean test_vit"),
        (["test_vit", "--where", "blocks.0.attn"], "no attention is named"),
        (["test_vit", "--attention", "denosing"], "did you mean denoising"),
        (["test_vit", "--attention", '{"attention": denoising}'], "expected a configuration as JSON"),
        (["test_vit", "--img-size", "0"], "timm does not give test_vit"),
        (["test_vit", "--attention", "denoising", "--where", "nothing"], "no module is chosen"),
        (["."], "is no run"),
    ],
)
def test_the_command_refuses(words, match, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    assert match in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- wrappers and the old exporter -----------------------------------------------------------------------------------------------------------------------


class Anything(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class WithOptions(Anything):
    def forward(self, pixels, *, scale=None, **kwargs):
        return self.model(pixels)


class Decorated(Anything):
    def forward(self, pixels):
        return self.model(pixels)

    forward = functools.wraps(forward)(lambda *args, **kwargs: Decorated.__dict__["forward"].__wrapped__(*args, **kwargs))


def adapted(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False))


def shadowed(model: nn.Module) -> nn.Module:
    own = model.forward
    model.forward = lambda *args: own(*args)
    return model


@pytest.mark.case("C16")
@pytest.mark.parametrize("wrap", [Anything, WithOptions, Decorated, adapted, shadowed, lambda model: Anything(Anything(model))])
def test_wrappers_of_any_signature(wrap, tmp_path) -> None:
    model = wrap(vit({"attention": "denoising"})).eval()
    assert export_model(model, tmp_path / "m.pt2").shape == (3, SIDE, SIDE)
    images = torch.randn(7, 3, SIDE, SIDE)
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.case("C16")
def test_an_adapted_model_in_onnx(tmp_path) -> None:
    model = adapted(vit({"attention": "softmax"})).eval()
    agrees(model, export_model(model, tmp_path / "m.onnx").path)


class OfTwo(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.mark.case("C16")
@pytest.mark.parametrize(("model", "says", "never"), [(OfTwo, "does not run on one tensor", "branch"), (OfThree, ".", "branches on the values")])
def test_advice_is_of_the_error_at_hand(model, says, never, tmp_path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        export_model(model(), tmp_path / "m.pt2", torch.randn(1, 3, 8, 8))
    assert never not in str(caught.value)


@pytest.mark.case("C21")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("which", [*TOKENS, *MAPS, "halo, windows", "halo_2d, stride"])
def test_onnx_by_the_old_exporter(which, tmp_path) -> None:
    torch.manual_seed(0)
    windows = {"block_size": 2, "halo_size": 1}
    if which in TOKENS or which == "halo, windows":
        model = vit({"attention": which} if which in TOKENS else {"attention": "halo", **windows})
    else:
        attention = create_attention("halo_2d", 8, stride=2, **windows) if which == "halo_2d, stride" else create_attention(which, 8)
        model = stirred(nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), attention))
    model.eval()
    images = torch.randn(2, 3, SIDE, SIDE)
    torch.onnx.export(model, images, tmp_path / "m.onnx", dynamo=False, opset_version=17, input_names=["images"], dynamic_axes={"images": {0: "batch"}})
    for count in (1, 4, 7):
        images = torch.randn(count, 3, SIDE, SIDE)
        with torch.no_grad():
            want = model(images).numpy()
        np.testing.assert_allclose(by_onnxruntime(tmp_path / "m.onnx", images)[0], want, rtol=1e-4, atol=1e-5)
