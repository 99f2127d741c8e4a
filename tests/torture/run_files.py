"""Files of runs, comparisons and weights are damaged, and every command that reads them says so in one line."""

import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

import foveal
from foveal.cli import main
from foveal.lab.training import fit
from tests.training.test_faults import LINES, PLAIN, STATES, seal

from .campaign import Size, Trial, campaign
from .damage import DAMAGES
from .forks import Child
from .readers import Evil, judged

__all__ = ["run_files"]

Tried = tuple[str, str, str, str]
"""Kind, what, fault, what it counts as."""


@campaign
def run_files(work: Path, size: Size) -> Iterator[Trial]:
    """Files of a run, a checkpoint, a delta, a saved model and weights of others, and images on the command line: damaged, hostile, pickled commands."""
    run = work / "run"
    fit(PLAIN, run, quiet=True)
    for number, part in enumerate((commands, states, weights, pictures)[:: size.of(1, 2)]):
        found, place = work / f"found-{number}.jsonl", work / str(number)
        place.mkdir()

        def job(part: Any = part, place: Path = place, found: Path = found) -> int:
            with found.open("w", encoding="utf8") as out:
                for tried in part(place, run, size):
                    print(json.dumps(tried), file=out, flush=True)
            return 0

        child = Child(job, work / f"log-{number}")
        code = child.wait(600)
        for kind, what, fault, counted in map(json.loads, found.read_text(encoding="utf8").splitlines()):
            yield Trial(kind, what, fault, counted)
        if code != 0:
            yield Trial(part.__name__, "all of it", f"the process ended with {code}: {child.said()[-800:]}")


def refused(words: list[str], name: str, certain: bool = True) -> tuple[str, str]:
    """What is wrong with how a command takes a bad file, empty if nothing, and what that counts as."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}", ""
    said = err.getvalue()
    if code == 0 and not certain:
        return "", "read: no reader could tell"
    if code != 2:
        return f"it ended with {code}", ""
    if said.count("\n") != 1 or "Traceback" in said or not said.startswith("foveal: "):
        return f"expected one line: {said[-400:]!r}", ""
    return ("", "refused") if name in said else (f"it does not name {name}: {said[:300]}", "")


def _picture(run: Path) -> Path:
    """Of anything, beside a run."""
    path = run.with_name("x.png")
    Image.new("L", (28, 28)).save(path)
    return path


COMMANDS: dict[str, list[Callable[[Path], list[str]]]] = {
    "recipe.json": [
        lambda run: ["eval", str(run)],
        lambda run: ["export", str(run)],
        lambda run: ["train", "--resume", str(run)],
        lambda run: ["train", "--from", str(run / "recipe.json"), "--out", str(run.with_name("new"))],
        lambda run: ["inspect", str(run), str(_picture(run))],
    ],
    "classes.json": [lambda run: ["eval", str(run)], lambda run: ["export", str(run)]],
    "model.safetensors": [lambda run: ["eval", str(run)], lambda run: ["export", str(run)], lambda run: ["inspect", str(run), str(_picture(run))]],
}


def commands(place: Path, source: Path, size: Size) -> Iterator[Tried]:
    """By each command that reads it."""
    for name, verbs in COMMANDS.items():
        for damage in (*DAMAGES, "a folder"):
            for verb in verbs[: size.of(len(verbs), 1)]:
                run = _copied(source, place / "run")
                certain = _spoil(run / name, damage)
                words = verb(run)
                yield (f"files of a run: {name}", f"{damage}, foveal {words[0]}", *refused(words, name, certain))
    for what, (content, says) in LINES.items():
        run = _copied(source, place / "run")
        first, *rest = (run / "history.jsonl").read_bytes().splitlines(keepends=True)
        (run / "history.jsonl").write_bytes(first + content + b"".join(rest))
        yield ("files of a run: history.jsonl", f"{what}, foveal train --resume", *refused(["train", "--resume", str(run)], says))


def states(place: Path, source: Path, size: Size) -> Iterator[Tried]:
    """Checkpoints whose hashes are right for what lies in them, and that are of something else."""
    for what, spoil in STATES.items():
        run = _copied(source, place / "run")
        last = _one_checkpoint(run)
        spoil(last / "state.pt")
        seal(last)
        yield ("files of a run: state.pt", f"{what}, foveal train --resume", *refused(["train", "--resume", str(run)], "state.pt"))
    for form in ("an archive", "a plain pickle"):
        mark = place / f"PWNED-{form[-6:]}"
        for verb in (["train", "--resume"], ["export"]):
            run = _copied(source, place / "run")
            last = _one_checkpoint(run)
            if form == "an archive":
                torch.save({"optimizer": Evil(str(mark))}, last / "state.pt")
            else:
                (last / "state.pt").write_bytes(pickle.dumps(Evil(str(mark))))
            seal(last)
            words = [*verb, str(run if verb[0] == "train" else last)]
            fault, counted = refused(words, "state.pt")
            yield ("pickles that would run a command", f"state.pt as {form}, foveal {verb[0]}", "it ran" if mark.exists() else fault, counted)


def weights(place: Path, source: Path, size: Size) -> Iterator[Tried]:
    """Through the functions that read them."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5, img_size=32)
    bare, mark = {name: value.clone() for name, value in model.state_dict().items()}, place / "PWNED"
    foveal.convert_(model, foveal.DenoisingAttention.Config())
    foveal.save_delta(model, place / "whole.safetensors")
    foveal.save_pretrained(model, place / "saved")
    torch.save(bare, place / "whole.pt")

    def delta(path: Path) -> list[str]:
        fresh = timm.create_model("test_vit", num_classes=5, img_size=32)
        fresh.load_state_dict(bare)
        try:
            foveal.load_delta(fresh, path)
        except foveal.InputError:
            assert not [name for name, value in bare.items() if not torch.equal(fresh.state_dict().get(name, value), value)], "the model was changed"
            raise
        return []

    def folder(path: Path) -> list[str]:
        foveal.from_pretrained(path.parent)
        return []

    def others(path: Path) -> list[str]:
        from foveal._weights import read_saved

        read_saved(path)
        return []

    kinds: list[tuple[str, Path, Callable[[Path], list[str]]]] = [
        ("deltas", place / "whole.safetensors", delta),
        ("save_pretrained: config.json", place / "saved" / "config.json", folder),
        ("save_pretrained: model.safetensors", place / "saved" / "model.safetensors", folder),
        ("weights of others: .pt", place / "whole.pt", others),
    ]
    for kind, path, read in kinds:
        whole = path.read_bytes()
        for damage in (*DAMAGES, "a pickle of a command", "an archive with a command"):
            certain = damage not in DAMAGES or DAMAGES[damage].certain
            if damage in DAMAGES:
                path.write_bytes(DAMAGES[damage].change(whole))
            elif damage == "a pickle of a command":
                path.write_bytes(pickle.dumps(Evil(str(mark))))
            else:
                torch.save({"state_dict": {"x": Evil(str(mark))}}, path)
            fault, counted = judged(lambda read=read, path=path: read(path), path, certain)  # type: ignore[misc]
            yield (kind, damage, "it ran" if mark.exists() else fault, counted)
        path.write_bytes(whole)


def pictures(place: Path, source: Path, size: Size) -> Iterator[Tried]:
    """``foveal inspect RUN IMAGE``."""
    whole = {}
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    for ending in ("png", "jpg", "bmp", "tif", "webp", "gif", "ppm"):
        Image.fromarray(pixels).save(place / f"whole.{ending}")
        whole[ending] = (place / f"whole.{ending}").read_bytes()
    for ending, content in whole.items():
        for name, damage in DAMAGES.items():
            path = place / f"broken.{ending}"
            path.write_bytes(damage.change(content))
            yield (
                f"images on the command line: {ending}",
                name,
                *refused(["inspect", str(source), str(path), "--out", str(place / "out")], path.name, damage.certain),
            )
    for name, made in HOSTILE.items():
        path = place / "hostile.png"
        made(path)
        yield ("images on the command line: hostile", name, *refused(_inspected(source, path), path.name))


def _inspected(run: Path, image: Path) -> list[str]:
    return ["inspect", str(run), str(image), "--out", str(image.with_name("out"))]


def _bomb(path: Path) -> None:
    """A head that promises 30,000 × 30,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a head of 900 million pixels": _bomb,
    "floats beyond one": lambda path: Image.fromarray(np.full((8, 8), 7.0, np.float32)).save(path, "TIFF"),
    "12 of 16 bits": lambda path: Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(path, "PNG"),
    "a script": lambda path: path.write_text("#!/bin/sh\ntouch PWNED\n"),
    "SVG with a script": lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "PostScript": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
    "a device": lambda path: _linked(path, "/dev/zero"),
    "itself": lambda path: _linked(path, path.name),
}


def _linked(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _copied(source: Path, run: Path) -> Path:
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(run.with_name("new"), ignore_errors=True)
    return Path(shutil.copytree(source, run))


def _one_checkpoint(run: Path) -> Path:
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    return run / "checkpoints" / "step-00000008"


def _spoil(path: Path, damage: str) -> bool:
    if damage == "a folder":
        path.unlink()
        path.mkdir()
        return True
    path.write_bytes(DAMAGES[damage].change(path.read_bytes()))
    return DAMAGES[damage].certain
