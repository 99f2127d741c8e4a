"""Imports run downward only, and ``import foveal`` needs torch and einops alone."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import foveal

ROOT = Path(foveal.__file__).parent
PARTS = {"functional": 1, "attention": 2, "convert": 3, "analysis": 4, "models": 4, "official": 5, "timm": 6, "hub": 7, "export": 8, "bench": 8, "testing": 8}
PARTS |= {"__version__": 0, "_moved": 0.3, "_errors": 0.2, "_fx": 0.5, "_console": 0.5, "_ranges": 0.5, "_registry": 1}
PARTS |= {"_files": 0.45, "_param_groups": 0.5, "_fits": 0.5, "_machine": 0.5, "_weights": 0.5, "_extensions": 0.4, "_renamed": 0.4, "_old_members": 0.45}
LAB = {"lab": 10, "lab.data": 11, "lab.networks": 11.5, "lab.tasks": 12, "lab.training": 13, "lab.inspect": 13.5}
LAB |= {"lab.finetuning": 13.7} | dict.fromkeys(("lab.compare", "lab.recipes", "lab.catalogue"), 14)
LAB |= {"lab.study": 15}
RANK = PARTS | LAB | {"cli": 20, "__main__": 21}
HEAVY = (
    "timm",
    "torchvision",
    "transformers",
    "accelerate",
    "tyro",
    "rich",
    "matplotlib",
    "jinja2",
    "scipy",
    "sklearn",
    "mlxtend",
    "pandas",
    "PIL",
    "safetensors",
    "tensorboard",
    "torchmetrics",
    "av",
)


def part(path: Path) -> str:
    """``convert``, or in the lab ``lab.data``."""
    return _room(path.relative_to(ROOT).with_suffix("").parts)


def _room(parts: tuple[str, ...]) -> str:
    deep = parts[0] == "lab" and len(parts) > 1 and parts[1] != "__init__"
    return ".".join(parts[:2]) if deep else parts[0]


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and part of every import from our own package, wherever in the file it stands."""
    package = ["foveal", *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, node.module or ""]).rstrip(".")
            targets = [f"{full}.{alias.name}" for alias in node.names] if full in ("foveal", "foveal.lab") else [full]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif _imports_by_string(node):
            targets = _absolute(ast.literal_eval(node.args[0]), package)  # type: ignore[attr-defined]
        else:
            continue
        found += [(node.lineno, _room(tuple(target.split(".")[1:]))) for target in targets if target.startswith("foveal.")]
    return found


def _imports_by_string(node: ast.AST) -> bool:
    """``import_module("foveal.x")`` and ``__import__``, with a constant."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return False
    return getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")


def _absolute(name: str, package: list[str]) -> list[str]:
    dots = len(name) - len(name.lstrip("."))
    return [".".join([*package[: len(package) - dots + 1], name.lstrip(".")]).rstrip(".") if dots else name]


LATER = {("models", "hub")}
"""Upward until the next minor version: the deprecated methods of our own models, ``models/_built.py``."""

FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT) != Path("__init__.py")]


def test_every_part_has_its_place() -> None:
    assert {part(path) for path in FILES} <= set(RANK), "give a new part its place in DESIGN's order and in RANK"


def test_imports_run_downward_only() -> None:
    seen, wrong = 0, []
    for path in FILES:
        for line, target in imports(path):
            own = part(path)
            seen += 1
            if (own, target) in LATER and path.name == "_built.py":
                continue
            if target != own and RANK[target] >= RANK[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {target}, which lies beside or above it")
    assert seen > 80, "the imports were not found"
    assert not wrong, "\n".join(wrong)


def test_no_part_imports_the_lab() -> None:
    """Two floors: whoever uses the parts needs nothing of what trains and judges."""
    parts = [path for path in FILES if part(path) in PARTS]
    assert len(parts) > 100, "the parts were not found"
    assert not [(path.name, target) for path in parts for _, target in imports(path) if target not in PARTS]


def edges() -> dict[str, set[str]]:
    """Of every file those that it imports, wherever in it. A package that is imported for its names counts as its ``__init__``."""
    names = {".".join(("foveal", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        package = ["foveal", *path.relative_to(ROOT).parts[:-1]]
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.ImportFrom):
                full = _absolute("." * node.level + (node.module or ""), package)[0]
                found |= {one if (one := f"{full}.{alias.name}") in names else full for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif _imports_by_string(node):
                found |= set(_absolute(ast.literal_eval(node.args[0]), package))  # type: ignore[attr-defined]
        graph[name] = {target for target in found if target in names and target != name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files that all reach one another, of two and more."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            new = graph.get(stack.pop(), set()) - seen
            seen |= new
            stack += new
        return seen

    reach = {name: reached(name) for name in graph}
    found = {frozenset(other for other in reach[name] if name in reach.get(other, set())) for name in graph if name in reach[name]}
    return [set(circle) for circle in found]


def test_no_circle_of_files_leaves_its_room() -> None:
    graph = edges()
    assert sum(map(len, graph.values())) > 500, "the imports were not found"
    graph["foveal.models._built"].discard("foveal.hub")
    rooms = [{_room(tuple(name.split(".")[1:])) for name in circle} for circle in circles(graph)]
    assert not [room for room in rooms if len(room) > 1]


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}) == [{"a", "b", "c"}]
    graph = edges()
    assert "foveal.hub" in graph["foveal.models._built"], "the one that is let through, till the methods go"
    assert any({"foveal.models._built", "foveal.models.vit", "foveal.timm", "foveal.hub"} <= circle for circle in circles(graph))


QUIET = """
import timm
before = set(timm.list_models())
import foveal.lab.tasks, foveal.lab.training
print(sorted(set(timm.list_models()) - before), timm.list_models("*fov_*"))
from foveal.lab.training import model_from_dict
from foveal.models import PyramidDetector
from foveal.lab.training.recipe import register_named_networks
register_named_networks(PyramidDetector(backbone="timm:resnet18"))
print(timm.list_models("*fov_*"))
register_named_networks(PyramidDetector(backbone="timm:test_fov_halonet"))
print("test_fov_halonet" in timm.list_models("*fov_*"))
"""
KIND = """
import timm
from foveal.lab.training import model_from_dict
print(timm.list_models("*fov_*"), model_from_dict({"kind": "TimmModel", "name": "x"}).name)
"""


@pytest.mark.parametrize(("code", "said"), [(QUIET, ["[] []", "[]", "True"]), (KIND, ["[] x"])])
def test_importing_tasks_and_training_registers_nothing_with_timm(code: str, said: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == said, done.stderr


TRAINING = ("accelerate", "torchmetrics", "tyro", "rich", "jinja2", "tensorboard", "mlxtend", "av", "faster_coco_eval")


def test_parts_need_nothing_of_training() -> None:
    """Every file of the parts imports without what trains; timm's and torchvision's extras are there."""
    modules = sorted(name for name in edges() if _room(tuple(name.split(".")[1:])) in PARTS and not name.endswith("__main__"))
    assert len(modules) > 100
    wall = BARE.partition("import torch\n")[0].replace("BLOCKED", repr(set(TRAINING)))
    code = wall + f"for module in {modules!r}:\n    importlib.import_module(module)\nprint(len([name for name in sys.modules if name.startswith('foveal.')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(modules)


def test_upward_imports_would_be_seen(tmp_path) -> None:
    source = "from ..lab.training import fit\nfrom .. import cli\nimport foveal.lab.compare\ndef f():\n    from ..models.vit import ViT\nfrom .other import x\n"
    source += 'importlib.import_module("foveal.hub")\n__import__("foveal.timm.model")\nimport_module("..cli", __package__)\nimport_module(name)\n'
    path = ROOT / "analysis" / "imaginary.py"

    class Imaginary(type(path)):
        def read_text(self, **options: str) -> str:
            return source

    assert [target for _, target in imports(Imaginary(path))] == ["lab.training", "cli", "lab.compare", "analysis", "models", "hub", "timm", "cli"]


BARE = """
import importlib.abc, importlib.util, json, sys

class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Wall())
import torch
before = set(sys.modules)
import foveal
out = foveal.create_attention("denoising", dim=16, num_heads=2)(torch.randn(1, 5, 16)).shape
parts = {name.partition(".")[0] for name in set(sys.modules) - before}
refusals = {}
for module in ("models", "timm", "cli"):
    try:
        importlib.import_module(f"foveal.{module}")
    except Exception as error:
        refusals[module] = [type(error).__name__, str(error)]
print(json.dumps([list(out), sorted(parts), refusals]))
"""


def test_the_library_itself_needs_torch_and_einops_alone() -> None:
    code = BARE.replace("BLOCKED", repr({*HEAVY, "numpy"}))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shape, parts, refusals = json.loads(done.stdout.splitlines()[-1])
    assert shape == [1, 5, 16]
    foreign = {name for name in parts if name not in sys.stdlib_module_names and not name.startswith("_")} - {"foveal", "einops", "torch", "torchgen"}
    assert not foreign, f"import foveal brings in {foreign}"
    timm = ["MissingExtra", 'foveal.models needs timm, which is not installed; remedy: pip install "foveal[timm]"']
    assert refusals == {"models": timm, "timm": timm}, "the command line, which says itself what it lacks, can always be imported"
