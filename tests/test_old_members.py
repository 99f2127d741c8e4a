"""Names of settings that were other ones before still work, say so, and files keep the words of their day."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import foveal
from foveal import InputError
from foveal._registry import Registry
from foveal.attention import SoftmaxAttention
from foveal.lab import tasks
from foveal.lab.data import ImageNet
from foveal.lab.data._bundle import Data
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import Classification, stereo
from foveal.lab.training import Recipe
from foveal.models import ModelConfig, ViT
from foveal.models.points import PCT, PointTransformer
from foveal.timm import TimmModel


def test_a_recipe_of_before_loads_without_a_word(tmp_path) -> None:
    recipe = get_recipe("dna-vit-base-imagenet") if "dna-vit-base-imagenet" in foveal.lab.recipes.list_recipes() else _with_both(tmp_path)
    values = recipe.to_dict()
    old = {"normalization": "colours", "smoke_name": "miniature_name"}
    for part in ("data", "model"):
        values[part] = {old.get(key, key): "half" if value == "0.5" else value for key, value in values[part].items()}
    assert "colours" in values["data"]
    assert "miniature_name" in values["model"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Recipe.from_dict(values) == recipe


def _with_both(root) -> Recipe:
    return Recipe(data=ImageNet(root=root, normalization="0.5"), model=TimmModel(name="vit_tiny_patch16_224", smoke_name="test_vit"), task=Classification())


def test_fields_under_both_names_are_refused(tmp_path) -> None:
    values = _with_both(tmp_path).to_dict()
    values["data"]["colours"] = "half"
    with pytest.raises(InputError, match="ImageNet got normalization and colours, which is its old name"):
        Recipe.from_dict(values)


def test_settings_are_made_and_asked_with_old_names(tmp_path) -> None:
    with pytest.warns(DeprecationWarning, match="colours is called normalization"), pytest.warns(DeprecationWarning, match="'half' is called '0.5'"):
        made = ImageNet(root=tmp_path, colours="half")
    assert made == ImageNet(root=tmp_path, normalization="0.5")
    with pytest.warns(DeprecationWarning, match="colours is called normalization"):
        assert made.colours == "0.5"
    with pytest.warns(DeprecationWarning, match="miniature_name is called smoke_name"):
        assert TimmModel(name="a", miniature_name="b").smoke_name == "b"
    with pytest.warns(DeprecationWarning, match="neighbours is called neighbors"):
        assert PointTransformer(neighbours=4) == PointTransformer(neighbors=4)
    with pytest.warns(DeprecationWarning, match="neighbours is called neighbors"):
        assert PCT(width=4, npoints=(8, 4), neighbours=2).neighbors == 2
    with pytest.raises(TypeError, match="unexpected keyword argument 'colors'"):
        ImageNet(root=tmp_path, colors="half")


def test_methods_of_users_under_old_names_are_asked() -> None:
    with pytest.warns(DeprecationWarning, match=r"MyData: stand_in is called smoke_data"):

        @dataclass(frozen=True, kw_only=True)
        class MyData(Data):
            def load(self):
                raise NotImplementedError

            def stand_in(self):
                return "few"

    assert MyData().smoke_data() == "few"
    with pytest.warns(DeprecationWarning, match="miniature is called smoke_model"):

        @dataclass(frozen=True, kw_only=True)
        class MyModel(ViT):
            def miniature(self):
                return "small"

    assert MyModel().smoke_model() == "small"
    with pytest.warns(DeprecationWarning, match="miniature is called smoke_model"):
        assert isinstance(ViT().miniature(), ModelConfig)
    with pytest.warns(DeprecationWarning, match="headline is called primary_metric"):

        @dataclass(frozen=True, kw_only=True)
        class MyTask(Classification):
            headline: ClassVar = tasks.PrimaryMetric("share", "share")

    assert MyTask().primary_metric.name == "share"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(tasks, "Headline", "PrimaryMetric"), (stereo, "colour_disparity", "color_disparity"), (foveal.analysis, "neighbour_angles", "neighbor_angles")],
)
def test_members_under_old_names(module, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is called {new}"):
        assert getattr(module, old) is getattr(module, new)


def test_rotary_positions_under_their_old_name_turn_as_well() -> None:
    torch.manual_seed(0)
    attention, x, turn = SoftmaxAttention(16, num_heads=2), torch.randn(2, 5, 16), torch.linalg.qr(torch.randn(8, 8))[0]
    want = attention(x, rope=lambda heads: heads.cumsum(2) @ turn)
    assert not torch.allclose(want, attention(x))
    with pytest.warns(DeprecationWarning, match="rotate is called rope"):
        assert torch.equal(attention(x, rotate=lambda heads: heads.cumsum(2) @ turn), want)


def test_a_registry_holds_a_name_once_and_says_what_is_near() -> None:
    things: Registry[int] = Registry("thing")
    things.add("one", 1)
    with pytest.raises(InputError, match="the thing 'one' is already registered: 1"):
        things.add("one", 2)
    with pytest.raises(InputError, match="one"):
        things["onee"]
    assert (dict(things), "one" in things, "two" in things, len(things), things.get("two")) == ({"one": 1}, True, False, 1, None)
    assert things.remove("one") == 1
    assert not things
