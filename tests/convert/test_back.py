"""Back, away and again: revert_, deltas and savers act on what stands in the model now, whole or not at all."""

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import foveal
from foveal import DenoisingAttention, ExternalAttention, InputError, SoftmaxAttention, convert_, load_delta, revert_, save_delta
from foveal.convert import places_of
from tests.convert.layers import MAKE, THINGS
from tests.convert.test_carried import assert_same, built, everything
from tests.convert.test_hosts import run, stirred, timm_vit, torchvision_vit, transformers_tower

SOFTMAX, DENOISING = SoftmaxAttention.Config(), DenoisingAttention.Config()
IMAGES = torch.randn(2, 3, 32, 32)
THREE = {"timm": timm_vit, "torchvision": torchvision_vit, "transformers": lambda: transformers_tower("ViT")}


def base(host: str = "timm") -> nn.Module:
    torch.manual_seed(0)
    return stirred(THREE[host]())


# -- revert_ -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.case("C8")
@pytest.mark.parametrize("host", MAKE)
def test_weights_that_were_loaded_since_come_back(host) -> None:
    model, _, images = built(host)
    if "CaiT" in host:
        pytest.skip("its function changes")
    convert_(model, SOFTMAX)
    loaded = {key: value + 0.05 * torch.randn_like(value) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    model.load_state_dict(loaded, assign=True)
    want = run(model, images)
    if host in ("timm EVA02", "timm EVA, biases apart", "timm Swin V2", "torchvision Swin V2", "transformers DINOv3"):
        # they have no bias of keys, or set it to zero, and one was loaded; where keys are turned or normalized it counts
        if host != "timm EVA, biases apart":
            before = everything(model)
            with pytest.raises(InputError, match="has a bias of keys by now"):
                revert_(model)
            assert_same(before, everything(model))
        for _, module in places_of(model):
            bias = getattr(module, "attn", module).qkv.bias
            bias.data[len(bias) // 3 : 2 * len(bias) // 3] = 0
        want = run(model, images)
    revert_(model)
    torch.testing.assert_close(run(model, images), want, rtol=1e-5, atol=1e-5)


@pytest.mark.case("C8")
@pytest.mark.parametrize("host", THREE)
def test_what_was_frozen_moved_or_copied_since_comes_back_so(host) -> None:
    model = base(host)
    names = [name for name, _ in model.named_parameters()]
    convert_(model, SOFTMAX)
    model.requires_grad_(False)
    model = copy.deepcopy(model).double()
    want = run(model, IMAGES.double())
    revert_(model)
    torch.testing.assert_close(run(model, IMAGES.double()), want)
    assert [name for name, _ in model.named_parameters()] == names
    assert not any(value.requires_grad for value in model.parameters())
    assert {value.dtype for value in model.parameters()} == {torch.float64}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.case("C8")
def test_adapters_put_on_since_come_back_or_stop_it() -> None:
    peft = pytest.importorskip("peft")
    for host in THREE:
        model = base(host)
        convert_(model, SOFTMAX)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r".*attn\.(qkv|proj)|.*attention\.attn\.qkv", init_lora_weights=False)).eval()
        want, before = run(adapted, IMAGES), everything(model)
        if host == "timm":
            assert len(revert_(model)) == 3
            torch.testing.assert_close(run(adapted, IMAGES), want, rtol=1e-5, atol=1e-5)
        else:
            # one layer of ours was three of the host's, or a parameter without a layer
            with pytest.raises(InputError, match=r"since it was converted|in the place of its weight"):
                revert_(model)
            assert_same(before, everything(model))
            plain = adapted.merge_and_unload()
            revert_(plain)
            torch.testing.assert_close(run(plain, IMAGES), want, rtol=1e-4, atol=1e-5)


@pytest.mark.case("C20")
@pytest.mark.parametrize("cut", [slice(2), slice(1, None), slice(None, None, 2), None], ids=str)
def test_layers_that_were_cut_away(cut) -> None:
    model = base()
    convert_(model, SOFTMAX)
    model.blocks = nn.Sequential(*model.blocks[1:]) if cut is None else model.blocks[cut]
    # slices of nn.Sequential keep the names of their parts
    want, names = run(model, IMAGES), [f"blocks.{n}.attn" for n, _ in model.blocks.named_children()]
    assert [name for name, _ in places_of(model)] == names
    assert revert_(model) == names
    assert torch.equal(run(model, IMAGES), want)
    assert {type(block.attn).__module__.partition(".")[0] for block in model.blocks} == {"timm"}
    with pytest.raises(InputError, match="not converted"):
        revert_(model)


@pytest.mark.case("C20")
def test_places_that_hold_something_else_are_left() -> None:
    model = base()
    convert_(model, SOFTMAX)
    mine = model.blocks[1].attn = nn.Identity()
    assert revert_(model) == ["blocks.0.attn", "blocks.2.attn"]
    assert model.blocks[1].attn is mine
    model = base()
    convert_(model, SOFTMAX)
    model.blocks = nn.Sequential()
    with pytest.raises(InputError, match="nothing that was converted or inserted stands in this model"):
        revert_(model)


@pytest.mark.case("C20")
def test_nothing_is_put_back_where_one_place_cannot_be() -> None:
    model = base("transformers")
    convert_(model, SOFTMAX)
    THINGS["pruning"](model.layers[1].attention.attn, "qkv")
    before = everything(model)
    with pytest.raises(InputError, match=r"layers\.1\.attention\.attn\.qkv carries .* since it was converted"):
        revert_(model)
    assert_same(before, everything(model))


# -- deltas --------------------------------------------------------------------------------------------------------------------------------------------


def adapters(model: nn.Module) -> None:
    peft = pytest.importorskip("peft")
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["qkv"]))


CHANGES = {
    "another head": lambda model: model.reset_classifier(3),
    "adapters": adapters,
    "another patch embedding": lambda model: setattr(model.patch_embed, "proj", nn.Conv2d(3, 24, 4, 4)),
    "a table of another size": lambda model: setattr(model, "pos_embed", nn.Parameter(torch.zeros(1, 26, 24))),
    "fewer layers": lambda model: setattr(model, "blocks", model.blocks[:2]),
    "other order": lambda model: setattr(model, "blocks", nn.Sequential(*reversed(list(model.blocks)))),
    "pruned": lambda model: THINGS["pruning"](model, "head"),
    "parametrized": lambda model: THINGS["weight_norm"](model.blocks[0], "mlp.fc1"),
    "half": lambda model: model.half(),
    "a name": lambda model: (setattr(model, "classifier", model.head), delattr(model, "head")),
    "reverted by hand": lambda model: setattr(model.blocks[0], "attn", timm_vit().blocks[0].attn),
}


@pytest.mark.case("C6", "C7")
@pytest.mark.parametrize("change", CHANGES)
def test_what_could_never_be_loaded_is_not_saved(change, tmp_path) -> None:
    model = base()
    convert_(model, DENOISING)
    CHANGES[change](model)
    with pytest.raises(InputError, match=r"no longer what conversion makes of its base.*foveal\.save_pretrained"):
        save_delta(model, tmp_path / "delta.safetensors")
    assert not list(tmp_path.iterdir())


def written_before(model: nn.Module, path: Path, **tensors: torch.Tensor) -> None:
    """A file as versions before wrote it, which asked for nothing."""
    from safetensors import safe_open

    save_delta(model, path)
    with safe_open(path, "pt") as file:
        metadata, saved = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(saved | {name.replace("__", "."): value for name, value in tensors.items()}, path, metadata=metadata)


@pytest.mark.case("C6", "C7")
@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"head__weight": torch.zeros(3, 24)}, r"head\.weight is \(5, 24\) in it and \(3, 24\) in the file"),
        ({"blocks__0__attn__qkv__lora_A": torch.zeros(3)}, "has no place in it"),
        ({"head__bias": torch.full((5,), 1e-300, dtype=torch.float64)}, "cannot hold the torch.float64"),
    ],
)
def test_a_delta_is_loaded_whole_or_not_at_all(tensors, says, tmp_path) -> None:
    model = base()
    convert_(model, {"blocks.0.attn": ExternalAttention.Config(slots=3), "*": DENOISING})
    written_before(model, tmp_path / "delta.safetensors", **tensors)
    other = base()
    before = everything(other)
    with pytest.raises(InputError, match=says):
        load_delta(other, tmp_path / "delta.safetensors")
    assert_same(before, everything(other))
    with pytest.raises(InputError, match="not converted"):
        revert_(other)


@pytest.mark.case("C6")
def test_half_a_load_is_undone(tmp_path, monkeypatch) -> None:
    """Several conversions and an inserted block, of which the last step fails; and a write that fails."""
    from foveal.convert import _steps, delta

    model = base()
    convert_(model, DENOISING, where="blocks.0.attn", warm_start=0.1)
    convert_(model, SOFTMAX, where="blocks.1.attn")
    foveal.insert_(model, foveal.ExternalAttention2d.Config(slots=3), after="patch_embed.proj")
    with torch.no_grad():
        model.cls_token.add_(1)
    save_delta(model, tmp_path / "delta.safetensors")
    other = base()
    before = everything(other)
    with monkeypatch.context() as patch:
        patch.setattr(_steps, "insert_", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load_delta(other, tmp_path / "delta.safetensors")
    assert_same(before, everything(other))

    class Fails(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            if "foveal_attention" in name:
                raise MemoryError
            return super().__getitem__(name)

    with monkeypatch.context() as patch:
        fill = delta._fill
        patch.setattr(delta, "_fill", lambda own, saved: fill(Fails(own), saved))
        with pytest.raises(MemoryError):
            load_delta(other, tmp_path / "delta.safetensors")
    assert_same(before, everything(other))
    load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(run(other, IMAGES), run(model, IMAGES))


@pytest.mark.case("C11")
def test_a_model_with_parts_frozen_apart_is_saved_and_loaded(tmp_path) -> None:
    """Three layers stay three, on the other side too, where nothing is frozen."""
    model = base("transformers")
    model.layers[0].attention.q_proj.requires_grad_(False)
    convert_(model, DENOISING)
    with torch.no_grad():
        model.layers[0].attention.attn.qkv.v.weight.add_(0.1)
    save_delta(model, tmp_path / "delta.safetensors")
    other = base("transformers")
    load_delta(other, tmp_path / "delta.safetensors")
    assert torch.equal(run(other, IMAGES), run(model, IMAGES))
    foveal.save_pretrained(model, tmp_path / "model")
    assert torch.equal(run(foveal.from_pretrained(tmp_path / "model"), IMAGES), run(model, IMAGES))


# -- savers of others ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.case("C29")
def test_transformers_does_not_save_what_it_could_not_load(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    model = transformers.ViTForImageClassification(config).eval()
    convert_(model, SOFTMAX)
    for other in (model, model.vit, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for method in ("save_pretrained", "push_to_hub"):
            with pytest.raises(InputError, match=r"foveal\.(save_pretrained|push_to_hub)"):
                getattr(other, method)(str(tmp_path / "theirs"))
    assert not (tmp_path / "theirs").exists(), "nothing was written"
    foveal.save_pretrained(model, tmp_path / "ours")
    again = foveal.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    with pytest.raises(InputError, match="save_pretrained"):
        again.save_pretrained(tmp_path / "theirs")
    revert_(model)
    model.save_pretrained(tmp_path / "theirs")
    assert torch.equal(transformers.ViTForImageClassification.from_pretrained(tmp_path / "theirs").eval()(IMAGES).logits, model(IMAGES).logits)


@pytest.mark.case("C29")
def test_a_model_around_the_converted_one_warns(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    model = transformers.ViTForImageClassification(config)
    convert_(model.vit, SOFTMAX)
    with pytest.warns(UserWarning, match=r"ViTForImageClassification\.save_pretrained writes converted attentions.*foveal\.save_pretrained"):
        model.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.state_dict()
        save_delta(model.vit, tmp_path / "ours.safetensors")


@pytest.mark.case("C29")
def test_the_hubs_mixin_and_others_that_save_themselves(tmp_path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Mine(nn.Module, hub.PyTorchModelHubMixin):
        def __init__(self) -> None:
            super().__init__()
            self.net = timm_vit()

    model = Mine()
    convert_(model, SOFTMAX)
    with pytest.raises(InputError, match=r"Mine\.save_pretrained would write.*foveal\.save_pretrained"):
        model.save_pretrained(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    revert_(model)
    model.save_pretrained(tmp_path / "mine")
    ours = pytest.importorskip("foveal.models").ViT(size="tiny").build(img_size=32, in_chans=3, num_classes=5)
    convert_(ours, DENOISING)
    with pytest.warns(DeprecationWarning, match=r"foveal\.save_pretrained"):
        ours.save_pretrained(tmp_path / "ours")
    assert torch.equal(foveal.from_pretrained(tmp_path / "ours")(IMAGES), ours.eval()(IMAGES))
