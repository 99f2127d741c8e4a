"""Every verb where only some packages are installed: a result, or one line that names the extra. Standard library alone, so that it runs anywhere.

``python tests/cli/extras.py`` in an environment prints what each command did, and ends with 1 if one of them did neither. ``--build FOLDER`` makes the
environments first: one with torch and einops, and one more for each extra that stands on it, in FOLDER; nothing but pip is needed.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r'^foveal: .* needs [\w-]+, which is not installed; remedy: pip install "foveal\[([\w,]+)\]"$')
COMMANDS = {
    "usage": [],
    "help": ["--help"],
    "version": ["--version"],
    "info": ["info"],
    "doctor": ["doctor"],
    "list": ["list"],
    "data": ["data", "list"],
    "show": ["data", "show", "digits", "--source", "digits", "--out", "sheet"],
    "train": ["train", "digits", "--data.source", "digits", "--steps", "2", "--batch-size", "8", "--out", "run"],
    "eval": ["eval", "run"],
    "inspect a run": ["inspect", "run", "three.ppm"],
    "inspect a model": ["inspect", "test_vit", "three.ppm", "--weights", "random"],
    "bench": ["bench", "softmax", "--tokens", "16", "--dim", "16", "--num-heads", "2", "--rounds", "1", "--memory", "False"],
    "export to pt2": ["export", "test_vit", "--to", "pt2"],
    "export to onnx": ["export", "test_vit", "--to", "onnx"],
    "compare": ["compare", "--recipe", "digits", "--attentions", "external", "--seeds", "1", "--steps", "2", "--jobs", "1"],
}
"""One after the other in one folder: what trains is there for what looks at it."""


def verdict(code: int, out: str, err: str) -> str:
    """``result``, the extras that the one line names, or what went wrong."""
    if code == 0 and "Traceback" not in err:
        return "result"
    lines = err.strip().splitlines()
    if code == 2 and len(lines) == 1 and (named := LINE.match(lines[0])):
        return named[1]
    # without the extra that trains there is no run to look at
    if code == 2 and len(lines) == 1 and lines[0].startswith("foveal: run is no run"):
        return "no run"
    return f"wrong: exit code {code}: {err[-600:]}"


def try_all(python: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "three.ppm").write_bytes(b"P6 24 24 255\n" + bytes(range(256)) * 6 + bytes(192))
        done = {}
        for name, words in COMMANDS.items():
            ran = subprocess.run([python, "-m", "foveal", *words], cwd=folder, capture_output=True, text=True, check=False)
            done[name] = verdict(ran.returncode, ran.stdout, ran.stderr)
        return done


def build(folder: Path) -> dict[str, str]:
    """Environments: name to Python."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels = folder / "wheels"
    base = folder / "base"
    if not (base / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        subprocess.run([base / "bin/pip", "install", "-q", "torch", "einops", "hatchling"], check=True)
        (base / "ready").touch()
    subprocess.run([base / "bin/pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT], check=True)
    (wheel,) = wheels.glob("foveal-*.whl")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    made = {}
    for extra in ["", *(name for name in extras if name not in ("dev", "docs"))]:
        home = folder / (extra or "none")
        if not (home / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            # torch, five gigabytes of it, is there once
            site = next((home / "lib").glob("python*/site-packages"))
            (site / "base.pth").write_text(str(next((base / "lib").glob("python*/site-packages"))) + "\n")
            subprocess.run([home / "bin/pip", "install", "-q", f"{wheel}[{extra}]" if extra else wheel], check=True)
            (home / "ready").touch()
        made[extra or "none"] = str(home / "bin/python")
    return made


if __name__ == "__main__":
    pythons = build(Path(sys.argv[2])) if sys.argv[1:2] == ["--build"] else {"here": sys.executable}
    failed = False
    for name, python in pythons.items():
        done = try_all(python)
        failed |= any(said.startswith("wrong") for said in done.values())
        print(json.dumps({name: done}, indent=1), flush=True)
    sys.exit(failed)
