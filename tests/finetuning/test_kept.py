"""Weights are read once, and a finished run is whole without the files that it began with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import foveal
from foveal._errors import InputError
from foveal.lab.finetuning import fine_tune, opening, write_page
from foveal.lab.networks import Pretrained, find_source
from foveal.lab.networks import _handed as handed
from foveal.lab.networks._sources import SOURCES
from foveal.lab.training import Recipe, build_model, fit, load_data, load_run

QUICK = {"img_size": 160, "batch_size": 4, "epochs": 1.0}


def quick(model: str, photographs: Path, **options: object) -> Recipe:
    return replace(fine_tune(model, photographs, **(QUICK | options)), trackers=(), steps=1)  # type: ignore[arg-type]


def vit_file(folder: Path) -> Path:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(timm.create_model("test_vit").state_dict(), folder / "vit.safetensors")
    return folder / "vit.safetensors"


def vit_folder(folder: Path) -> Path:
    """A converted network of timm, as save_pretrained keeps it."""
    import timm

    torch.manual_seed(1)
    model = timm.create_model("test_vit")
    foveal.convert_(model, foveal.DenoisingAttention.Config(), where="blocks.0.attn")
    return foveal.save_pretrained(model, folder / "saved")


def transformers_folder(folder: Path) -> Path:
    import transformers

    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8, num_labels=5)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder / "hf")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2}
    (folder / "hf/preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return folder / "hf"


@pytest.mark.parametrize("kind", ["file", "folder", "transformers"])
def test_a_finished_run_needs_nothing_that_it_began_with(kind: str, photographs: Path, tmp_path: Path) -> None:
    source = {"file": vit_file, "folder": vit_folder, "transformers": transformers_folder}[kind](tmp_path)
    options: dict[str, object] = {"attention": "denoising", "where": "last_stage"} if kind == "file" else {"img_size": None}
    recipe = quick("test_vit" if kind == "file" else str(source), photographs, **({"weights": source} if kind == "file" else {}), **options)
    fit(recipe, tmp_path / "run", quiet=True)
    images = torch.stack([load_data(recipe.data).val[index][0] for index in range(2)])
    wanted = load_run(tmp_path / "run")[2](images)
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    with pytest.raises((InputError, OSError)):
        build_model(recipe, load_data(recipe.data))
    _, _, model = load_run(tmp_path / "run")
    assert torch.equal(model(images), wanted)
    assert write_page(tmp_path / "run").stat().st_size > 10_000


def test_weights_are_read_once_from_composing_to_the_page(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, read = vit_file(tmp_path), []
    build = SOURCES["timm"].build

    def counted(name: str, weights: str, img_size: int | None) -> torch.nn.Module:
        read.append(weights)
        return build(name, weights, img_size)

    monkeypatch.setitem(SOURCES, "timm", replace(SOURCES["timm"], build=counted))
    recipe = quick("test_vit", photographs, weights=weights, attention="external")
    opening(recipe)
    fit(recipe, tmp_path / "run", quiet=True)
    write_page(tmp_path / "run")
    assert [what for what in read if what != "random"] == [str(weights)]


def test_a_network_that_is_handed_over_is_the_one_that_would_be_built(photographs: Path, tmp_path: Path) -> None:
    weights = vit_file(tmp_path)
    recipe = quick("test_vit", photographs, weights=weights, seed=3)
    bundle = load_data(recipe.data)
    assert handed._waiting
    first = build_model(recipe, bundle).state_dict()
    assert not handed._waiting, "taken"
    again = build_model(recipe, bundle).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items()), "the new head too"
    quick("test_vit", photographs, weights=weights, seed=3)
    other = build_model(replace(recipe, seed=4), bundle).state_dict()
    assert handed._waiting, "a run with another seed draws other random numbers before the head"
    assert not torch.equal(other["head.weight"], first["head.weight"])


def test_a_saved_folder_says_its_own_image_size(photographs: Path, tmp_path: Path) -> None:
    import timm

    foveal.save_pretrained(timm.create_model("test_vit", img_size=96), tmp_path / "small")
    library, name = find_source(str(tmp_path / "small"))
    assert SOURCES[library].preparation(name).img_size == 96
    assert quick(str(tmp_path / "small"), photographs, img_size=None).data.img_size == 96  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="for images of 96 × 96, got img_size=160"):
        quick(str(tmp_path / "small"), photographs)


def test_a_saved_folder_of_torchvision_is_taken(photographs: Path, tmp_path: Path) -> None:
    import torchvision

    foveal.save_pretrained(torchvision.models.shufflenet_v2_x1_5(), tmp_path / "net", base="torchvision:shufflenet_v2_x1_5")
    recipe = quick(str(tmp_path / "net"), photographs, img_size=32)
    assert isinstance(recipe.model, Pretrained)
    assert recipe.data.crop_pct == pytest.approx(224 / 232)  # type: ignore[attr-defined]
    assert build_model(recipe, load_data(recipe.data)).eval()(torch.randn(1, 3, 32, 32)).shape == (1, 2)
