"""A small tower, trained once on single frames, and what each of its layers makes of every frame, run once and mapped into memory."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from ...._errors import InputError
from ...._files import check_folder, replace_file
from ...._weights import misfits
from ....convert._digest import digests, fingerprint
from ....models import VisionTransformer
from ....models.video_language import read_tower
from .._bundle import seed_of
from .._fetch import cache_folder
from ..digits import Images, Labels

__all__ = ["Features", "tower_of"]

_DIM, _DEPTH, _HEADS = 64, 3, 4
_BATCH, _LR, _AT_ONCE = 96, 2e-3, 512
_CLIPS_ALONE = ("train_clips", "val_clips", "test_clips", "kinds", "num_frames")
"""Settings that the tower does not depend on."""


def tower_of(settings: Any, images: Images, labels: Labels) -> VisionTransformer:
    """The tower that names the bright digit of a frame, out of the cache, or trained and put there.

    Args:
        settings: of the set.
        images: of the digits that train.
        labels: of these.

    Raises:
        ValueError: the cache is a file, or cannot be written to; what lies there is damaged.
    """
    decisive = {name: value for name, value in asdict(settings).items() if name not in _CLIPS_ALONE}
    path = _folder() / f"tower-{_hash(decisive)}.safetensors"
    tower = _new(settings)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _train(tower, settings, images, labels)
            replace_file(path, save({name: value.contiguous() for name, value in tower.state_dict().items()}))
    remedy = f"remove {path}, and it is trained again"
    try:
        state = load_file(path)
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}; {remedy}") from error
    if problems := misfits(state, tower.state_dict()):
        raise InputError(f"{path} holds another tower: {problems}; {remedy}")
    tower.load_state_dict(state)
    return tower.requires_grad_(False).eval()


class Features:
    """What comes out of each layer of the tower, for every frame of a split, and the frames."""

    def __init__(self, layers: Tensor, clips: NDArray[np.uint8]) -> None:
        self.layers, self._clips = layers, clips

    def clip(self, index: int) -> Tensor:
        """``(T, 1, H, W)``, from 0 to 1."""
        return _scaled(self._clips[index])

    @classmethod
    def of(cls, tower: VisionTransformer, clips: NDArray[np.uint8], settings: Any, split: str) -> "Features":
        """``(clips, layers, T, N, C)``, mapped from a file that is named after the tower's weights and the frames.

        Raises:
            ValueError: what lies there is damaged.
        """
        tokens = tower.num_prefix_tokens + tower.patch_embed.num_patches
        shape = (len(clips), len(tower.blocks), clips.shape[1], tokens, tower.embed_dim)
        name = _hash({"tower": fingerprint(digests(tower.state_dict())), "frames": hashlib.sha256(clips.tobytes()).hexdigest()})
        path = _folder() / f"features-{split}-{name}.npy"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _write(tower, clips, path, shape)
        try:
            # copied where it is written to, which nobody does: torch warns of memory that is read-only
            found = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}; remove it, and it is made again") from error
        if found.shape != shape or found.dtype != np.float32:
            raise InputError(f"{path} holds {found.dtype} of {found.shape}, expected {shape}; remove it, and it is made again")
        return cls(torch.from_numpy(found), clips)


def _write(tower: VisionTransformer, clips: NDArray[np.uint8], path: Path, shape: tuple[int, ...]) -> None:
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, len(clips), _AT_ONCE):
            some = _scaled(clips[start : start + _AT_ONCE])
            with torch.no_grad():
                seen = torch.stack(read_tower(tower, some.flatten(0, 1)).layers)
            out[start : start + len(some)] = seen.unflatten(1, some.shape[:2]).transpose(0, 1).numpy()
        out.flush()
        del out
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _train(tower: VisionTransformer, settings: Any, images: Images, labels: Labels) -> None:
    """AdamW under one cycle, on frames that are drawn anew for every step."""
    optimizer = torch.optim.AdamW(tower.parameters(), lr=_LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=max(settings.tower_steps, 2))
    for step in range(settings.tower_steps):
        clips, bright = zip(*(_frame(settings, step, place, images, labels) for place in range(_BATCH)), strict=True)
        loss = F.cross_entropy(tower(_scaled(np.stack(clips))), torch.tensor(bright))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _frame(settings: Any, step: int, place: int, images: Images, labels: Labels) -> tuple[NDArray[np.uint8], int]:
    """A frame of a clip that is in no split, and its bright digit."""
    rng = np.random.default_rng(seed_of("tower", settings.seed, step, place))
    bright, dim = rng.integers(len(images), size=2)
    side, frame = settings.cell, np.zeros((2 * settings.cell, 2 * settings.cell), np.float32)
    for digit, level, cell in zip((bright, dim), (1.0, settings.dim_level), rng.permutation(4), strict=False):
        row, column = side * (cell // 2), side * (cell % 2)
        frame[row : row + side, column : column + side] = images[digit].astype(np.float32) / 255 * level
    frame += settings.noise * rng.standard_normal(frame.shape, dtype=np.float32)
    return (frame.clip(0, 1) * 255).astype(np.uint8), int(labels[bright])


def _new(settings: Any) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("tower", settings.seed))
        sizes: dict[str, Any] = {"img_size": 2 * settings.cell, "patch_size": settings.cell, "embed_dim": _DIM, "depth": _DEPTH, "num_heads": _HEADS}
        return VisionTransformer(attention="softmax", **sizes, in_chans=1, num_classes=10)


def _scaled(frames: NDArray[np.uint8]) -> Tensor:
    """``(…, H, W)`` to ``(…, 1, H, W)``, from 0 to 1."""
    return torch.from_numpy(frames).unsqueeze(-3).float() / 255


def _folder() -> Path:
    folder = cache_folder() / "clip-questions"
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _hash(decisive: Any) -> str:
    return hashlib.sha256(json.dumps([1, torch.__version__, decisive], sort_keys=True, default=str).encode()).hexdigest()[:16]
