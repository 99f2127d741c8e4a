"""A miniature of COCO, in its own format: scenes of several handwritten digits, with masks as run lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._miniature import miniature, save

__all__ = ["coco", "run_lengths"]

_IDS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 90)
"""COCO's own numbers of categories have gaps too."""


def run_lengths(mask: Any) -> list[int]:
    """Lengths of runs of 0 and 1 in turn, beginning with 0, down the columns of a mask ``(H, W)``."""
    flat = np.asarray(mask, bool).flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends, len(flat)]).tolist()
    return [0, *lengths] if flat[0] else lengths


def coco(train: int = 24, val: int = 6) -> Path:
    """``train2017``, ``val2017`` and ``annotations``.

    Args:
        train: images to train on.
        val: images to evaluate.
    """

    def write(root: Path) -> None:
        from .digits import DigitScenes

        made = DigitScenes(source="digits", train_scenes=train, val_scenes=val, test_scenes=1).load()
        for part, split in (("train2017", made.train), ("val2017", made.val)):
            images, objects = [], list[dict[str, Any]]()
            for index in range(len(split)):
                image, target = split[index]
                # the inverse of what the split did to the bytes
                gray = ((image[0] * 0.25 + 0.13) * 255).round().clamp(0, 255).byte().numpy()
                name, number = f"{index:012}.jpg", 1000 + index
                save(root / part / name, np.stack([gray] * 3, -1))
                images.append({"id": number, "file_name": name, "height": gray.shape[0], "width": gray.shape[1]})
                for box, label, mask in zip(target["boxes"].tolist(), target["labels"].tolist(), target["masks"], strict=True):
                    left, top, right, bottom = box
                    objects.append(
                        {
                            **{"id": len(objects) + 1, "image_id": number, "category_id": _IDS[label], "iscrowd": 0},
                            **{"bbox": [left, top, right - left, bottom - top], "area": int(mask.sum())},
                            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
                        }
                    )
            listed = {"images": images, "annotations": objects, "categories": [{"id": number, "name": str(n)} for n, number in enumerate(_IDS)]}
            file = root / "annotations" / f"instances_{part}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(listed), encoding="utf8")

    return miniature(f"coco-{train}-{val}", write)
