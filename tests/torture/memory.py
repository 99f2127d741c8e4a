"""What is done again and again in one process takes no more memory at its end than near its beginning."""

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

import foveal
from foveal.attention import attention_class
from foveal.lab.training import Optim, fit
from foveal.models import ViT
from tests.training.helpers import tiny

from .campaign import Size, Trial, campaign
from .forks import Child, at_step

__all__ = ["soak"]

MOST = 1.02
"""Of the memory after the first fifth, what may be taken at the end."""
PAGE = 4096


def resident() -> int:
    """Bytes, after what is garbage was collected and what is free was given back."""
    gc.collect()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@campaign
def soak(work: Path, size: Size) -> Iterator[Trial]:
    """20,000 steps of training, 500 conversions and back, 500 extractions of maps: memory after the first fifth and at the end."""
    for name, times, job in (
        ("steps of training", size.of(20_000, 200), _steps),
        ("conversions and back", size.of(500, 10), _conversions),
        ("extractions of maps", size.of(500, 20), _maps),
    ):
        out = work / f"{name.replace(' ', '-')}.json"
        child = Child(lambda job=job, times=times, out=out: job(work, times, out), work / f"{out.stem}.log")  # type: ignore[misc]
        code = child.wait(1800)
        if code != 0:
            yield Trial(f"memory of {name}", f"{times:,}", f"it ended with {code}: {child.said()[-600:]}")
            continue
        seen = json.loads(out.read_text())
        early, late = seen[1], seen[-1]
        what = f"{times:,}: {early / 2**20:.1f} MiB after a fifth, {late / 2**20:.1f} MiB at the end ({late / early - 1:+.2%})"
        yield Trial(f"memory of {name}", what, "" if size.short or late <= MOST * early else "it grows")


def _at_fifths(times: int, do: Callable[[int], object], out: Path) -> int:
    """Before the first, and behind each fifth."""
    seen = [resident()]
    for number in range(times):
        do(number)
        if (number + 1) % (times // 5) == 0:
            seen.append(resident())
    out.write_text(json.dumps(seen))
    return 0


def _steps(work: Path, times: int, out: Path) -> int:
    recipe = tiny(model=ViT(attention="denoising", depth=1), optim=Optim(lr=1e-4), steps=times, batch_size=4)
    recipe = replace(recipe, eval_every=times // 20, checkpoint_every=times // 10)
    seen = [resident()]
    for fifth in range(1, 6):
        at_step(fifth * times // 5, lambda: seen.append(resident()))
    fit(recipe, work / "soaked", quiet=True)
    out.write_text(json.dumps(seen))
    return 0


def _model() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, img_size=32).eval()


def _conversions(work: Path, times: int, out: Path) -> int:
    model = _model()
    names = ("denoising", "external", "efficient", "linear", "differential")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def there_and_back(number: int) -> None:
        foveal.convert_(model, attention_class(names[number % len(names)]).Config())
        foveal.revert_(model)

    code = _at_fifths(times, there_and_back, out)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "it is not what it was"
    return code


def _maps(work: Path, times: int, out: Path) -> int:
    model, images = _model(), torch.randn(2, 3, 32, 32)
    foveal.convert_(model, foveal.DenoisingAttention.Config(), where="blocks.0.attn")
    return _at_fifths(times, lambda number: foveal.attention_maps(model, images), out)
