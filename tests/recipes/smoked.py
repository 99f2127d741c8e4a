"""Recipes in miniature for tests, where what they need is installed: extras that not every machine has are no reason to fail."""

from importlib.util import find_spec

import pytest

from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.tasks import Diffusion
from foveal.lab.training import Recipe

__all__ = ["lacking", "smoked"]


def lacking(recipe: Recipe) -> str:
    """Which package out of an extra of its own it needs and that is not installed; empty if none."""
    needs = {"diffusers": isinstance(recipe.task, Diffusion), "h5py": type(recipe.data).__name__.endswith("H5")}
    return ", ".join(name for name, needed in needs.items() if needed and find_spec(name) is None)


def smoked(name: str, **changes: int) -> Recipe:
    """The recipe of this name in miniature; a test that asks for what cannot run here is skipped, and says why."""
    if lacking(get_recipe(name)):
        pytest.skip(f"{name} needs {lacking(get_recipe(name))}, which is not installed")
    return smoke(get_recipe(name), **changes)
