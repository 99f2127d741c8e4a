"""Masks as people have them: 0 and 255, turned otherwise than the image, floats, two of one name, and sets in which nothing can be learned."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from foveal import InputError
from foveal.cli import main
from foveal.lab.data import IGNORE, ISPRS, MaskFolder, PascalVOC

SHOWN = np.zeros((8, 12), np.uint8)
SHOWN[:3, 2:9] = 1
# what a camera stores so that it is shown as above, see the EXIF standard
STORED = {1: SHOWN, 2: SHOWN[:, ::-1], 3: SHOWN[::-1, ::-1], 4: SHOWN[::-1], 5: SHOWN.T, 6: SHOWN.T[::-1], 7: SHOWN.T[::-1, ::-1], 8: SHOWN.T[:, ::-1]}


def put(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif" and pixels.dtype.kind == "f":
        tifffile.imwrite(path, pixels)
        return path
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
    return path


def pairs(root: Path, mask: np.ndarray = SHOWN, count: int = 4, image: np.ndarray | None = None) -> Path:
    for n in range(count):
        put(root / "images" / f"{n}.png", np.full(mask.shape[:2], 90, np.uint8) if image is None else image)
        put(root / "masks" / f"{n}.png", mask)
    return root


def load(root: Path, **options):
    return MaskFolder(root=root, **{"img_size": 8, "classes": ("bg", "fg"), **options}).load()


# -- 0 and 255 ------------------------------------------------------------------------------------------------------------------------------------


def one_bit(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask * 255).convert("1")


@pytest.mark.case("F2")
@pytest.mark.parametrize("check", [True, False])
def test_masks_of_0_and_255_are_refused_with_the_remedy_and_read_with_it(tmp_path, check) -> None:
    pairs(tmp_path, SHOWN * 255)
    with pytest.raises(InputError, match=r"show the one class 'bg'.*--data\.values 0 255"):
        load(tmp_path, check=check)
    bundle = load(tmp_path, check=check, values=(0, 255))
    assert torch.equal(bundle.val[0][1], torch.from_numpy(SHOWN).long())
    turned = load(tmp_path, check=check, values=(255, 0))
    assert torch.equal(turned.val[0][1], 1 - torch.from_numpy(SHOWN).long())


@pytest.mark.case("F2")
def test_the_command_line_refuses_them_and_takes_the_remedy(tmp_path, capsys) -> None:
    pairs(tmp_path / "data", SHOWN * 255)
    command = ["train", "mask-folder", "--data.root", str(tmp_path / "data"), "--data.classes", "bg", "fg", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--data.values 0 255" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


MASKS = {
    "one bit": lambda path: one_bit(SHOWN).save(path),
    "gray": lambda path: Image.fromarray(SHOWN).save(path),
    "16 bits": lambda path: Image.fromarray(SHOWN.astype(np.uint16)).save(path),
    "palette": lambda path: Image.fromarray(SHOWN).convert("P").save(path) or palette(path),
    "whole floats": lambda path: tifffile.imwrite(path.with_suffix(".tif"), SHOWN.astype(np.float32)),
    "32 bits": lambda path: tifffile.imwrite(path.with_suffix(".tif"), SHOWN.astype(np.int32)),
    "signed 16 bits": lambda path: tifffile.imwrite(path.with_suffix(".tif"), SHOWN.astype(np.int16)),
}


def palette(path: Path) -> None:
    image = Image.frombytes("P", SHOWN.shape[::-1], SHOWN.tobytes())
    image.putpalette([9, 9, 9, 200, 0, 0] + [7] * 750)
    image.save(path)


@pytest.mark.case("F2")
@pytest.mark.parametrize("form", MASKS)
def test_every_form_of_numbers_is_read(tmp_path, form) -> None:
    for n in range(4):
        put(tmp_path / "images" / f"{n}.png", SHOWN)
        (tmp_path / "masks").mkdir(exist_ok=True)
        MASKS[form](tmp_path / "masks" / f"{n}.png")
    assert torch.equal(load(tmp_path).val[0][1], torch.from_numpy(SHOWN).long())


def marked(path: Path) -> None:
    image = Image.frombytes("P", SHOWN.shape[::-1], (SHOWN * 7).tobytes())
    image.putpalette([0] * 768)
    image.save(path)


def stack(path: Path) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), np.stack([SHOWN] * 3), photometric="minisblack")


WRONG = {
    "a value beyond the classes": (
        lambda path: Image.fromarray(SHOWN * 2).save(path),
        r"masks/1\.png holds the value 2; expected 0 to 1 for bg, fg, or 255; say with --data\.values",
    ),
    "an index beyond the classes": (marked, r"masks/1\.png holds the value 7"),
    "colors": (lambda path: Image.fromarray(np.stack([SHOWN * 255] * 3, -1)).save(path), r"masks/1\.png is a mask of shape .*save it as gray"),
    "transparency": (lambda path: Image.fromarray(SHOWN).convert("LA").save(path), r"masks/1\.png is a mask of shape .*save it as gray"),
    "floats between": (lambda path: tifffile.imwrite(path.with_suffix(".tif"), SHOWN * np.float32(0.7)), r"masks/1\.tif is a mask of floats and holds 0\.69"),
    "nan": (lambda path: tifffile.imwrite(path.with_suffix(".tif"), SHOWN * np.float32("nan")), r"masks/1\.tif is a mask of floats and holds nan"),
    "inf": (lambda path: tifffile.imwrite(path.with_suffix(".tif"), np.where(SHOWN, np.inf, 0).astype(np.float32)), r"floats and holds inf"),
    "negative": (lambda path: tifffile.imwrite(path.with_suffix(".tif"), -SHOWN.astype(np.int32)), r"holds the value -1"),
    "four billion": (lambda path: tifffile.imwrite(path.with_suffix(".tif"), SHOWN * np.uint32(2**31 - 1)), r"holds the value 2147483647"),
    "a stack": (stack, r"masks/1\.tif holds 3 pictures; expected a mask of one"),
}


@pytest.mark.case("F2", "F42")
@pytest.mark.parametrize("what", WRONG)
def test_masks_that_mean_nothing_are_refused_by_name(tmp_path, what) -> None:
    make, says = WRONG[what]
    pairs(tmp_path)
    (tmp_path / "masks" / "1.png").unlink()
    make(tmp_path / "masks" / "1.png")
    with pytest.raises(InputError, match=says):
        load(tmp_path)


@pytest.mark.case("F2")
def test_with_values_no_other_number_means_anything(tmp_path) -> None:
    pairs(tmp_path, SHOWN * 255)
    put(tmp_path / "masks" / "1.png", SHOWN * 254)
    with pytest.raises(InputError, match=r"masks/1\.png holds the value 254; expected 0 for bg, 255 for fg"):
        load(tmp_path, values=(0, 255))
    put(tmp_path / "masks" / "1.png", np.where(SHOWN, 255, 100).astype(np.uint8))
    pairs(tmp_path / "parts" / "train", SHOWN * 255)
    pairs(tmp_path / "parts" / "val", np.where(SHOWN, 255, 100).astype(np.uint8))
    bundle = load(tmp_path / "parts", values=(0, 255), ignore=(100,))
    assert torch.equal(bundle.val[0][1], torch.from_numpy(np.where(SHOWN, 1, IGNORE)))
    assert "1 of 2 classes have no pixel in val: bg" in bundle.notes
    for values, says in (((0,), "2 different numbers"), ((0, 0), "2 different numbers"), ((0, 100), "in values and in ignore")):
        with pytest.raises(InputError, match=says):
            load(tmp_path, values=values, ignore=(100,))


@pytest.mark.case("F2")
@pytest.mark.parametrize("check", [True, False])
def test_a_set_in_which_nothing_is_known_or_one_class_is_refused(tmp_path, check) -> None:
    pairs(tmp_path / "unknown", np.full((8, 12), 255, np.uint8))
    with pytest.raises(InputError, match="in train every pixel of every mask is of no class"):
        load(tmp_path / "unknown", check=check)
    pairs(tmp_path / "one", np.ones((8, 12), np.uint8))
    with pytest.raises(InputError, match="the masks of train show the one class 'fg'"):
        load(tmp_path / "one", check=check)


@pytest.mark.case("F2")
def test_classes_without_a_pixel_are_said_and_a_split_without_truth_is_refused(tmp_path) -> None:
    for part in ("train", "val", "test"):
        pairs(tmp_path / part, SHOWN * 2)
    notes = load(tmp_path, classes=("bg", "cat", "dog")).notes
    for part in ("train", "val", "test"):
        assert f"1 of 3 classes have no pixel in {part}: cat" in notes
    pairs(tmp_path / "test", np.full((8, 12), 255, np.uint8))
    with pytest.raises(InputError, match="in test every pixel of every mask is of no class"):
        load(tmp_path, classes=("bg", "cat", "dog"))


@pytest.mark.case("F2")
def test_so_it_is_in_the_benchmarks(tmp_path) -> None:
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, stem in (("train", "a"), ("val", "b")):
        (tmp_path / "ImageSets" / "Segmentation" / f"{name}.txt").write_bytes(b"\xef\xbb\xbf" + stem.encode() + b"\r\n")
        put(tmp_path / "JPEGImages" / f"{stem}.jpg", SHOWN)
        put(tmp_path / "SegmentationClass" / f"{stem}.png", SHOWN * 255)
    with pytest.raises(InputError, match="show the one class 'background'"):
        PascalVOC(root=tmp_path, train_list="train").load()


# -- how image and mask lie on each other ---------------------------------------------------------------------------------------------------------


@pytest.mark.case("F4")
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["stored", "shown"])
def test_sizes_tell_what_a_mask_was_drawn_on(tmp_path, orientation, drawn_on) -> None:
    for n in range(2):
        put(tmp_path / "images" / f"{n}.png", STORED[orientation] * 255, orientation)
        put(tmp_path / "masks" / f"{n}.png", SHOWN if drawn_on == "shown" else STORED[orientation])
    image, mask = load(tmp_path).val[0]
    assert torch.equal(mask, torch.from_numpy(SHOWN).long())
    assert torch.equal((image[0] > 0).long(), mask), "image and mask are turned alike"


@pytest.mark.case("F4")
@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("check", [True, False])
def test_where_sizes_do_not_tell_it_has_to_be_said(tmp_path, orientation, check) -> None:
    for n in range(2):
        put(tmp_path / "images" / f"{n}.png", STORED[orientation] * 255, orientation)
        put(tmp_path / "masks" / f"{n}.png", STORED[orientation])
    with pytest.raises(InputError, match=rf"images/\d\.png has the orientation {orientation} .*--data\.drawn-on stored or shown"):
        load(tmp_path, check=check)
    for drawn_on, want in (("stored", SHOWN), ("shown", STORED[orientation])):
        image, mask = load(tmp_path, check=check, drawn_on=drawn_on).val[0]
        assert torch.equal(mask, torch.from_numpy(want.copy()).long())
        assert torch.equal((image[0] > 0).long(), torch.from_numpy(SHOWN).long()), "the image is always as it is shown"


@pytest.mark.case("F4")
def test_squares_do_not_tell_either(tmp_path) -> None:
    square = SHOWN[:, :8]
    for n in range(2):
        put(tmp_path / "images" / f"{n}.png", square.T[::-1] * 255, 6)
        put(tmp_path / "masks" / f"{n}.png", square)
    with pytest.raises(InputError, match="has the orientation 6"):
        load(tmp_path)
    put(tmp_path / "masks" / "0.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(InputError, match=r"is 9×8, but .* is 8×8"):
        load(tmp_path, drawn_on="shown")


@pytest.mark.case("F4")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_with_the_same_note_is_turned_with_its_image(tmp_path, orientation) -> None:
    for n in range(2):
        put(tmp_path / "images" / f"{n}.tif", STORED[orientation] * 255, orientation)
        put(tmp_path / "masks" / f"{n}.png", STORED[orientation], orientation)
    for options in ({}, {"check": False}, {"drawn_on": "stored"}, {"drawn_on": "shown"}):
        image, mask = load(tmp_path, **options).val[0]
        assert torch.equal(mask, torch.from_numpy(SHOWN).long())
        assert torch.equal((image[0] > 0).long(), mask)


# -- which mask belongs to which image ------------------------------------------------------------------------------------------------------------


@pytest.mark.case("F42")
@pytest.mark.parametrize(("kind", "ending"), [("images", "jpg"), ("masks", "bmp"), ("masks", "tif"), ("images", "PNG")])
def test_two_files_of_one_name_are_refused(tmp_path, kind, ending) -> None:
    pairs(tmp_path)
    put(tmp_path / kind / f"1.{ending}", SHOWN)
    with pytest.raises(InputError, match=rf"{kind}/1\.\w+ and .*{kind}/1\.\w+ are two {kind} of one name"):
        load(tmp_path)


@pytest.mark.case("F42")
def test_two_tiles_of_one_number_are_refused(tmp_path) -> None:
    for tile in (1, 30, 38):
        put(tmp_path / "images" / f"top_mosaic_09cm_area{tile}.tif", np.stack([SHOWN] * 3, -1))
        put(tmp_path / "masks" / f"top_mosaic_09cm_area{tile}.tif", np.stack([SHOWN * 255, 0 * SHOWN, (1 - SHOWN) * 255], -1))
    put(tmp_path / "masks" / "._top_mosaic_09cm_area1.tif", SHOWN)
    assert any("1 hidden" in note for note in ISPRS(root=tmp_path, img_size=8).load().notes)
    put(tmp_path / "masks" / "top_mosaic_09cm_area1_noBoundary.tif", np.stack([SHOWN * 255] * 3, -1))
    with pytest.raises(InputError, match=r"area1\.tif and .*area1_noBoundary\.tif are both the tile 1"):
        ISPRS(root=tmp_path, img_size=8).load()


@pytest.mark.case("F14")
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_split_of_broken_files_names_them(tmp_path, kind) -> None:
    pairs(tmp_path / "train")
    pairs(tmp_path / "val", count=1)
    (tmp_path / "val" / kind / "0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=rf"no image with a mask in val that can be read: cannot read .*val/{kind}/0\.png"):
        load(tmp_path)
