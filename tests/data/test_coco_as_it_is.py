"""COCO files as people have them: every field of another type, hostile numbers, boxes outside, doubled ids, and how the camera was held."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import CocoFolder
from foveal.lab.data.detection._masks import unpacked

HIGH, WIDE = 20, 30


def square(left: float, top: float, wide: float, high: float) -> list[list[float]]:
    return [[left, top, left + wide, top, left + wide, top + high, left, top + high]]


def annotation(number: int, image: int, box: list[float], **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 3, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": square(*box)} | changes


def plain() -> dict[str, Any]:
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "height": HIGH, "width": WIDE} for number in range(1, 6)],
        "annotations": [annotation(number, number, [2.0, 4.0, 10.0, 6.0]) for number in range(1, 6)],
        "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}],
    }


def write(root: Path, values: Any, raw: bytes | None = None) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part, own in (("train2017", values), ("val2017", plain())):
        (root / part).mkdir(exist_ok=True)
        for number in range(1, 6):
            if not (root / part / f"{number}.png").exists():
                Image.fromarray(np.full((HIGH, WIDE), 9 * number, np.uint8)).save(root / part / f"{number}.png")
        content = json.dumps(own).encode() if raw is None or part == "val2017" else raw
        (root / "annotations" / f"instances_{part}.json").write_bytes(content)
    return root


def load(root: Path, **options: Any):
    return CocoFolder(root=root, flip=False, **options).load()


def changed(place: str, **fields: Any) -> dict[str, Any]:
    """One entry of the plain file with other fields; those that are ... are taken out."""
    values = plain()
    values[place][1] |= fields
    values[place][1] = {name: value for name, value in values[place][1].items() if value is not ...}
    return values


NAN, INF = float("nan"), float("inf")
WRONG: dict[str, tuple[Any, str]] = {
    "nan in a box": (changed("annotations", bbox=[NAN, 1, 2, 3]), r"annotation 2 has bbox \[nan, 1, 2, 3\]; expected 4 finite numbers"),
    "inf in a box": (changed("annotations", bbox=[0, 1, INF, 3]), r"annotation 2 has bbox"),
    "a box of all nan": (changed("annotations", bbox=[NAN] * 4), r"annotation 2 has bbox"),
    "a text as a box": (changed("annotations", bbox="x"), r"annotation 2 has bbox 'x'"),
    "texts in a box": (changed("annotations", bbox=["1", "2", "3", "4"]), r"annotation 2 has bbox"),
    "three numbers": (changed("annotations", bbox=[1, 2, 3]), r"annotation 2 has bbox \[1, 2, 3\]; expected 4"),
    "no box": (changed("annotations", bbox=None), r"annotation 2 has bbox None"),
    "swapped corners": (
        changed("annotations", bbox=[10, 10, -5, -5]),
        r"annotation 2 has bbox .*expected left, top, width and height, none",
    ),
    "a number of many digits": (changed("annotations", bbox=[1, 2, 3, 10**400]), r"annotation 2 has bbox"),
    "a huge number": (changed("annotations", bbox=[1, 2, 3, 10**30]), r"annotation 2 has bbox"),
    "a word as an area": (changed("annotations", area="big"), r"annotation 2 has area 'big'; expected a finite number"),
    "an area below 0": (changed("annotations", area=-3), r"annotation 2 has area -3"),
    "an area of nan": (changed("annotations", area=NAN), r"annotation 2 has area nan"),
    "a crowd of 2": (changed("annotations", iscrowd=2), r"annotation 2 has iscrowd 2; expected 0 or 1"),
    "a crowd in words": (changed("annotations", iscrowd="no"), r"annotation 2 has iscrowd 'no'"),
    "an image id in words": (changed("images", id="img_a"), r"the image at place 1 has id 'img_a'; expected a whole number"),
    "digits as an image id": (changed("images", id="2"), r"the image at place 1 has id '2'; expected a whole number"),
    "true as an image id": (changed("images", id=True), r"the image at place 1 has id True"),
    "half an id": (changed("images", id=1.5), r"the image at place 1 has id 1\.5"),
    "an id of 70 bits": (changed("images", id=2**70), r"the image at place 1 has id 1180591620717411303424"),
    "an image id in words in an annotation": (changed("annotations", image_id="img_a"), r"annotation 2 has image_id 'img_a'; expected a whole number"),
    "an annotation id in words": (changed("annotations", id="x"), r"the annotation at place 1 has id 'x'"),
    "a category in words": (changed("annotations", category_id="car"), r"annotation 2 has category_id 'car'"),
    "a category id in words": (changed("categories", id="car"), r"the category at place 1 has id 'car'"),
    "a category without a name": (changed("categories", name=...), r"not in COCO's format: KeyError 'name', category 90"),
    "a category that is not listed": (changed("annotations", category_id=4), r"annotation 2 is of category 4, which the file does not list"),
    "an image that is not listed": (changed("annotations", image_id=8), r"annotation 2 is of image 8, which the file does not list"),
    "an image without a file": (changed("images", file_name=...), r"KeyError 'file_name', image 2"),
    "a file name of nothing": (changed("images", file_name=" "), r"image 2 has file_name ' '"),
    "a number as a file name": (changed("images", file_name=7), r"image 2 has file_name 7"),
    "no height": (changed("images", height=...), r"KeyError 'height', image 2"),
    "a height of 0": (changed("images", height=0), r"image 2 has height 0; expected a whole number from 1 on"),
    "a height in words": (changed("images", height="20"), r"image 2 has height '20'"),
    "keypoints alone": (changed("annotations", bbox=..., segmentation=..., keypoints=[1, 2, 2]), r"annotation 2 has no mask; give masks=False"),
    "an annotation that is a list": (plain() | {"annotations": [[1, 2]]}, r"the annotation at place 0 is \[1, 2\]; expected an object"),
    "annotations that are no list": (plain() | {"annotations": {"1": {}}}, r"not in COCO's format: it has no list 'annotations'"),
    "a list as a file": ([plain()], r"not in COCO's format: it has no list 'categories'"),
    "a number as a file": (7, r"not in COCO's format"),
    "no categories": (plain() | {"categories": []}, r"lists no categories"),
    "two categories of one id": (changed("categories", id=3), r"two categories of the id 3, 'car' and 'toothbrush'"),
    "two categories of one name": (changed("categories", name="car"), r"categories of one name"),
    "two annotations of one id": (changed("annotations", id=1), r"two annotations of the id 1"),
    "two images of one id": (changed("images", id=1), r"two images of the id 1"),
    "one file twice": (changed("images", file_name="1.png"), r"lists 1\.png twice, as image 1 and as image 2"),
}


@pytest.mark.case("F9", "F10", "F43")
@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("check", [True, False])
def test_every_field_is_looked_at_before_the_first_step(tmp_path, what, check) -> None:
    values, says = WRONG[what]
    with pytest.raises(InputError, match=says) as caught:
        load(write(tmp_path, values), check=check)
    assert "instances_train2017.json" in str(caught.value)


@pytest.mark.case("F10")
def test_keypoints_alone_have_no_boxes(tmp_path) -> None:
    with pytest.raises(InputError, match=r"KeyError 'bbox', annotation 2"):
        load(write(tmp_path, changed("annotations", bbox=..., segmentation=..., keypoints=[1, 2, 2])), masks=False)


@pytest.mark.case("F10")
def test_whole_numbers_as_pandas_writes_them_are_whole_numbers(tmp_path) -> None:
    values = plain()
    for place in ("images", "annotations"):
        for one in values[place]:
            one |= {name: float(value) for name, value in one.items() if isinstance(value, int)}
    bundle = load(write(tmp_path, values))
    assert bundle.train[1][1]["image_id"] == 2
    assert bundle.train[1][1]["iscrowd"].tolist() == [0]


@pytest.mark.case("F10", "F38")
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[" * 200_000, "nested too deep"),
        (b'{"images": [{"id": ' + b"7" * 6000 + b"}]}", "is no JSON"),
        ('{"images": "caf\u00e9"}'.encode("latin-1"), r"as text: byte \d+ is not of utf-8; save it in UTF-8"),
        ('{"images": 1}'.encode("utf-16-le"), "null bytes"),
        (b"\xff\xfe{", "is not of utf-16"),
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
    ],
    ids=["nested", "digits", "latin-1", "utf-16 without a mark", "half a character", "empty", "cut"],
)
def test_texts_that_are_no_json_name_their_file(tmp_path, raw, says) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load(write(tmp_path, plain(), raw))
    assert "instances_train2017.json" in str(caught.value)


@pytest.mark.case("F10")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read(tmp_path, encoding) -> None:
    values = changed("categories", name="Zahnb\u00fcrste")
    values["annotations"][0]["category_id"] = 90
    (root := write(tmp_path, values, json.dumps(values, ensure_ascii=False).replace(", ", ",\r\n").encode(encoding)))
    (root / "annotations" / "instances_val2017.json").write_bytes((root / "annotations" / "instances_train2017.json").read_bytes())
    assert load(root).classes == ["car", "Zahnb\u00fcrste"]


# -- boxes and masks as a whole -------------------------------------------------------------------------------------------------------------------


@pytest.mark.case("F12")
@pytest.mark.parametrize("box", [[40, 4, 5, 5], [4, 25, 5, 5], [-9, 4, 5, 5], [4, -5, 5, 5], [30, 4, 5, 5]])
def test_boxes_wholly_outside_are_left_out_and_counted(tmp_path, box) -> None:
    values = plain()
    values["annotations"].append(annotation(6, 2, box))
    bundle = load(write(tmp_path, values))
    assert [len(bundle.train[n][1]["boxes"]) for n in range(5)] == [1] * 5
    assert "instances_train2017.json: 1 boxes wholly outside of their image were left out, such as that of annotation 6" in bundle.notes


@pytest.mark.case("F12")
def test_boxes_that_reach_beyond_are_counted_and_rounding_is_not(tmp_path) -> None:
    values = plain()
    values["annotations"] += [annotation(6, 2, [20, 4, 15, 5]), annotation(7, 2, [20, 4, 10.5, 5])]
    bundle = load(write(tmp_path, values))
    assert bundle.train[1][1]["boxes"].tolist() == [[2, 4, 12, 10], [20, 4, 35, 9], [20, 4, 30.5, 9]]
    assert "instances_train2017.json: 1 boxes reach beyond their image by more than a pixel, such as that of annotation 6" in bundle.notes


@pytest.mark.case("F12")
@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([[20, 12, 28, 18]] * 5, r"5 of 5 boxes lie outside .*annotation 1; expected bbox as left, top, width and height in pixels, not as two corners"),
        ([[20, 12, 28, 18]] * 3 + [[1, 1, 2, 2]] * 2, r"3 of 5 boxes"),
        ([[100, 100, 5, 5]] * 5, r"5 of 5 boxes"),
        ([[0.1, 0.2, 0.3, 0.4]] * 5, r"no box reaches beyond the first pixel .*not as shares"),
    ],
    ids=["corners", "mostly corners", "all outside", "shares"],
)
def test_boxes_of_another_convention_are_refused(tmp_path, boxes, says) -> None:
    values = plain()
    values["annotations"] = [annotation(n + 1, n + 1, box, segmentation=square(1, 1, 5, 5)) for n, box in enumerate(boxes)]
    for masks in (True, False):
        with pytest.raises(InputError, match=says):
            load(write(tmp_path, values), masks=masks)


@pytest.mark.case("F12")
@pytest.mark.parametrize(
    "segmentation",
    [square(32, 4, 5, 5), square(4, 21, 5, 5), square(-9, 4, 5, 5), {"size": [HIGH, WIDE], "counts": [600]}, {"size": [HIGH, WIDE], "counts": [600, 0]}],
    ids=["right", "below", "left", "no run", "empty run"],
)
def test_masks_without_a_pixel_are_left_out_and_counted(tmp_path, segmentation) -> None:
    bundle = load(write(tmp_path, changed("annotations", segmentation=segmentation)))
    assert len(bundle.train) == 4, "an image without an object is no training image"
    assert "instances_train2017.json: 1 masks without a pixel in their image were left out, with their boxes, such as that of annotation 2" in bundle.notes
    assert len(load(tmp_path, keep_empty=True).train[1][1]["boxes"]) == 0
    assert len(load(tmp_path, masks=False).train) == 5


@pytest.mark.case("F12")
def test_classes_without_an_object_and_images_in_both_parts_are_said(tmp_path) -> None:
    bundle = load(write(tmp_path, plain()))
    assert "1 of 2 classes have no object in train: toothbrush" in bundle.notes
    assert "1 of 2 classes have no object in val: toothbrush" in bundle.notes
    assert any("5 images are in train and in val" in note for note in load(tmp_path, val_images="train2017").notes)


MASKS = {
    "of a wrong length": ({"size": [HIGH, WIDE], "counts": [22, 5, 500]}, r"add up to 527; expected 600"),
    "packed, of a wrong length": ({"size": [HIGH, WIDE], "counts": "f05"}, r"its (run lengths add up|packed)"),
    "negative": ({"size": [HIGH, WIDE], "counts": [-5, 605]}, r"counts are no lengths of runs"),
    "half a run": ({"size": [HIGH, WIDE], "counts": [0.5, 599.5]}, r"counts are no lengths of runs"),
    "a huge run": ({"size": [HIGH, WIDE], "counts": [2**40, 600]}, r"add up to"),
    "packed nonsense": ({"size": [HIGH, WIDE], "counts": "\u20ac\u20ac"}, r"packed run lengths are damaged"),
    "packed and cut": ({"size": [HIGH, WIDE], "counts": "PPP"}, r"packed run lengths are cut off"),
    "packed without end": ({"size": [HIGH, WIDE], "counts": "P" * 100_000}, r"packed run lengths are damaged"),
    "of a huge size": ({"size": [200_000, 200_000], "counts": [40_000_000_000]}, r"its size is \[200000, 200000\]; expected that of its image, \[20, 30\]"),
    "turned": ({"size": [WIDE, HIGH], "counts": [600]}, r"its size is \[30, 20\]"),
    "without a size": ({"counts": [600]}, r"its size is no two numbers"),
    "without counts": ({"size": [HIGH, WIDE]}, r"expected polygons, or size and counts"),
    "a text": ("polygon", r"expected polygons, or size and counts"),
    "two points": ([[1, 2, 3, 4]], r"a polygon of it has 4 values"),
    "an odd count": ([[1, 2, 3, 4, 5, 6, 7]], r"a polygon of it has 7 values"),
    "a second polygon of nothing": ([*square(1, 1, 5, 5), []], r"a polygon of it has 0 values"),
    "a flat list": ([1, 2, 3, 4, 5, 6], r"a polygon of it has int"),
    "nan": ([[1, 2, NAN, 4, 5, 6]], r"expected finite numbers"),
    "words": ([["1", "2", "3", "4", "5", "6"]], r"expected finite numbers"),
    "far away": (square(1, 1, 1e9, 5), r"far beyond its image of 30×20"),
    "as far to the left": (square(-1e12, 1, 1e12, 5), r"far beyond its image"),
}


@pytest.mark.case("F13", "F38")
@pytest.mark.parametrize("what", MASKS)
@pytest.mark.parametrize("check", [True, False])
def test_masks_are_looked_at_before_the_first_step(tmp_path, what, check) -> None:
    segmentation, says = MASKS[what]
    with pytest.raises(InputError, match=says) as caught:
        load(write(tmp_path, changed("annotations", segmentation=segmentation)), check=check)
    assert "instances_train2017.json: the mask of annotation 2 cannot be read" in str(caught.value)


@pytest.mark.case("F13")
def test_packed_run_lengths_are_those_of_pycocotools() -> None:
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        for size in ((1, 1), (7, 300), (400, 311)):
            mask = (rng.random(size) < share).astype(np.uint8, order="F")
            flat = mask.flatten(order="F")
            # by a loop over pixels
            runs, last = [0], 0
            for value in flat.tolist():
                if value != last:
                    runs.append(0)
                    last = value
                runs[-1] += 1
            assert unpacked(coco.encode(mask)["counts"].decode()) == runs


@pytest.mark.case("F38")
def test_hostile_numbers_allocate_nothing(tmp_path, monkeypatch) -> None:
    """Also where the image says that it is so large: it is opened before a mask is made."""
    values = plain()
    values["images"][1] |= {"height": 200_000, "width": 200_000}
    values["annotations"][1] |= {"segmentation": square(10, 10, 150_000, 150_000), "bbox": [10, 10, 150_000, 150_000]}
    runs = deepcopy(values)
    runs["annotations"][1]["segmentation"] = {"size": [200_000, 200_000], "counts": [39_999_999_999, 1]}
    monkeypatch.setattr("foveal.lab.data.detection.coco.decode_mask", lambda *_: pytest.fail("a mask was made"))
    for name, hostile in (("polygon", values), ("runs", runs)):
        write(tmp_path / name, hostile)
        with pytest.raises(InputError, match=r"2\.png is 30×20, but .* says 200000×200000"):
            load(tmp_path / name)
        unchecked = load(tmp_path / name, check=False)
        with pytest.raises(InputError, match=r"2\.png is 30×20, but .* says 200000×200000"):
            unchecked.train[1]


@pytest.mark.case("F14")
def test_refusals_say_why_files_were_left_out(tmp_path) -> None:
    write(tmp_path, plain())
    for number in range(1, 6):
        (tmp_path / "train2017" / f"{number}.png").unlink()
    with pytest.raises(InputError, match=r"leaves no image to train with; 5 unreadable images were left out: cannot read .*train2017/1\.png"):
        load(tmp_path)
    values = plain()
    for one in values["annotations"]:
        one["bbox"] = [1, 1, 0, 5]
    with pytest.raises(InputError, match=r"leaves no image to train with; .*5 boxes without width or height"):
        load(write(tmp_path, values))
    for one in values["annotations"]:
        one |= {"bbox": [1, 1, 5, 5], "segmentation": {"size": [HIGH, WIDE], "counts": [600]}}
    for number in range(1, 6):
        Image.new("L", (WIDE, HIGH)).save(tmp_path / "train2017" / f"{number}.png")
    with pytest.raises(InputError, match=r"leaves no image to train with; .*5 masks without a pixel"):
        load(write(tmp_path, values))


# -- how the camera was held ----------------------------------------------------------------------------------------------------------------------


def held(root: Path, orientation: int, values: dict[str, Any]) -> None:
    """Images whose upper left corner, as they are stored, is bright."""
    write(root, values)
    pixels = np.zeros((HIGH, WIDE), np.uint8)
    pixels[:10, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(root / "train2017" / "2.png", exif=exif)


@pytest.mark.case("F4")
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_tell_what_boxes_were_drawn_on(tmp_path, orientation) -> None:
    held(tmp_path, orientation, changed("annotations", bbox=[0, 0, 10, 10], segmentation=square(0, 0, 10, 10)))
    for options in ({}, {"check": False}, {"drawn_on": "stored"}):
        image, target = load(tmp_path, **options).train[1]
        assert image.shape == (3, HIGH, WIDE)
        assert torch.equal(image[0] > 0, target["masks"][0])
    # where the bright corner is for somebody who looks at the image as it is shown
    left, top = {5: (0, 0), 6: (HIGH - 10, 0), 7: (HIGH - 10, WIDE - 10), 8: (0, WIDE - 10)}[orientation]
    values = changed("annotations", bbox=[left, top, 10, 10], segmentation=square(left, top, 10, 10))
    values["images"][1] |= {"height": WIDE, "width": HIGH}
    write(tmp_path, values)
    for options in ({}, {"check": False}, {"drawn_on": "shown"}):
        image, target = load(tmp_path, **options).train[1]
        assert image.shape == (3, WIDE, HIGH)
        assert torch.equal(image[0] > 0, target["masks"][0])
    with pytest.raises(InputError, match=r"2\.png is 30×20, but .* says 20×30"):
        load(tmp_path, drawn_on="stored")


@pytest.mark.case("F4")
@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_where_they_do_not_it_has_to_be_said(tmp_path, orientation) -> None:
    held(tmp_path, orientation, plain())
    with pytest.raises(InputError, match=rf"2\.png has the orientation {orientation} in its EXIF.*--data\.drawn-on stored or shown"):
        load(tmp_path)
    unchecked = load(tmp_path, check=False)
    with pytest.raises(InputError, match=r"--data\.drawn-on"):
        unchecked.train[1]
    stored = load(tmp_path, drawn_on="stored").train[1][0][0] > 0
    shown = load(tmp_path, drawn_on="shown").train[1][0][0] > 0
    assert stored[:10, :10].all()
    assert stored.sum() == shown.sum() == 100
    assert torch.equal(shown, {2: stored.flip(1), 3: stored.flip(0, 1), 4: stored.flip(0)}[orientation])
