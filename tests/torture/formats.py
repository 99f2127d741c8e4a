"""Sets of files in their true formats, one of every kind that is read, in miniature."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveal.lab import data as sets
from foveal.lab.data import read_conversations
from foveal.lab.recipes import get_recipe, smoke
from tests.data.image_language import test_files as language
from tests.data.test_conversations import entry, written
from tests.data.test_generation_files import cifar

__all__ = ["FORMATS", "Format"]

Read = Callable[[], Iterable[str]]
"""Reads all there is, and gives the notes on it."""


@dataclass(frozen=True)
class Format:
    """A set: how it is written, and what reads it."""

    make: Callable[[Path], Read]
    victims: tuple[str, ...]
    """Patterns of files that are damaged, the first file of each."""
    whole: tuple[str, ...] = ()
    """Damages that leave a legal file of this format, such as an image of zeros where images are bare bytes."""


def read_all(data: Any) -> Read:
    def read() -> list[str]:
        bundle = data.load()
        for split in {id(split): split for split in (bundle.train, bundle.val, bundle.test, *bundle.probes.values())}.values():
            for index in range(len(split)):
                split[index]
        return list(bundle.notes)

    return read


def _copied(small: Any) -> Callable[[Path], Read]:
    """A miniature of the library's own, in a folder that may be damaged."""

    def make(place: Path) -> Read:
        shutil.copytree(small().root, place)
        return read_all(replace(small(), root=place))

    return make


def _recipe(name: str, *victims: str, **changes: Any) -> Format:
    return Format(_copied(lambda: replace(smoke(get_recipe(name)).data, **changes)), victims)  # type: ignore[type-var]


def _of(cls: Any, *victims: str) -> Format:
    return Format(_copied(lambda: cls(root=Path("nowhere")).smoke_data()), victims)


def _pickles(binary: bool) -> Callable[[Path], Read]:
    def make(place: Path) -> Read:
        cifar(place, binary=binary)
        return read_all(sets.CIFAR10Files(root=place))

    return make


def _images(cls: Any, **options: Any) -> Callable[[Path], Read]:
    def make(place: Path) -> Read:
        shutil.copytree(sets.ImageFolder(root=Path("nowhere")).smoke_data().root, place)  # type: ignore[attr-defined]
        return read_all(cls(root=place, **options))

    return make


def _tiny_imagenet(place: Path) -> Read:
    source = sets.ImageFolder(root=Path("nowhere")).smoke_data().root  # type: ignore[attr-defined]
    names = ("n01443537", "n01629819")
    (place / "val" / "images").mkdir(parents=True)
    (place / "wnids.txt").write_text("\n".join(names) + "\n")
    lines = []
    for number, name in enumerate(names):
        (place / "train" / name / "images").mkdir(parents=True)
        for picture in sorted((source / "train" / str(number)).iterdir()):
            shutil.copy(picture, place / "train" / name / "images" / f"{name}_{picture.name}")
        picture = next((source / "val" / str(number)).iterdir())
        shutil.copy(picture, place / "val" / "images" / f"val_{number}.png")
        lines.append(f"val_{number}.png\t{name}\t0\t0\t62\t62\n")
    (place / "val" / "val_annotations.txt").write_text("".join(lines))
    return read_all(sets.TinyImageNet(root=place))


def _language(cls: Any, **options: Any) -> Callable[[Path], Read]:
    def make(place: Path) -> Read:
        place.mkdir(parents=True)
        return read_all(cls(root=language.write(place), at_least=1, **options))

    return make


def _said(place: Path) -> Read:
    place.mkdir(parents=True)
    path = written(place, json.loads(json.dumps([entry(), entry(id="b", video="b")])))
    return lambda: [str(one.id) for one in read_conversations(path, place)][:0]


FORMATS: dict[str, Format] = {
    "images, a folder a class": _recipe("image-folder", "train/*/*.png"),
    "images, unchecked": Format(_images(sets.ImageFolder, img_size=16, check=False), ("val/*/*.png",)),
    "images to be drawn": Format(_images(sets.FolderImages, img_size=16), ("train/*/*.png",)),
    "ImageNet in folders": Format(_images(sets.ImageNet, img_size=16, auto_augment=None), ("train/*/*.png",)),
    "ImageNet in tar shards": _recipe("dna-vit-base", "*train*.tar", "*.txt"),
    "Tiny-ImageNet": Format(_tiny_imagenet, ("wnids.txt", "val/val_annotations.txt", "train/*/images/*.png")),
    "CIFAR-10's pickles": Format(_pickles(False), ("data_batch_2", "test_batch")),
    "CIFAR-10's binary files": Format(_pickles(True), ("data_batch_2.bin",), ("zeros",)),
    "PASCAL VOC": _recipe("voc", "JPEGImages/*.jpg", "SegmentationClassAug/*.png", "ImageSets/Segmentation/val.txt"),
    "ADE20K": _recipe("ade20k", "images/training/*.jpg", "annotations/training/*.png"),
    "Cityscapes": _recipe("cityscapes", "leftImg8bit/train/*/*.png", "gtFine/train/*/*.png"),
    "ISPRS": _recipe("vaihingen", "**/*.tif"),
    "images and masks": _recipe("mask-folder", "**/*.jpg", "**/*.png"),
    "COCO": _recipe("coco-mask-rcnn", "annotations/instances_train2017.json", "train2017/*.jpg"),
    "COCO's captions and regions": Format(_language(sets.CocoCaptions), ("dataset_coco.json", "regions.tsv")),
    "VQA": Format(_language(sets.VQAv2), ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json", "regions.tsv")),
    "conversations": Format(_said, ("said.json",)),
    "videos": _recipe("dna-timesformer-k400", "train/**/*.mp4"),
    "videos by lists": _recipe("dna-timesformer-k400", "train/**/*.mp4", "lists/train.csv", "lists/classes.txt", lists=Path("lists")),
    "KITTI": _recipe("kitti-stereo", "**/image_2/*_10.png", "**/disp_occ_0/*.png"),
    "Scene Flow": _recipe("scene-flow", "**/left/*.png", "**/left/*.pfm"),
    "Middlebury": _of(sets.MiddleburyStereo, "**/im0.png", "**/disp0.pfm"),
    "ModelNet40, HDF5": _recipe("pct-modelnet40", "**/ply_data_train0.h5", "train_files.txt", "shape_names.txt"),
    "ModelNet40, OFF": _of(sets.ModelNet40Off, "**/train/*.off"),
    "ModelNet40, text": _of(sets.ModelNet40Txt, "**/*_0001.txt", "modelnet40_shape_names.txt"),
    "ShapeNet-Part, HDF5": _recipe("pct-shapenet-part", "**/ply_data_train*.h5", "**/*.txt"),
    "ShapeNet-Part, text": _of(sets.ShapeNetPartTxt, "0*/*.txt", "synsetoffset2category.txt", "**/*.json"),
}
