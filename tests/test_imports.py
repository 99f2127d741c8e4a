"""Imports run downward only, and ``import foveal`` needs torch and einops alone."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import foveal

ROOT = Path(foveal.__file__).parent
PARTS = {"functional": 1, "attention": 2, "convert": 3, "hub": 3.5, "analysis": 4, "models": 4, "official": 5, "timm": 6, "export": 8, "bench": 8}
PARTS |= {"__version__": 0, "_moved": 0.3, "_errors": 0.2, "_fx": 0.5, "_console": 0.5, "_ranges": 0.5, "_kinds": 1}
PARTS |= {"_files": 0.5, "_param_groups": 0.5, "_fits": 0.5, "_machine": 0.5, "_weights": 0.5}
LAB = {"lab": 10, "lab.data": 11, "lab.networks": 11.5, "lab.tasks": 12, "lab.training": 13}
LAB |= dict.fromkeys(("lab.compare", "lab.recipes", "lab.looking", "lab.find", "lab.catalogue", "lab.finetuning"), 14)
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
        else:
            continue
        found += [(node.lineno, _room(tuple(target.split(".")[1:]))) for target in targets if target.startswith("foveal.")]
    return found


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT) != Path("__init__.py")]


def test_every_part_has_its_place() -> None:
    assert {part(path) for path in FILES} <= set(RANK), "give a new part its place in DESIGN's order and in RANK"


def test_imports_run_downward_only() -> None:
    seen, wrong = 0, []
    for path in FILES:
        for line, target in imports(path):
            own = part(path)
            seen += 1
            if target != own and RANK[target] >= RANK[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {target}, which lies beside or above it")
    assert seen > 80, "the imports were not found"
    assert not wrong, "\n".join(wrong)


def test_no_part_imports_the_lab() -> None:
    """Two floors: whoever uses the parts needs nothing of what trains and judges."""
    parts = [path for path in FILES if part(path) in PARTS]
    assert len(parts) > 100, "the parts were not found"
    assert not [(path.name, target) for path in parts for _, target in imports(path) if target not in PARTS]


def test_upward_imports_would_be_seen(tmp_path) -> None:
    source = "from ..lab.training import fit\nfrom .. import cli\nimport foveal.lab.compare\ndef f():\n    from ..models.vit import ViT\nfrom .other import x\n"
    path = ROOT / "analysis" / "imaginary.py"

    class Imaginary(type(path)):
        def read_text(self, **options: str) -> str:
            return source

    assert [target for _, target in imports(Imaginary(path))] == ["lab.training", "cli", "lab.compare", "analysis", "models"]


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
