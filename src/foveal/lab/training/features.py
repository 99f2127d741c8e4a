"""A frozen backbone runs once an image: its features lie in a file that is mapped into memory, named after all that decides them."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from ..._files import replace_file
from ...convert._digest import digests
from ..data import DataBundle, Photographs, Split
from ..networks.frozen import Cut, attach_, features_of, find_cut
from .reading import Damaged, read_object
from .recipe import Recipe

__all__ = ["FEATURES", "FeatureSplit", "foretold", "kept_features", "why_not"]

FEATURES = "features"
"""In the folder of a run or a comparison."""
_AT_ONCE = 32
_MOST = 0.5
"""Of the disk's free space."""


def why_not(recipe: Recipe, model: nn.Module) -> str:
    """Why features of a frozen backbone would not be the same at every step; empty if they would."""
    frozen = sum(not value.requires_grad for value in model.parameters())
    if not recipe.model.brings_weights or not frozen:
        return "no backbone is frozen"
    if not isinstance(recipe.data, Photographs) or recipe.data.augment != "none":
        return "training images vary; --augment none keeps them as they are"
    mixed = [name for name in ("mixup", "cutmix") if getattr(recipe.task, name, 0)]
    return f"{mixed[0]} mixes the images of every step" if mixed else ""


def foretold(recipe: Recipe, model: nn.Module, bundle: DataBundle) -> str:
    """What will be kept of the network of a run, in words, before it begins; its weights do not matter."""
    if reason := why_not(recipe, model):
        return f"the backbone runs at every step: {reason}"
    images = torch.randn(2, bundle.in_chans, bundle.img_size, bundle.img_size, generator=torch.Generator().manual_seed(0))
    cut, reason = find_cut(model, images)
    return f"what lies below {cut.name} runs once an image" if cut else f"the frozen backbone runs at every step, as it cannot be cut: {reason}"


def kept_features(model: nn.Module, bundle: DataBundle, recipe: Recipe, folder: Path, also: tuple[nn.Module, ...] = ()) -> tuple[DataBundle, str]:
    """The data as features of what lies below the first module that learns, which the model then takes too; and a note of it.

    Where that cannot be, the data as they are, and a note that says why.

    Args:
        model: with frozen parameters, on its device; it is left in evaluation mode.
        bundle: its images.
        recipe: of both.
        folder: for the files of features, made if it is not there.
        also: copies of the model that take features too.

    Raises:
        ValueError: a file of features is damaged.
    """
    if reason := why_not(recipe, model):
        return bundle, f"the backbone runs at every step: {reason}"
    device = next(model.parameters()).device
    count = min(4, len(bundle.train))
    images = torch.stack([bundle.train[index][0] for index in range(count)]).to(device)
    cut, reason = find_cut(model, images)
    if cut is None:
        return bundle, f"the frozen backbone runs at every step, as it cannot be cut: {reason}"
    splits: dict[str, Any] = {name: getattr(bundle, name) for name in ("train", "val", "test")}
    hashes = {path: _hash(path) for split in splits.values() for path, _ in split.files}
    rows = {digest: row for row, digest in enumerate(sorted(set(hashes.values())))}
    size = 4 * len(rows) * int(np.prod(cut.shape))
    folder.mkdir(parents=True, exist_ok=True)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    path = folder / f"{_name(model, cut, recipe, rows)}.npy"
    with FileLock(path.with_suffix(".lock")):
        if not path.with_suffix(".json").exists():
            if size > _MOST * free:
                return bundle, f"the frozen backbone runs at every step: its features would take {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
            _write(path, model.eval(), cut, splits, hashes, rows)
    mapped = _mapped(path, cut, len(rows))
    for one in (model, *also):
        attach_(one, cut)
    new = {name: FeatureSplit(mapped, split, [rows[hashes[file]] for file, _ in split.files]) for name, split in splits.items()}
    new["test"] = new["val"] if bundle.test is bundle.val else new["test"]
    note = f"what lies below {cut.name} is frozen and ran once: {len(rows)} images, {size / 2**20:,.1f} MiB in {path}"
    return replace(bundle, train=new["train"], val=new["val"], test=new["test"]), note


@dataclass
class FeatureSplit:
    """Features and labels of a split."""

    mapped: Tensor
    split: Any
    rows: list[int]
    augments: bool = False

    @property
    def files(self) -> list[tuple[Path, int]]:
        files: list[tuple[Path, int]] = self.split.files
        return files

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.mapped[self.rows[index]], self.split.files[index][1]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """The samples of a batch at once: beside a head alone, reading and stacking them one by one takes a fifth of a step."""
        return self.mapped[[self.rows[index] for index in indices]], self._labels[indices]

    @cached_property
    def _labels(self) -> Tensor:
        return torch.tensor([label for _, label in self.split.files])


def _write(path: Path, model: nn.Module, cut: Cut, splits: dict[str, Any], hashes: dict[Path, str], rows: dict[str, int]) -> None:
    device = next(model.parameters()).device
    where: dict[str, tuple[Split, int]] = {}
    for split in splits.values():
        for index, (file, _) in enumerate(split.files):
            where.setdefault(hashes[file], (split, index))
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(len(rows), *cut.shape))
        # in an order that no split decides, so that a file made anew is the same
        names = list(rows)
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            images = torch.stack([where[name][0][where[name][1]][0] for name in some]).to(device)
            out[start : start + len(some)] = features_of(model, cut, images).float().cpu().numpy()
        out.flush()
        del out
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    # the last: a file without it was not finished
    replace_file(path.with_suffix(".json"), json.dumps({"below": cut.name, "shape": list(cut.shape), "images": rows}, indent=1).encode())


def _mapped(path: Path, cut: Cut, count: int) -> Tensor:
    remedy = f"remove {path} and {path.with_suffix('.json').name}, and it is made again"
    about = read_object(path.with_suffix(".json"), ("below", "shape", "images"), remedy)
    try:
        # copied where it is written to, which nobody does: torch warns of memory that is read-only
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {error}; {remedy}") from error
    if found.shape != (count, *cut.shape) or found.dtype != np.float32 or about["below"] != cut.name:
        raise Damaged(f"{path} holds {found.dtype} of {found.shape} below {about['below']}, expected {(count, *cut.shape)} below {cut.name}; {remedy}")
    return torch.from_numpy(found)


def _name(model: nn.Module, cut: Cut, recipe: Recipe, rows: dict[str, int]) -> str:
    """Of the weights below, how images are made ready, and what is in their files."""
    above = cut.name.split(".")
    holders = {".".join(above[:count]) for count in range(len(above))}
    state = model.state_dict()

    def below(name: str) -> bool:
        # modules that were skipped, and what those around the cut hold themselves, such as positions
        return name.rpartition(".")[0] in holders or any(name.startswith(f"{skipped}.") for skipped in cut.skipped)

    data: Any = recipe.data
    decisive = {
        "format": 1,
        "below": cut.name,
        "network": [type(model.get_submodule(name)).__qualname__ for name in ("", *cut.skipped)],
        "weights": digests({name: value for name, value in state.items() if below(name)}),
        "images": {name: getattr(data, name) for name in ("img_size", "mean", "std", "interpolation", "crop_pct", "squash")},
        "files": list(rows),
        "versions": [torch.__version__],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
