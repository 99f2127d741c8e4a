"""Images to be drawn out of a user's files: miniatures in the true formats, and what is broken in each."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import CIFAR10Files, DigitImages, FolderImages, TinyImageNet

RNG = np.random.default_rng(0)


def cifar(root: Path, count: int = 3, *, binary: bool = False, **changes) -> tuple[np.ndarray, list[int]]:
    """The layout of ``cifar-10-batches-py`` or ``-bin``; the first batch's pixels and labels."""
    root.mkdir(parents=True, exist_ok=True)
    first = None
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels, labels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8), [int(n) for n in RNG.integers(0, 10, count)]
        first = first or (pixels, labels)
        if binary:
            (root / f"{name}.bin").write_bytes(np.concatenate([np.array(labels, np.uint8)[:, None], pixels], 1).tobytes())
        else:
            # as Python 2 wrote them, protocol 2, and with the names of old NumPy
            content = {"batch_label": f"of {name}", "labels": labels, "data": pixels, "filenames": ["a.png"] * count} | changes
            written = pickle.dumps({key: value for key, value in content.items() if value is not None}, protocol=2)
            (root / name).write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return first


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("above", [False, True])
def test_cifar_is_read_as_it_is(tmp_path, binary, above) -> None:
    root = tmp_path / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py")
    pixels, labels = cifar(root, binary=binary)
    bundle = CIFAR10Files(root=tmp_path if above else root, flip=False).load()
    assert (len(bundle.train), len(bundle.test), len(bundle.classes), bundle.size) == (15, 3, 10, (32, 32))
    assert bundle.val is bundle.test
    assert "all 15 images" in bundle.notes[0]
    image, label = bundle.train[1]
    assert label == labels[1]
    # rows of red, then of green, then of blue
    for channel, row, column in ((0, 0, 5), (1, 3, 31), (2, 31, 0)):
        assert image[channel, row, column].item() == pytest.approx(pixels[1][channel * 1024 + row * 32 + column] / 127.5 - 1, abs=1e-6)
    mirrored = CIFAR10Files(root=root).load().train
    assert mirrored.augments
    torch.manual_seed(0)
    seen = [mirrored[1][0] for _ in range(20)]
    assert {torch.equal(other, image) for other in seen} == {True, False}
    assert all(torch.equal(other, image) or torch.equal(other.flip(-1), image) for other in seen)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": None}, "expected data of bytes"),
        ({"data": np.zeros((3, 3072))}, "expected data of bytes"),
        ({"data": np.zeros((3, 100), np.uint8)}, r"\(n, 3072\)"),
        ({"labels": [0, 1]}, "expected 3 labels"),
        ({"labels": [0, 1, 10]}, "from 0 to 9"),
        ({"labels": ["a", "b", "c"]}, "from 0 to 9"),
    ],
)
def test_a_batch_of_something_else_is_named(tmp_path, changes, says) -> None:
    cifar(tmp_path, **changes)
    with pytest.raises(InputError, match=says) as error:
        CIFAR10Files(root=tmp_path).load()
    assert "data_batch_1" in str(error.value)


def test_a_pickle_of_another_class_is_refused_and_its_code_does_not_run(tmp_path) -> None:
    cifar(tmp_path)
    mark = tmp_path / "PWNED"
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(mark)}))
    with pytest.raises(InputError, match=r"data_batch_3 is no batch.*it names pathlib.*which is no part"):
        CIFAR10Files(root=tmp_path).load()
    assert not mark.exists()
    for content in (b"", b"hello", pickle.dumps([1, 2]), pickle.dumps({"data": np.zeros(3)})[:-20]):
        (tmp_path / "data_batch_3").write_bytes(content)
        with pytest.raises(InputError, match="data_batch_3 is no batch of CIFAR-10"):
            CIFAR10Files(root=tmp_path).load()
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(InputError, match=r"cannot read .*data_batch_3"):
        CIFAR10Files(root=tmp_path).load()


def test_broken_binary_batches_are_named(tmp_path) -> None:
    cifar(tmp_path, binary=True)
    whole = (tmp_path / "data_batch_2.bin").read_bytes()
    for content, says in ((whole[:-1], "no whole number"), (b"", "no whole number"), (bytes([77]) + whole[1:], "image 0 has the label 77")):
        (tmp_path / "data_batch_2.bin").write_bytes(content)
        with pytest.raises(InputError, match=says):
            CIFAR10Files(root=tmp_path).load()
    with pytest.raises(InputError, match="has no data_batch_1"):
        CIFAR10Files(root=tmp_path / "elsewhere").load()


def picture(path: Path, value: int, *, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255 - value)).save(path, quality=100)


def tiny(root: Path) -> Path:
    """``tiny-imagenet-200`` with two classes, numbered as wnids.txt has them, one file of it gray."""
    for place, name in enumerate(("n02", "n01")):
        for number in range(3):
            picture(root / "train" / name / "images" / f"{name}_{number}.JPEG", 50 + 100 * place, mode="L" if number == 2 else "RGB")
        (root / "train" / name / f"{name}_boxes.txt").write_text("x\t0\t0\t3\t3\n")
    (root / "wnids.txt").write_text("n02\nn01\n")
    for number in range(2):
        picture(root / "val" / "images" / f"val_{number}.JPEG", 10 * number)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t32\t44\t62\nval_1.JPEG\tn02\t52\t55\t57\t59\n")
    return root


def test_tiny_imagenet_is_read_as_it_is(tmp_path) -> None:
    bundle = TinyImageNet(root=tiny(tmp_path), flip=False).load()
    assert bundle.classes == ["n02", "n01"]
    assert (len(bundle.train), len(bundle.val), bundle.size) == (6, 2, (64, 64))
    assert bundle.test is bundle.val
    assert [bundle.val[n][1] for n in range(2)] == [1, 0]
    image, label = bundle.train[4]
    assert (image.shape, label) == ((3, 64, 64), 1)
    assert image[0].mean().item() == pytest.approx(150 / 127.5 - 1, abs=0.05)
    assert bundle.train[2][0].std() < 0.02, "gray is three times the same"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda root: (root / "wnids.txt").unlink(), "wnids.txt is missing"),
        (lambda root: (root / "wnids.txt").write_text("n01\nn01\n"), "different classes"),
        (lambda root: (root / "val" / "val_annotations.txt").unlink(), "val_annotations.txt is missing"),
        (lambda root: (root / "val" / "val_annotations.txt").write_text(""), "names no image"),
        (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG n01 0 0 1 1\n"), "line 1: expected a file"),
        (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn07\t0\t0\t1\t1\n"), "line 1: expected a file, a class"),
        (lambda root: (root / "val" / "images" / "val_1.JPEG").unlink(), r"line 2: .*val_1.JPEG is not there"),
        (lambda root: [path.unlink() for path in (root / "train" / "n01" / "images").iterdir()], "n01/images has no images"),
    ],
)
def test_what_tiny_imagenet_lacks_is_named(tmp_path, harm, says) -> None:
    harm(tiny(tmp_path))
    with pytest.raises(InputError, match=says):
        TinyImageNet(root=tmp_path).load()


def test_a_broken_image_is_left_out_and_named(tmp_path) -> None:
    (tiny(tmp_path) / "train" / "n01" / "images" / "n01_0.JPEG").write_bytes(b"no picture")
    bundle = TinyImageNet(root=tmp_path).load()
    assert len(bundle.train) == 5
    assert "n01_0.JPEG" in bundle.notes[0]


def test_a_folder_by_class_and_without(tmp_path) -> None:
    for name, value in (("a", 0), ("b", 255)):
        for number in range(5):
            picture(tmp_path / name / f"{number}.png", value, size=(40, 60))
    picture(tmp_path / "a" / "one.png", 9, size=(1, 1))
    bundle = FolderImages(root=tmp_path, img_size=16, flip=False).load()
    assert (bundle.classes, bundle.size, len(bundle.train) + len(bundle.val)) == (["a", "b"], (16, 16), 10)
    assert "one.png" in " ".join(bundle.notes)
    for split in (bundle.train, bundle.val):
        for place in range(len(split)):
            image, label = split[place]
            assert image.shape == (3, 16, 16)
            assert image[0].unique().tolist() == [2.0 * label - 1]
    flat = FolderImages(root=tmp_path, img_size=16, classes=False).load()
    assert (flat.classes, len(flat.train), len(flat.val)) == ([], 8, 2)
    assert not set(flat.train.names) & set(flat.val.names)
    assert FolderImages(root=tmp_path).smoke_data() == DigitImages().smoke_data()


def test_folders_that_cannot_be_used_are_named(tmp_path) -> None:
    picture(tmp_path / "flat" / "one.png", 1)
    for name in ("flat", ""):
        with pytest.raises(InputError, match=r"has no two class folders.*--data\.classes False"):
            FolderImages(root=tmp_path / name).load()
    with pytest.raises(InputError, match="1 images; at least 2"):
        FolderImages(root=tmp_path / "flat", classes=False).load()
    with pytest.raises(InputError, match="does not exist"):
        FolderImages(root=tmp_path / "nowhere").load()
    for number in range(3):
        picture(tmp_path / "pixels" / f"{number}.png", 1, size=(1, 9))
    with pytest.raises(InputError, match=r"most of it would be left out, 3 of 3 images are of a single pixel .*0\.png"):
        FolderImages(root=tmp_path / "pixels", classes=False).load()
    unchecked = FolderImages(root=tmp_path / "pixels", classes=False, check=False).load()
    with pytest.raises(InputError, match=r"png: it is 1×9 pixels"):
        unchecked.train[0]


def test_most_of_a_folder_is_not_left_out_in_silence(tmp_path) -> None:
    """Images of another kind, broken ones, and those of a single pixel: of all, or of one class."""
    for kind, harm, says in (
        ("heic", lambda path: path.with_suffix(".heic").write_bytes(b"x"), "most of it would be left out, 6 of 8.*convert HEIC"),
        ("broken", lambda path: path.write_bytes(b"x"), "most of it would be left out, 6 of 8 cannot be read"),
        ("pixel", lambda path: picture(path, 1, size=(1, 1)), "most of it would be left out, 6 of 8 images are of a single pixel"),
    ):
        root = tmp_path / kind
        for number in range(2):
            picture(root / f"good{number}.png", number)
        for number in range(6):
            harm(root / f"bad{number}.png")
        with pytest.raises(InputError, match=says):
            FolderImages(root=root, classes=False).load()
    for number in range(4):
        picture(tmp_path / "classes" / "a" / f"{number}.png", number)
        picture(tmp_path / "classes" / "b" / f"{number}.png", number, size=(1, 1) if number else (9, 9))
    with pytest.raises(InputError, match=r"most of class 'b' would be left out, 3 of 4 images are of a single pixel .*b/1\.png"):
        FolderImages(root=tmp_path / "classes").load()


def test_images_of_a_single_pixel_in_tiny_imagenet_are_left_out_before_training(tmp_path) -> None:
    picture(tiny(tmp_path) / "train" / "n01" / "images" / "n01_0.JPEG", 1, size=(64, 1))
    bundle = TinyImageNet(root=tmp_path).load()
    assert len(bundle.train) == 5
    assert "1 images of a single pixel" in bundle.notes[0]
    for number in range(1, 3):
        picture(tmp_path / "train" / "n01" / "images" / f"n01_{number}.JPEG", 1, size=(1, 64))
    with pytest.raises(InputError, match="most of class 'n01' would be left out, 3 of 4"):
        TinyImageNet(root=tmp_path).load()


def test_a_folder_of_any_sizes_and_kinds_of_images_gives_images_of_one_size(tmp_path) -> None:
    sizes = [(2, 2), (3, 700), (700, 3), (33, 31), (640, 480)]
    for place, size in enumerate(sizes):
        picture(tmp_path / "a" / f"{place}.png", 255, size=size)
        picture(tmp_path / "b" / f"{place}.png", 0, size=size[::-1])
    for mode, name, value in (
        ("L", "gray.png", 7),
        ("RGBA", "clear.png", (1, 2, 3, 0)),
        ("P", "palette.gif", 3),
        ("I;16", "deep.png", 60_000),
        ("1", "two.bmp", 1),
    ):
        for kind in "ab":
            Image.new(mode, (20, 30), value).save(tmp_path / kind / name)
    bundle = FolderImages(root=tmp_path, img_size=16, flip=False).load()
    assert len(bundle.train) + len(bundle.val) == 20
    for split in (bundle.train, bundle.val):
        for place, name in enumerate(split.names):
            image, label = split[place]
            assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)
            assert bool((image.abs() <= 1).all())
            if name.split("/")[1][0].isdigit():
                assert image[:, 8, 8].tolist() == ([1.0, -1.0, -1.0] if label == 0 else [-1.0, -1.0, 1.0]), name
