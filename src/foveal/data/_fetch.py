"""Data that lie in Debian packages: fetched once, by apt itself, into a cache. No maintainer script runs and nothing is installed.

Where the package is installed, its files are read where they are.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._errors import InputError, unknown

__all__ = ["SOURCES", "Source", "cache_folder", "fetch", "find"]


@dataclass(frozen=True)
class Source:
    """A set of files in a package."""

    package: str
    version: str
    """That we looked at. Another is used as well: the archive keeps one."""
    folder: str
    """Below the root of a system that has the package."""
    megabytes: int
    licence: str
    about: str


SOURCES: dict[str, Source] = {
    "tuxpaint-stamps": Source(
        package="tuxpaint-stamps-default",
        version="2022.06.04-1",
        folder="usr/share/tuxpaint/stamps",
        megabytes=157,
        licence="GPL-2, stated for all files by Debian; to be fetched, not to be vendored",
        about="Tux Paint's stamps: 796 pictures with alpha, most of them cut-out photographs, and a sentence for each",
    ),
    "opencv-doc": Source(
        package="opencv-doc",
        version="4.6.0+dfsg-12",
        folder="usr/share/doc/opencv-doc/examples/data",
        megabytes=94,
        licence="Apache-2.0 and BSD-3, stated for all files by Debian",
        about="OpenCV's examples: the aloe stereo pair with its disparity, 5,000 handwritten digits, image pairs and videos",
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
    for place in (root, cache_folder() / name):
        if (place / source.folder).is_dir():
            return place / source.folder
    raise InputError(
        f"the data {name!r} are not here: neither is {source.package} installed nor was it fetched into {cache_folder()}; "
        f"remedy: foveal.data.fetch({name!r}) ({source.megabytes} MB, by apt), or apt-get install {source.package}"
    )


def fetch(name: str, run: Callable[..., "subprocess.CompletedProcess[str]"] = subprocess.run) -> Path:
    """Get a set into the cache, unless it is here; its folder.

    Args:
        name: one of :data:`SOURCES`.
        run: of the ``subprocess`` module; another one for tests.

    Raises:
        ValueError: an unknown name; ``apt-get`` or ``dpkg-deb`` is missing or fails.
    """
    source = _source(name)
    try:
        return find(name)
    except InputError:
        pass
    for client in ("apt-get", "dpkg-deb"):
        if shutil.which(client) is None:
            raise InputError(
                f"fetching {name!r} needs {client}, as Debian and Ubuntu have it; elsewhere unpack the package {source.package} so that "
                f"{cache_folder() / name / source.folder} is there"
            )
    target = cache_folder() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # unpacked beside its place and renamed there: what is in the cache is whole
    with tempfile.TemporaryDirectory(dir=target.parent) as text:
        work = Path(text)
        _call(run, ["apt-get", "download", source.package], work, f"is {source.package} in your sources? try apt-get update")
        packages = sorted(work.glob("*.deb"))
        if len(packages) != 1:
            raise InputError(f"apt-get download {source.package} left {len(packages)} packages, expected one")
        _call(run, ["dpkg-deb", "-x", packages[0].name, "out"], work, "the download may be damaged; fetch again")
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
