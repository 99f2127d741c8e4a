"""``foveal doctor``: what a bug report needs, and whether the parts compute here what they should.

Read by hand, without tyro or rich: it has to answer where nothing but torch is installed.
"""

import os
import platform
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from pathlib import Path

from .._console import plain
from .._errors import InputError
from .._extensions import GROUP, VARIABLE
from .._machine import cores, processor
from ._verbs import VERBS

__all__ = ["doctor"]

_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TIMM_FUSED_ATTN", "HF_HOME", "HF_HUB_OFFLINE", "FOVEAL_CACHE", VARIABLE)
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,]+)\])?\s*(?:(>=|==)\s*([\w.]+))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_NOT_FOR_USERS = ("dev", "docs")


def doctor(words: list[str]) -> None:
    """Print the state of this installation, and check a few results of it.

    Raises:
        SystemExit: with code 1, if something that was checked is wrong.
        ValueError: words behind it.
    """
    if words in (["-h"], ["--help"]):
        print(f"usage: foveal doctor\n\n{VERBS['doctor'].about}\nExit code 1 if a check fails.\n\nExample: {VERBS['doctor'].example}")
        return
    if words:
        raise InputError(f"foveal doctor takes no options, got {' '.join(words)}")
    # torch says that NumPy is not there, which is as it should be where nothing but torch is installed
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    for title, part in (("Environment", _environment()), ("Packages", _packages()), ("Extras", _extras()), ("Devices", _devices())):
        lines = list(part)
        width = max(len(name) for name, _ in lines)
        print(title, *(f"  {name:<{width}}  {plain(text)}" for name, text in lines), "", sep="\n")
    failed, count = _print_checks()
    print()
    if failed:
        print(f"{failed} of {count} checks failed: results on this machine cannot be trusted. Report it with all of the above.")
        raise SystemExit(1)
    print(f"All {count} checks passed. In a bug report, paste all of the above.")


def _environment() -> Iterator[tuple[str, str]]:
    import torch

    import foveal

    yield "foveal", f"{foveal.__version__} in {Path(foveal.__file__).parent}"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform(terse=True)
    yield "processor", f"{processor()}, {cores()} cores"
    yield "threads of torch", str(torch.get_num_threads())
    for name in _VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]
    if named := [point.value for point in entry_points(group=GROUP)]:
        yield "extensions", ", ".join(named)
    free = shutil.disk_usage(Path.cwd()).free
    yield "free here", f"{free / 2**30:.1f} GiB, {'writable' if os.access(Path.cwd(), os.W_OK) else 'NOT writable'}: {Path.cwd()}"


def _packages() -> Iterator[tuple[str, str]]:
    names = ["torch", "einops", *sorted({wanted for extra, wanted, *_ in _requirements() if extra not in _NOT_FOR_USERS} - {"foveal", "torch", "einops"})]
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def _extras() -> Iterator[tuple[str, str]]:
    """Of each extra whether all is here that it names, and that those name which it contains."""
    wrong: dict[str, list[str]] = {}
    contains: dict[str, list[str]] = {}
    for extra, name, operator, wanted, parts in _requirements():
        if not extra or extra in _NOT_FOR_USERS:
            continue
        here = wrong.setdefault(extra, [])
        if name == "foveal":
            contains.setdefault(extra, []).extend(parts)
            continue
        try:
            got = version(name)
        except PackageNotFoundError:
            here.append(f"{name} is missing")
            continue
        if (operator == ">=" and _number(got) < _number(wanted)) or (operator == "==" and got != wanted):
            here.append(f"{name} {got} is not {operator} {wanted}")
    if not wrong:
        yield "unknown", "foveal is not installed as a package here (it was found by a path), so what its extras bring is not known"
    for extra, here in wrong.items():
        lacks = list(dict.fromkeys(here + [text for part in contains.get(extra, ()) for text in wrong.get(part, ())]))
        yield extra, f'{", ".join(lacks)}; pip install "foveal[{extra}]"' if lacks else "complete"


def _requirements() -> list[tuple[str, str, str, str, list[str]]]:
    """Extra, package, operator and version of every requirement, as the installed package has them, and the extras that it asks of that package."""
    try:
        texts = distribution("foveal").requires or ()
    except PackageNotFoundError:
        return []
    found = []
    for text in texts:
        wanted, extra = _REQUIREMENT.match(text), _EXTRA.search(text)
        assert wanted is not None, f"a requirement that cannot be read: {text}"
        parts = wanted[2].split(",") if wanted[2] else []
        found.append((extra[1] if extra else "", wanted[1].lower(), wanted[3] or "", wanted[4] or "", parts))
    return found


def _number(version: str) -> tuple[int, ...]:
    # what stands behind a plus names a build, such as cu130, and no version
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    yield "cpu", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
    if torch.cuda.is_available():
        half = "yes" if torch.cuda.is_bf16_supported() else "no"
        yield "CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, bfloat16 {half}"
    elif torch.version.cuda:
        yield "CUDA", f"built for {torch.version.cuda}, no device found"
    if torch.backends.mps.is_available():
        yield "mps", "available"
    compiler = next((name for name in ("g++", "c++", "clang++", "cl") if shutil.which(name)), "")
    yield "torch.compile", f"compiler {shutil.which(compiler)}" if compiler else "no C++ compiler found, which compiling on a CPU needs"


def _print_checks() -> tuple[int, int]:
    """How many checks failed, of how many."""
    from ._doctor_checks import CHECKS, Failed

    print("Checks")
    failed = 0
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            said = f"ok: {check()}"
        except Failed as wrong:
            failed, said = failed + 1, f"WRONG: {wrong}"
        except Exception as error:  # a defect is what is looked for: it is shown, and counted
            failed, said = failed + 1, f"FAILED: {type(error).__name__}: {error}"
        print(f"  {name:<18}{plain(said)} ({time.perf_counter() - began:.1f} s)")
    return failed, len(CHECKS)
