"""Fine-tuning of other people's classifiers: where weights come from, what moves and how fast, that runs go on, and what is said."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from foveal._errors import InputError
from foveal.cli import main
from foveal.lab.data import Photographs
from foveal.lab.finetuning import fine_tune
from foveal.lab.finetuning._judged import Judged, reliability
from foveal.lab.networks import Pretrained, find_source
from foveal.lab.networks._heads import replace_head_
from foveal.lab.training import Interrupted, Recipe, build_model, fit, load_data, read_json
from foveal.lab.training.early import Early
from foveal.lab.training.groups import grouped, hold

VIT = {"weights": "random", "img_size": 160, "batch_size": 4, "epochs": 1.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of timm's weights, which stand for pretrained ones."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return file


def quick(photographs: Path, **options: object) -> Recipe:
    return replace(fine_tune("test_vit", photographs, **(VIT | options)), trackers=())  # type: ignore[arg-type]


def test_weights_of_a_file_are_there_and_the_head_is_new(photographs: Path, weights: Path) -> None:
    from safetensors.torch import load_file

    recipe = quick(photographs, weights=weights, attention="denoising", where="last_stage")
    model = build_model(recipe, load_data(recipe.data))
    saved, own = load_file(weights), model.state_dict()
    assert torch.equal(own["blocks.0.attn.qkv.weight"], saved["blocks.0.attn.qkv.weight"])
    assert own["head.weight"].shape == (2, saved["head.weight"].shape[1])
    new = recipe.model.new_parameters(model)
    last = max(int(name.split(".")[1]) for name in own if name.startswith("blocks."))
    assert {"head.weight", "head.bias"} < new
    assert {name.split(".")[1] for name in new if name.startswith("blocks.")} == {str(last - 1), str(last)}, "a quarter of six, rounded"
    assert "blocks.0.attn.qkv.weight" not in new


def test_weights_that_cannot_be_loaded_are_an_error(photographs: Path, weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    part = load_file(weights)
    del part["blocks.0.attn.qkv.weight"]
    save_file(part, tmp_path / "part.safetensors")
    for given, said in ((tmp_path / "none.safetensors", "is no file"), (tmp_path / "part.safetensors", r"missing blocks\.0\.attn\.qkv\.weight")):
        with pytest.raises(InputError, match=said):
            quick(photographs, weights=given)
    with pytest.raises(InputError, match="no pretrained weights of vit_small_patch16_18x2_224"):
        fine_tune("vit_small_patch16_18x2_224", photographs)


def test_other_weights_than_a_run_began_with_are_refused(photographs: Path, weights: Path) -> None:
    recipe = quick(photographs, weights=weights)
    assert recipe.model.digest  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="are other ones than when this run began"):
        replace(recipe.model, weights="random").build(img_size=160, num_classes=2, in_chans=3)  # type: ignore[type-var]


@pytest.mark.parametrize("options", [{}, {"attention": "denoising"}, {"freeze": "all-but-new", "attention": "external", "calibrate": 0}, {"lora": 2}])
def test_every_trainable_parameter_is_in_one_group_and_moves(photographs: Path, weights: Path, options: dict[str, object]) -> None:
    recipe = quick(photographs, weights=weights, **options)
    bundle = load_data(recipe.data)
    model = build_model(recipe, bundle)
    groups = grouped(model, recipe)
    held = [id(value) for group in groups for value in group["params"]]
    learns = {id(value): name for name, value in model.named_parameters() if value.requires_grad}
    assert sorted(held) == sorted(learns)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    images = torch.stack([bundle.train[n][0] for n in range(4)])
    # twice, as the gradient of a low-rank adapter's first factor is 0 while the second is 0
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(learns.values())


def test_rates_fall_with_depth_and_what_is_new_has_its_own(photographs: Path, weights: Path) -> None:
    recipe = quick(photographs, weights=weights, attention="denoising", lr=1e-3, new_lr=5e-3, layer_decay=0.5)
    model = build_model(recipe, load_data(recipe.data))
    groups = grouped(model, recipe)
    names = {id(value): name for name, value in model.named_parameters()}
    scale = {names[id(value)]: group["lr_scale"] for group in groups for value in group["params"]}
    assert scale["head.weight"] == scale[next(name for name in recipe.model.new_parameters(model) if "blocks.0" in name)] == 5
    # timm counts the norm behind the blocks to the last of them
    blocks = [scale[f"blocks.{n}.mlp.fc1.weight"] for n in range(len(model.blocks))]
    assert scale["norm.weight"] == 1
    assert blocks == pytest.approx([0.5 ** (len(blocks) - 1 - n) for n in range(len(blocks))])
    assert scale["patch_embed.proj.weight"] == pytest.approx(0.5 ** len(blocks))
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    early = replace(recipe, steps=10, optim=replace(recipe.optim, new_first=0.3))
    hold(optimizer, early, 2)
    assert {group["lr"] == 0 for group in optimizer.param_groups if group["pretrained"]} == {True}
    assert all(group["lr"] > 0 for group in optimizer.param_groups if not group["pretrained"])
    optimizer = torch.optim.AdamW(grouped(model, recipe), lr=1e-3)
    hold(optimizer, early, 3)
    assert all(group["lr"] > 0 for group in optimizer.param_groups)


def test_a_run_that_was_stopped_ends_as_if_it_had_not(photographs: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(quick(photographs, weights=weights, attention="denoising", calibrate=1), steps=4, eval_every=1, checkpoint_every=2, patience=2)
    whole = fit(recipe, tmp_path / "whole", quiet=True)
    saw = Early.saw

    def stop(self: Early, *args: object) -> None:
        saw(self, *args)  # type: ignore[arg-type]
        if args[0]["step"] == 3:  # type: ignore[index]
            raise KeyboardInterrupt

    monkeypatch.setattr(Early, "saw", stop)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        fit(recipe, tmp_path / "parts", quiet=True)
    monkeypatch.setattr(Early, "saw", saw)
    again = fit(recipe, tmp_path / "parts", resume=True, quiet=True)
    assert again == whole
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert whole["split"] == "val", "a folder without a test has no test number"


def test_training_ends_early_with_the_best_weights(tmp_path: Path, photographs: Path, weights: Path) -> None:
    recipe = replace(quick(photographs, weights=weights), patience=2)
    early, net = Early(recipe, tmp_path, 0), nn.Linear(1, 1, bias=False)
    over = []
    for step, (accuracy, loss) in enumerate([(0.5, 1.0), (0.5, 0.9), (0.4, 0.1), (0.5, 0.95)], 1):
        net.weight.data.fill_(step)
        early.saw({"step": step, "val_accuracy": accuracy, "val_loss": loss}, net, True)
        over.append(early.over)
    early.take_best_(net)
    assert over == [False, False, False, True]
    assert net.weight.item() == 2, "as accurate as the first, with a smaller loss"


def test_a_recipe_is_itself_after_json(photographs: Path, weights: Path) -> None:
    recipe = quick(photographs, weights=weights, attention="denoising", where="every_2nd")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_second_place_is_converted(photographs: Path) -> None:
    model = quick(photographs, attention="denoising", where="every_2nd").model.build(img_size=160, in_chans=3, num_classes=2)
    assert [swap.name for swap in model.conversion.swaps] == [f"blocks.{n}.attn" for n in (0, 2, 4)]  # type: ignore[union-attr]


def test_the_control_of_an_insertion_has_no_attention_and_begins_as_nothing(photographs: Path) -> None:
    base = Pretrained(library="timm", name="test_resnet", weights="random")
    images, outputs = torch.randn(2, 3, 64, 64), {}
    for name, model in {"own": base, **{n: replace(base, attention=n, insert_after=("layer3",)) for n in ("pointwise", "external_2d")}}.items():
        torch.manual_seed(0)
        built = model.build(img_size=64, num_classes=2).eval()
        outputs[name] = built.forward_features(images)  # type: ignore[operator]
        new = model.new_parameters(built)
        assert any("foveal_attention" in key for key in new) == (name != "own")
    assert torch.equal(outputs["own"], outputs["pointwise"])
    assert torch.equal(outputs["own"], outputs["external_2d"])


def test_frozen_statistics_stay() -> None:
    model = Pretrained(library="timm", name="test_resnet", weights="random", freeze="all-but-head").build(img_size=64, num_classes=2)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]


def test_torchvision_and_transformers(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8, num_labels=5)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text(
        json.dumps(
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        )
    )
    library, name = find_source(str(tmp_path / "vit"))
    assert library == "transformers"
    model = Pretrained(library=library, name=name, attention="denoising").build(img_size=32, num_classes=3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert {"model.classifier.weight", "model.classifier.bias"} < set(Pretrained(library=library, name=name).new_parameters(model))
    assert find_source("mnasnet0_5") == ("torchvision", "mnasnet0_5")
    net = Pretrained(library="torchvision", name="mnasnet0_5", weights="random").build(img_size=32, num_classes=3)
    assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(InputError, match="has 2 layers of 5 outputs, expected one head"):
        replace_head_(nn.Sequential(nn.Linear(8, 5), nn.Linear(8, 5)), 3)


def test_a_split_that_is_made_is_said_and_stratified(photographs: Path) -> None:
    bundle = load_data(Photographs(root=photographs, img_size=32, val_fraction=0.34))
    assert any("no val folder: 8 images train, 4 validate" in note for note in bundle.notes)
    assert sorted(label for _, label in bundle.val.files) == [0, 0, 1, 1]  # type: ignore[attr-defined]


def test_reliability_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.85, 0.15], [0.6, 0.4], [0.45, 0.55]], dtype=torch.float64)
    found = Judged(probabilities, torch.tensor([0, 1, 0, 1]), torch.tensor([[2, 0], [1, 1]]))
    sure = reliability(found)
    assert sure.counts == [2, 2]
    assert sure.certainty == pytest.approx([0.575, 0.875])
    assert sure.accuracy == [1.0, 0.5]
    assert sure.error == pytest.approx((2 * 0.425 + 2 * 0.375) / 4)


def test_the_command_ends_with_a_page(photographs: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["--model", "test_vit", "--weights", str(weights), "--data", str(photographs), "--attention", "denoising", "--img-size", "160"]
    assert main(["train", "fine-tune", *words, "--epochs", "1", "--batch-size", "5", "--out", str(run)]) == 0
    said, page = capsys.readouterr().out, (run / "run.html").read_text()
    for part in ("10 images: left 5, right 5", "are new (6 places hold another attention)", "there is no test split"):
        assert part in said
    for part in ("no test number", "blocks.5.attn", "as it came", "<svg", "Attention rollout"):
        assert part in page
    hits, images = (int(number) for number in re.findall(r"<h1>(\d+) of (\d+) validation", page)[0])
    z, share = 1.959964, hits / images
    middle, half = share + z * z / (2 * images), z * (share * (1 - share) / images + z * z / (4 * images**2)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / images) for sign in (-1, 1))
    assert f"between {100 * low:.0f} and {100 * high:.0f} %" in page
    assert page.count("no test split") == 1
    assert read_json(run / "metrics.json")["split"] == "val"
    # what is named next is taken
    assert f"next:\n  foveal eval {run}\n  foveal inspect {run} IMAGE\n" in said
    assert main(["inspect", str(run), str(photographs / "left" / "0.png"), "--truth", "left", "--out", str(tmp_path / "drawn")]) == 0
    assert "blocks.5.attn: λ" in capsys.readouterr().out
    assert {"attention.html", "maps.png", "rollout.png"} <= {path.name for path in (tmp_path / "drawn").iterdir()}
    for bad, about in ((["--lora", "x"], "takes a rank"), (["--where", "last_stage"], "none is named"), (["--data", "nowhere"], "does not exist")):
        given = ["--model", "test_vit", "--weights", "random", *([] if bad[0] == "--data" else ["--data", str(photographs)]), *bad]
        assert main(["train", "fine-tune", *given]) == 2
        assert about in capsys.readouterr().err
    shutil.rmtree(run)
