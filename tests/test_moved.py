"""Packages of the lab still answer to the names that they had at the top."""

import json
import subprocess
import sys

import pytest

from foveal._moved import MOVED

CODE = """
import importlib, json, sys, warnings
warnings.simplefilter("always")
import foveal
for name, now in json.loads(sys.argv[1]).items():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        old = importlib.import_module(name)
    new = importlib.import_module(now)
    said = [str(one.message) for one in seen if issubclass(one.category, DeprecationWarning)]
    assert old is new, (old, new)
    assert new.__spec__.name == now, new.__spec__
    assert any(f"{name} is {now} now" in text for text in said), (name, said)
from foveal.training.recipe import Recipe as Old
from foveal.lab.training.recipe import Recipe as New
assert Old is New
import foveal.data.segmentation
assert foveal.data.segmentation is foveal.lab.data.segmentation
from foveal.compare.inspect import inspect_image
from foveal.lab import looking
assert looking is foveal.lab.inspect
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert looking.Opened is foveal.lab.inspect.LoadedModel
    assert type(looking.find_model("test_vit", attention="denoising").blocks[0].attn).__name__ == "DenoisingAttention"
    assert not looking.open_model("test_vit", random_weights=True).trained
assert [str(one.message).split(";")[0] for one in seen if "foveal.lab.inspect: " in str(one.message)] == [
    "foveal.lab.inspect: Opened is called LoadedModel now",
    "foveal.lab.inspect: find_model is called load_model now",
    "foveal.lab.inspect: open_model is called load_model and its argument weights now",
], seen
"""


def test_old_names_are_the_new_modules_down_to_their_classes_and_say_so() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE, json.dumps(MOVED)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_never_was_is_refused_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"foveal\.trainings"):
        __import__("foveal.trainings")
    with pytest.warns(DeprecationWarning, match=r"foveal\.training"), pytest.raises(ModuleNotFoundError, match=r"nowhere"):
        __import__("foveal.training.nowhere")
