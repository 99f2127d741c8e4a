"""The wheel and the sdist as somebody gets them: built, looked through, installed in an environment of its own, and used there.

``python -m tests.package`` is what ``make package`` and both continuous integrations call. Dependencies are those of the environment that runs it; with
``--dependencies`` they are installed from the index, as for a user, which takes gigabytes.
"""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USE = """
import foveal, torch
from pathlib import Path
home = Path(foveal.__file__).resolve()
assert home.is_relative_to(Path({prefix!r}).resolve()), f"foveal comes from {{home}}, not from what was installed"
assert foveal.__version__ == {version!r}, foveal.__version__
assert (home.parent / "py.typed").exists()
x = torch.randn(1, 17, 16)
for name in foveal.list_attentions(form="tokens"):
    assert foveal.create_attention(name, dim=16, num_heads=2)(x).shape == x.shape
layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
assert len(foveal.convert_(layer, foveal.DenoisingAttention.Config()).swaps) == 1
"""


class Wrong(Exception):
    """The package is not what it should be."""


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it, as an index's users without a wheel would."""
    with tempfile.TemporaryDirectory() as source:
        # from what git knows, so that nothing that lies about comes along
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
        for name in filter(None, listed):
            if (ROOT / name).is_file():
                copy = Path(source, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes((ROOT / name).read_bytes())
        _run("-m", "hatchling", "build", "-t", "sdist", "-d", str(folder), cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as source:
        with tarfile.open(sdist) as archive:
            archive.extractall(source, filter="data")
        (unpacked,) = Path(source).iterdir()
        _run("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def check(sdist: Path, wheel: Path) -> str:
    """The version; refuses what lacks a file of ours, holds another, or cannot be shown by an index.

    Raises:
        Wrong: with what.
    """
    listed = subprocess.run(["git", "ls-files", "src/foveal"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    ours = {name.removeprefix("src/") for name in listed if (ROOT / name).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(place))
    held = {name for name in names if ".dist-info/" not in name}
    if held != ours:
        raise Wrong(f"the wheel lacks {sorted(ours - held)[:5]} and holds {sorted(held - ours)[:5]}")
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    if lacking := {"README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "pyproject.toml", "tests/conftest.py", "docs/conf.py"} - members:
        raise Wrong(f"the sdist lacks {sorted(lacking)}")
    version = str(metadata["Version"])
    check_page(metadata)
    if f"## [{version}] - " not in (ROOT / "CHANGELOG.md").read_text("utf8"):
        raise Wrong(f"CHANGELOG.md has no dated head for {version}, as ## [{version}] - 2026-11-29")
    return version


def check_page(metadata: Message) -> None:
    """What an index shows: text, links that lead somewhere from there, licence, addresses."""
    text = str(metadata.get_payload())
    if metadata["Description-Content-Type"] != "text/markdown" or "# Foveal" not in text:
        raise Wrong("the long description is not the README in Markdown")
    if relative := [link for link in re.findall(r"\]\(([^)]+)\)", text) if not re.match(r"https://|#", link)]:
        raise Wrong(f"links that lead nowhere from an index: {relative}")
    if metadata["License-Expression"] != "Apache-2.0" or len(metadata.get_all("Project-URL", [])) < 4:
        raise Wrong("licence or addresses are missing")


def use(wheel: Path, version: str, *, dependencies: bool) -> None:
    """Install the wheel in a new environment, and call what it brings from an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "environment")
        venv.create(home, with_pip=True)
        python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
        if dependencies:
            subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, cwd=folder)
        else:
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel], check=True, cwd=folder)
            (found,) = home.glob("lib/python*/site-packages") if os.name != "nt" else home.glob("Lib/site-packages")
            # behind the new environment's own; an editable installation there is a .pth file, and those are not read from here
            (found / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        subprocess.run([python, "-W", "ignore", "-c", USE.format(prefix=str(home), version=version)], check=True, cwd=folder, env=env)
        if not dependencies:
            # it saves weights, which takes an extra
            script = (ROOT / "tests" / "cli" / "user_script.py").read_text("utf8")
            subprocess.run([python, "-W", "ignore", "-c", script], check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL)
        shown = subprocess.run([python.with_name("foveal"), "--version"], check=True, cwd=folder, env=env, capture_output=True, text=True).stdout
        if shown != f"foveal {version}\n":
            raise Wrong(f"foveal --version says {shown!r}, and the wheel is of {version}")
        subprocess.run([python.with_name("foveal"), "doctor"], check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL)


def _run(*words: str, cwd: str | Path) -> None:
    # a date that does not move, so that the same sources make the same files
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"SOURCE_DATE_EPOCH": "1577836800"})
    if done.returncode:
        raise Wrong(f"{' '.join(words)} failed: {done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder where the files stay")
    parser.add_argument("--dependencies", action="store_true", help="install what the wheel needs, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            sdist, wheel = build(folder.resolve())
            version = check(sdist, wheel)
            use(wheel, version, dependencies=chosen.dependencies)
        except Wrong as wrong:
            sys.exit(f"package: {wrong}")
        print(
            f"package: {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) and {sdist.name} ({sdist.stat().st_size / 1e6:.1f} MB) are built, installed and used"
        )


if __name__ == "__main__":
    main()
