"""Image folders: what is found, what is left out and named, what is refused and how."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import ImageFolder

RED, BLUE = (200, 30, 30), (30, 30, 200)


def put(path: Path, color: tuple[int, ...] = RED, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    (image.quantize() if mode == "P" else image.convert(mode)).save(path)
    return path


def flat(root: Path, count: int = 10) -> Path:
    for n in range(count):
        put(root / "blue" / f"{n}.png", (30, 30, 100 + n))
        put(root / "red" / f"{n}.png", (100 + n, 30, 30))
    return root


def split(root: Path, *names: str) -> Path:
    for name in names or ("train", "val"):
        flat(root / name, 3)
    return root


def load(root: Path, **options):
    return ImageFolder(root=root, img_size=8, **options).load()


def test_train_val_and_test_are_what_lies_there(tmp_path) -> None:
    put(split(tmp_path, "train", "val", "test") / "test" / "red" / "deep" / "more.JPEG")
    bundle = load(tmp_path)
    assert bundle.classes == ["blue", "red"]
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (6, 6, 7)
    assert (bundle.img_size, bundle.in_chans, bundle.notes) == (8, 3, [])
    for n in range(7):
        image, label = bundle.test[n]
        assert image.shape == (3, 8, 8)
        assert bundle.classes[label] == ("red" if image[0].mean() > image[2].mean() else "blue")
    files = [file for file, _ in bundle.test.files]
    assert files == sorted(files)
    assert all(file.is_relative_to(tmp_path / "test") for file in files)


def test_evaluation_is_a_center_crop_standardized(tmp_path) -> None:
    """Brightness ramps from left to right; the middle of it stays, and nothing is random."""
    ramp = np.tile(np.arange(40, dtype=np.uint8) * 6, (20, 1))
    for name in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / name / label / "0.png")
    bundle = ImageFolder(root=tmp_path, img_size=16).load()
    image = bundle.val[0][0]
    assert torch.equal(image, bundle.val[0][0])
    seen = (image[0] * 0.229 + 0.485).mean(0) * 255
    # 20 pixels high become round(16 · 1.14) = 18, of which the middle 16 stay; columns likewise lie in the middle
    want = (np.arange(16) - 7.5) * 20 / 18 * 6 + 19.5 * 6
    np.testing.assert_allclose(seen.numpy(), want, atol=2.5)
    assert torch.equal(bundle.prepare(Image.open(tmp_path / "val" / "a" / "0.png")), image)


def test_training_images_are_augmented_and_drawn_from_torch(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    for name in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            Image.fromarray(noise).save(tmp_path / name / label / "0.png")
    for options in ({}, {"randaugment": True}):
        bundle = load(tmp_path, **options)
        assert (bundle.train.augments, bundle.val.augments, bundle.test.augments) == (True, False, False)
        torch.manual_seed(0)
        first, second = bundle.train[0][0], bundle.train[0][0]
        torch.manual_seed(0)
        assert torch.equal(bundle.train[0][0], first)
        assert not torch.equal(second, first)


def test_a_flat_folder_is_split_by_seed_alone(tmp_path) -> None:
    flat(tmp_path)
    bundle, again, other = load(tmp_path), load(tmp_path), load(tmp_path, seed=1)

    def files(part) -> list[Path]:
        return [file for file, _ in part.files]

    assert files(bundle.val) == files(again.val)
    assert files(bundle.val) != files(other.val)
    assert sorted(files(bundle.train) + files(bundle.val)) == sorted(tmp_path.rglob("*.png"))
    assert [label for _, label in bundle.val.files] == [0, 0, 1, 1], "a fifth of every class"
    assert files(bundle.test) == files(bundle.val)
    assert bundle.notes == ["there is no test split: the final numbers are those of val"]
    assert len(load(tmp_path, val_fraction=0.5).val) == 10
    assert (len(load(tmp_path, val_fraction=0.999).train), len(load(tmp_path, val_fraction=0.001).val)) == (2, 2), "both parts keep one of each class"


def test_unreadable_images_are_left_out_and_named(tmp_path) -> None:
    flat(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "red" / "cut.jpg")
    (tmp_path / "red" / "cut.jpg").write_bytes((tmp_path / "red" / "cut.jpg").read_bytes()[:900])
    (tmp_path / "red" / "text.png").write_text("I am no image")
    (tmp_path / "blue" / "empty.webp").touch()
    (tmp_path / "blue" / "notes.txt").write_text("not looked at")
    (tmp_path / "blue" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    bundle = load(tmp_path)
    (note,) = (note for note in bundle.notes if "unreadable" in note)
    assert note.startswith("4 unreadable images were left out")
    for name in ("cut.jpg", "text.png", "empty.webp", "dangling.png"):
        assert name in note
    assert "notes.txt" not in note
    kept = {file.name for part in (bundle.train, bundle.val) for file, _ in part.files}
    assert kept == {f"{n}.png" for n in range(10)}
    for part in (bundle.train, bundle.val):
        for n in range(len(part)):
            assert part[n][0].isfinite().all()


def test_unchecked_broken_images_stop_with_their_name(tmp_path) -> None:
    flat(tmp_path)
    (tmp_path / "red" / "text.png").write_text("I am no image")
    bundle = load(tmp_path, check=False)
    part, place = next((part, n) for part in (bundle.train, bundle.val) for n, (file, _) in enumerate(part.files) if file.name == "text.png")
    with pytest.raises(InputError, match=r"cannot read .*red/text\.png.*check=True"):
        part[place]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_all_kinds_of_images_become_three_channels(tmp_path, mode) -> None:
    flat(tmp_path, 2)
    suffix = {"CMYK": "jpg", "P": "gif"}.get(mode, "png")
    for n in range(2):
        path = tmp_path / "odd" / f"{n}.{suffix}"
        if mode == "I;16":
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((16, 20), 128 * 257, dtype=np.uint16)).save(path)
        else:
            put(path, (128, 128, 128), mode=mode)
    bundle = load(tmp_path)
    assert bundle.classes[1] == "odd"
    odd = [part[n][0] for part in (bundle.train, bundle.val) for n in range(len(part)) if part[n][1] == 1]
    assert len(odd) == 2
    for image in odd:
        assert image.shape == (3, 8, 8)
        gray = image * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        if mode != "1":
            assert (gray - 128 / 255).abs().max() < 0.02, "middle gray stays middle gray"


def test_a_palette_with_transparency_does_not_warn(tmp_path) -> None:
    flat(tmp_path, 2)
    for n in range(2):
        (tmp_path / "odd").mkdir(exist_ok=True)
        picture = Image.new("P", (20, 16))
        picture.putpalette([128] * 768)
        picture.save(tmp_path / "odd" / f"{n}.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle = load(tmp_path)
        assert [note for note in bundle.notes if "unreadable" in note] == []
        assert all(part[n][0].isfinite().all() for part in (bundle.train, bundle.val) for n in range(len(part)))


def missing(root: Path) -> None:
    root.rmdir()


def a_file(root: Path) -> None:
    root.rmdir()
    root.write_text("")


def nothing(root: Path) -> None:
    pass


def images_without_classes(root: Path) -> None:
    put(root / "0.png")


def one_class(root: Path) -> None:
    put(root / "red" / "0.png")


def one_class_in_train(root: Path) -> None:
    put(root / "train" / "red" / "0.png")
    put(root / "val" / "red" / "0.png")


def empty_class(root: Path) -> None:
    (flat(root) / "green").mkdir()


def class_of_texts(root: Path) -> None:
    (flat(root) / "green").mkdir()
    (root / "green" / "a.txt").touch()


def unreadable_class(root: Path) -> None:
    class_of_texts(root)
    (root / "green" / "a.txt").rename(root / "green" / "a.png")


def one_image(root: Path) -> None:
    put(flat(root) / "green" / "0.png")


def no_val(root: Path) -> None:
    split(root, "train")


def no_train(root: Path) -> None:
    split(root, "val", "test")


def only_val(root: Path) -> None:
    split(root, "val")


def other_classes(root: Path) -> None:
    put(split(root) / "val" / "green" / "0.png")


def fewer_classes(root: Path) -> None:
    put(split(root) / "train" / "green" / "0.png")


def other_classes_in_test(root: Path) -> None:
    put(split(root, "train", "val", "test") / "test" / "green" / "0.png")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, r"data does not exist; expected a folder with train/CLASS"),
        (a_file, r"data is a file; expected a folder"),
        (nothing, r"data has no class folders"),
        (images_without_classes, r"data has no class folders"),
        (one_class, r"one class 'red'; at least 2"),
        (one_class_in_train, r"train has the one class 'red'"),
        (empty_class, r"no images for green"),
        (class_of_texts, r"no images for green; expected files ending in .*\.png"),
        (unreadable_class, r"none of the 1 images of class 'green' can be read.*a\.png"),
        (one_image, r"green has 1 readable image; at least 2"),
        (no_val, r"has train/ but no val/; add .*val"),
        (no_train, r"has val/ but no train/; add .*train"),
        (only_val, r"has val/ but no train/; add .*train"),
        (other_classes, r"val and train must have the same classes, but green"),
        (fewer_classes, r"val and train must have the same classes, but green"),
        (other_classes_in_test, r"test and train must have the same classes, but green"),
    ],
)
def test_folders_that_cannot_be_used_say_why(tmp_path, make, says) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    with pytest.raises(InputError, match=says):
        load(tmp_path / "data")


@pytest.mark.parametrize("options", [{"val_fraction": 0.0}, {"val_fraction": 1.0}, {"val_fraction": -1}])
def test_fractions_that_split_nothing_are_refused(tmp_path, options) -> None:
    with pytest.raises(InputError, match="val_fraction"):
        load(flat(tmp_path), **options)


@pytest.mark.parametrize(("name", "value"), [("img_size", 0), ("img_size", -8), ("min_scale", 0.0), ("min_scale", 1.5)])
def test_sizes_that_make_no_image_are_refused(tmp_path, name, value) -> None:
    with pytest.raises(InputError, match=name):
        ImageFolder(root=flat(tmp_path), **{"img_size": 8, name: value}).load()


def test_hidden_folders_are_no_classes(tmp_path) -> None:
    (flat(tmp_path) / ".cache").mkdir()
    assert load(tmp_path).classes == ["blue", "red"]


def test_relative_paths_and_strings_do(tmp_path, monkeypatch) -> None:
    flat(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert len(load(Path("data")).train) == 16
    assert len(load("data").train) == 16


def test_photos_stand_upright(tmp_path) -> None:
    """A camera held sideways says so in EXIF: orientation 6 is to be turned by a quarter."""
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            exif = Image.Exif()
            exif[0x0112] = 6
            # what the sensor saw: turned back, so that turning it by a quarter clockwise gives the upright picture
            Image.fromarray(np.rot90(upright)).save(tmp_path / split / label / "photo.png", exif=exif)
    image, _ = ImageFolder(root=tmp_path, img_size=32).load().val[0]
    assert image[:, :12].min() > image[:, 20:].max()
