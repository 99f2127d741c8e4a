"""An LXMERT that begins with the one of a run: which weights are the run's, which are new, and what is refused by its name before a step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from foveal import fit_dictionaries_
from foveal.lab.data import RegionScenes, RegionSentences
from foveal.lab.recipes import get_recipe
from foveal.lab.training import build_model, fit, load_data, load_run
from foveal.models import Lxmert, LxmertPretraining, UpDownCaptioner

NEEDS = {"words": 30, "region_dim": 6, "outputs": 3, "images": 1}
BEFORE = {"words": 31, "region_dim": 6, "outputs": 5, "objects": 4, "attributes": 5, "mask": 30}
SIZES = {"width": 16, "num_heads": 2, "l_layers": 2, "r_layers": 1, "x_layers": 2, "entries_vision": 5, "entries_language": 4, "init": "normal", "dropout": 0.0}
SMALL = Lxmert(**SIZES)


def pretrained(folder: Path, *, recipe: bool = True, **changes: object) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as a run of pre-training leaves it, every weight another than at the start; and what is in it."""
    settings = LxmertPretraining(**SIZES | changes)
    torch.manual_seed(1)
    model = settings.build(**BEFORE)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value))
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    if recipe:
        (folder / "recipe.json").write_text(json.dumps(replace(get_recipe("region-sentences"), model=settings).to_dict(), default=str))
    return folder / "model.safetensors", model.state_dict()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("catt", "share", "second"), [("none", False, "dictionary"), ("single", False, "dictionary"), ("chained", True, "in_sample")])
def test_the_trunk_is_the_runs_and_the_head_is_new(catt, share, second, images, tmp_path) -> None:
    path, before = pretrained(tmp_path, catt=catt, share=share, second=second)
    settings = replace(SMALL, catt=catt, share=share, second=second, start=path)
    torch.manual_seed(7)
    after = settings.build(**NEEDS | {"images": images})
    torch.manual_seed(7)
    fresh = replace(settings, start=None).build(**NEEDS | {"images": images}).state_dict()
    new = settings.new_parameters(after)
    for name, value in after.state_dict().items():
        if name.startswith("answer_head."):
            assert torch.equal(value, fresh[name]), name
            assert name in new
        else:
            # of 31 words, one of which stands for hidden ones, the 30 that the questions have
            assert torch.equal(value, before[f"model.{name}"][: len(value)]), name
            assert not torch.equal(value, fresh[name]), name
            assert name not in new
    assert settings.begin_(after, None, 0) == [f"{len(list(after.parameters())) - 6} weights are those of {path}; new are 6 of the head"]
    frozen = {name for name, value in replace(settings, start=None).build(**NEEDS | {"images": images}).named_parameters() if not value.requires_grad}
    assert {name for name, value in after.named_parameters() if not value.requires_grad} == frozen


def test_what_it_says_is_what_the_run_says_of_the_same(tmp_path) -> None:
    """The pooled sentence, through both networks."""
    path, before = pretrained(tmp_path)
    torch.manual_seed(0)
    ran = LxmertPretraining(**SIZES).build(**BEFORE).eval()
    ran.load_state_dict(before)
    model = replace(SMALL, start=path).build(**NEEDS).eval()
    inputs = {"input_ids": torch.randint(1, 30, (3, 4)), "visual_feats": torch.randn(3, 5, 6), "visual_pos": torch.rand(3, 5, 4)}
    want = ran.model.lxmert(**inputs)
    got = model.lxmert(**inputs)
    for name in ("pooled_output", "language_output", "vision_output"):
        assert torch.equal(got[name], want[name])


@pytest.mark.parametrize(("catt", "share"), [("single", False), ("chained", False), ("chained", True)])
def test_catt_is_put_into_a_run_that_had_none(catt, share, tmp_path) -> None:
    """The function of the run; second weights are copies of what it learned, dictionaries are fitted to what it embeds."""
    path, before = pretrained(tmp_path, catt="none")
    plain = replace(SMALL, catt="none", start=path).build(**NEEDS).eval()
    settings = replace(SMALL, catt=catt, share=share, init="kmeans", start=path)
    model = settings.build(**NEEDS).eval()
    encoder = model.lxmert.encoder
    if not share:
        assert torch.equal(encoder.catt.layer[-1].intermediate.dense.weight, before["model.lxmert.encoder.layer.1.intermediate.dense.weight"])
    inputs = {"input_ids": torch.randint(1, 30, (9, 4)), "visual_feats": torch.randn(9, 5, 6), "visual_pos": torch.rand(9, 5, 4)}
    with pytest.raises(ValueError, match="was not fitted"):
        model(inputs)
    fit_dictionaries_(model, [inputs])
    torch.testing.assert_close(model.lxmert(**inputs).pooled_output, plain.lxmert(**inputs).pooled_output, rtol=0, atol=1e-5)
    new = settings.new_parameters(model)
    assert {name.partition(".")[0] for name in new} == {"answer_head", "lxmert"}
    assert all(".encoder.catt." in name for name in new if name.startswith("lxmert."))
    count = sum(".encoder.catt." in name for name in new)
    assert settings.begin_(model, None, 0)[0].endswith(f"new are {count} of CATT and 6 of the head")


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ({"width": 32}, {}, r"another network: .*embeddings\.word_embeddings\.weight is \(30, 32\), wanted \(30, 16\)"),
        ({"l_layers": 3}, {}, r"another network: .*encoder\.layer\.2"),
        ({"x_layers": 1}, {}, r"another network: .*encoder\.x_layers\.1"),
        ({"entries_vision": 6}, {}, r"another network: .*dictionary_vision\.entries is \(6, 16\), wanted \(5, 16\)"),
        ({}, {"catt": "none"}, "holds an LXMERT with CATT, and this one is to have none"),
        ({"recipe": False}, {"second": "in_sample"}, r"another network: .*dictionary_language\.entries"),
        ({"recipe": False}, {"share": True}, r"another network: .*catt\.layer\.0"),
        ({"recipe": False}, {"catt": "chained"}, r"another network: .*catt\.layer\.1"),
        # of these no shape tells
        ({"num_heads": 4}, {}, "a run with num_heads=4, and this is to have num_heads=2"),
        ({"share": True}, {"share": True, "catt": "chained"}, "catt=single, and this is to have catt=chained"),
        ({"cross": "g2l"}, {}, "cross=g2l"),
        ({"compat": True}, {}, "compat=True"),
    ],
)
def test_other_networks_are_refused_by_name(before, now, says, tmp_path) -> None:
    path, _ = pretrained(tmp_path, **before)
    with pytest.raises(ValueError, match=says) as caught:
        replace(SMALL, **now, start=path).build(**NEEDS)
    assert str(path) in str(caught.value)


def test_data_that_do_not_fit_are_refused(tmp_path) -> None:
    path, _ = pretrained(tmp_path)
    model = replace(SMALL, start=path)
    with pytest.raises(ValueError, match=r"word_embeddings\.weight is \(31, 16\), wanted \(32, 16\)"):
        model.build(**NEEDS | {"words": 32})
    with pytest.raises(ValueError, match=r"encoder\.visn_fc\.visn_fc\.weight"):
        model.build(**NEEDS | {"region_dim": 7})
    assert model.build(**NEEDS | {"words": 31}).lxmert.embeddings.word_embeddings.num_embeddings == 31


def test_broken_files_are_named(tmp_path) -> None:
    path, before = pretrained(tmp_path)
    whole = path.read_bytes()

    def refused(says: str) -> None:
        with pytest.raises(ValueError, match=says) as caught:
            replace(SMALL, start=path).build(**NEEDS)
        assert str(tmp_path) in str(caught.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused("cannot read weights")
    path.write_bytes(whole)
    (tmp_path / "recipe.json").write_bytes(b"\xff{")
    refused(r"recipe\.json is no JSON")
    (tmp_path / "recipe.json").write_text("[]")
    refused("says nothing of a model")
    (tmp_path / "recipe.json").unlink()
    save_file({name: value for name, value in before.items() if not name.endswith("pooler.dense.bias")}, path)
    refused(r"another network: .*pooler\.dense\.bias")
    save_file(before | {"model.lxmert.pooler.dense.bias": torch.zeros(16, dtype=torch.int64)}, path)
    refused(r"torch\.int64 as pooler\.dense\.bias")
    save_file(UpDownCaptioner(6, 30, 8, 8).state_dict(), path)
    refused("holds no LXMERT: no name in it begins with model.lxmert. or lxmert.")
    save_file({}, path)
    refused("the first is none")
    path.unlink()
    refused("cannot read weights")
    with pytest.raises(ValueError, match="both an LXMERT to begin with"):
        Lxmert(base="folder", start=path)
    with pytest.raises(ValueError, match="start is an LXMERT that was pre-trained, and this is to be pre-trained"):
        LxmertPretraining(start=path).build(**BEFORE)
    assert SMALL.smoke_model() == replace(SMALL, start=path).smoke_model()


def test_a_run_goes_on_from_a_run_of_pretraining(tmp_path) -> None:
    """As recipes have it: data, training, what is said of it, and the run is read though what it began with is gone."""
    counts = {"train_scenes": 16, "val_scenes": 8, "test_scenes": 8}
    short = {"steps": 2, "batch_size": 8, "eval_every": 2, "checkpoint_every": 2, "trackers": ()}
    settings = {**SIZES, "init": "kmeans"}
    words = replace(get_recipe("region-sentences"), data=RegionSentences(**counts), model=LxmertPretraining(**settings), **short)
    fit(words, tmp_path / "words", quiet=True)
    path = tmp_path / "words" / "model.safetensors"
    asked = replace(get_recipe("region-questions"), data=RegionScenes(**counts), model=Lxmert(**settings, start=path), **short)
    before, began = load_file(path), build_model(asked, load_data(asked.data)).state_dict()
    for name, value in began.items():
        if name.startswith("lxmert."):
            assert torch.equal(value, before[f"model.{name}"][: len(value)]), name
    still = replace(asked, optim=replace(asked.optim, lr=1e-12, min_lr=1e-13, weight_decay=0.0))
    fit(still, tmp_path / "questions", quiet=True)
    for name, value in load_file(tmp_path / "questions" / "model.safetensors").items():
        torch.testing.assert_close(value, began[name], rtol=0, atol=1e-9)
    fit(replace(asked, model=replace(asked.model, start=tmp_path / "questions" / "model.safetensors")), tmp_path / "further", quiet=True)
    path.unlink()
    assert load_run(tmp_path / "questions")[0] == still
    with pytest.raises(ValueError, match="cannot read weights"):
        fit(asked, tmp_path / "without", quiet=True)
    assert not (tmp_path / "without" / "recipe.json").exists()
