"""Views of stereo pairs as people have them."""

import zlib

import pytest
from PIL import Image

from foveal import InputError

from .test_stereo import kitti_2012, kitti_2015, middlebury


@pytest.mark.case("F4")
@pytest.mark.parametrize("make", [kitti_2015, middlebury], ids=lambda make: make.__name__)
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_rectified_pair_with_an_orientation_is_refused(tmp_path, make, orientation) -> None:
    settings, _ = make(tmp_path)
    pair = settings.load().val.pairs[0]
    exif = Image.Exif()
    for number in (orientation, 1):
        with Image.open(pair.right) as image:
            image.load()
        exif[0x0112] = number
        image.save(pair.right, exif=exif)
        if number == 1:
            assert settings.load().val[0][0].shape[0] == 6
        else:
            with pytest.raises(InputError, match=rf"{pair.right.name} has the orientation {number} in its EXIF, and its disparity has none"):
                settings.load().val[0]


@pytest.mark.case("F36")
@pytest.mark.parametrize("make", [kitti_2012, kitti_2015], ids=lambda make: make.__name__)
@pytest.mark.parametrize("what", ["left", "right", "disparity"])
def test_a_view_that_would_fill_the_memory_is_named(tmp_path, make, what) -> None:
    settings, _ = make(tmp_path)
    path = getattr(settings.load().val.pairs[0], what)
    content = bytearray(path.read_bytes())
    # width and height in the head of a PNG, and its sum made right
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(content))
    bundle = settings.load()
    with pytest.raises(InputError, match=rf"cannot read .*{path.parent.name}/{path.name}: .*decompression bomb"):
        bundle.val[0]
