"""Networks that begin with a file: what was trained is built again without it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal.lab.recipes import get_recipe, list_recipes, smoke
from foveal.lab.training import build_model, load_data
from foveal.lab.training.models import build_alike
from foveal.models import MODELS

BEGIN = sorted(name for name, kind in MODELS.items() if "start" in getattr(kind, "__dataclass_fields__", {}))


def test_these_begin_with_a_file() -> None:
    assert BEGIN == ["Captioner", "Lxmert", "LxmertPretraining", "PSMNet", "VideoTransformer"]


@pytest.mark.parametrize(("name", "refused"), [("shift-stereo", True), ("moving-digits", True), ("region-questions", True), ("scene-captions", False)])
def test_a_run_is_built_again_without_the_file_that_it_began_with(name, refused, tmp_path, monkeypatch) -> None:
    if name == "region-questions":
        pytest.importorskip("transformers")
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    recipe = smoke(get_recipe(name))
    bundle = load_data(recipe.data)
    begun = replace(recipe, model=replace(recipe.model, start=tmp_path / "gone.safetensors"))
    if refused:
        with pytest.raises(ValueError, match="gone"):
            build_model(begun, bundle)
    again, want = build_alike(begun, bundle).state_dict(), build_model(recipe, bundle).state_dict()
    assert again.keys() == want.keys()
    assert all(torch.equal(value, want[key]) for key, value in again.items())
    assert begun.model.blank() == recipe.model
    assert recipe.model.blank() is recipe.model
    assert begun.model.start == Path(tmp_path / "gone.safetensors"), "what it says of itself stays"


def test_no_other_recipe_changes() -> None:
    for name in list_recipes():
        recipe = smoke(get_recipe(name))
        assert recipe.model.blank() is recipe.model, name
