"""Packages of the lab still answer to the names that they had at the top."""

import subprocess
import sys

import pytest

from foveal._moved import MOVED

CODE = """
import importlib, pickle, sys, warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import foveal
    old = importlib.import_module("foveal.{old}")
    new = importlib.import_module("foveal.lab.{old}")
    {more}
said = [str(one.message) for one in seen if issubclass(one.category, DeprecationWarning) and "foveal." in str(one.message)]
assert old is new, (old, new)
assert new.__spec__.name == "foveal.lab.{old}", new.__spec__
assert said and "foveal.{old} is foveal.lab.{old} now" in said[0], said
"""


@pytest.mark.parametrize("name", MOVED)
def test_the_old_name_is_the_new_module_and_says_so(name) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(old=name, more="")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_inside_and_their_classes_are_the_same_objects() -> None:
    more = """from foveal.training.recipe import Recipe as Old
    from foveal.lab.training.recipe import Recipe as New
    assert Old is New
    import foveal.data.segmentation
    assert foveal.data.segmentation is foveal.lab.data.segmentation
    """
    done = subprocess.run([sys.executable, "-c", CODE.format(old="training", more=more)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_never_was_is_refused_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"foveal\.trainings"):
        __import__("foveal.trainings")
    with pytest.warns(DeprecationWarning, match=r"foveal\.training"), pytest.raises(ModuleNotFoundError, match=r"nowhere"):
        __import__("foveal.training.nowhere")
