"""The public names. A name that appears or goes is a decision: this test makes it a visible one."""

import importlib
import inspect
import json
from pathlib import Path

import pytest

SURFACE = Path(__file__).with_name("api_surface.json")
MODULES = [
    "foveal",
    "foveal.functional",
    "foveal.attention",
    "foveal.official",
    "foveal.analysis",
    "foveal.models",
    "foveal.lab.data",
    "foveal.lab.training",
    "foveal.lab.recipes",
    "foveal.lab.compare",
]


def surface() -> dict[str, list[str]]:
    return {module: sorted(importlib.import_module(module).__all__) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_change_on_purpose_only(module) -> None:
    recorded, found = set(json.loads(SURFACE.read_text())[module]), set(surface()[module])
    added, gone = sorted(found - recorded), sorted(recorded - found)
    assert found == recorded, (
        f"the public names of {module} changed: added {added or 'none'}, gone {gone or 'none'}. If that is meant, say so in CHANGELOG.md, "
        f"and record it with: .venv/bin/python -m tests.test_public_api"
    )


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_there_once_and_documented(module) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__, f"{module} does not say what it is"
    assert len(loaded.__all__) == len(set(loaded.__all__))
    bare = [name for name in loaded.__all__ if inspect.isfunction(getattr(loaded, name)) and not getattr(loaded, name).__doc__]
    assert not bare, f"public functions of {module} without a docstring: {bare}"


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(surface(), indent=2) + "\n")
