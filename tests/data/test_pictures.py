"""Pictures as people have them: how the camera was held, deep and odd modes, damage, and files that would fill the memory."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from foveal import InputError
from foveal.lab.data import ImageFolder, ImageNet, MaskFolder
from foveal.lab.data._bundle import gray_digit
from foveal.lab.data._image import Unreadable, Unscaled, open_picture, open_rgb, rgb
from foveal.lab.data.video._reader import open_clip

SHOWN = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
# what a camera stores so that an EXIF reader shows SHOWN: the definition of the eight values in the EXIF standard, row 0 and column 0 by side
STORED = {
    1: SHOWN,
    2: SHOWN[:, ::-1],
    3: SHOWN[::-1, ::-1],
    4: SHOWN[::-1],
    5: SHOWN.T,
    6: SHOWN.T[::-1],
    7: SHOWN.T[::-1, ::-1],
    8: SHOWN.T[:, ::-1],
}


def save(path: Path, pixels: np.ndarray, orientation: int = 1, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif, **options)
    return path


def png(path: Path, pixels: np.ndarray) -> Path:
    """PNG of 16 bits, which Pillow does not write in color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, channels = pixels.shape
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    return path


def bomb(path: Path, side: int = 60_000) -> Path:
    """A small file that says it is of so many pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))
    return path


def gray(path: Path) -> np.ndarray:
    return np.asarray(open_rgb(path))[..., 0]


@pytest.mark.case("F4")
@pytest.mark.parametrize("form", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_as_it_was_taken(tmp_path, orientation, form) -> None:
    path = save(tmp_path / f"a.{form}", STORED[orientation], orientation, **({"lossless": True} if form == "webp" else {}))
    assert np.array_equal(gray(path), SHOWN)
    opened = open_picture(path)
    assert opened.orientation == orientation
    assert np.array_equal(np.asarray(opened.rgb())[..., 0], STORED[orientation]), "as it is stored, also where Pillow turns by itself"
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(rgb(image))[..., 0], SHOWN)


@pytest.mark.case("F15")
def test_a_damaged_exif_is_named_or_does_no_harm(tmp_path) -> None:
    """Some cannot be written anew, which turning by Pillow does; others cannot be read at all."""
    rng = np.random.default_rng(0)
    whole = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "maker", "somebody"
    exif.get_ifd(0x8769)[0x9003] = "2026:11:28 10:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(whole, "JPEG", exif=exif)
    content = whole.getvalue()
    at, length = content.index(b"Exif\0\0"), len(exif.tobytes())
    for n in range(800):
        damaged = bytearray(content)
        for place in rng.integers(at + 6, at + length, 1 + n % 4):
            damaged[place] = rng.integers(256)
        path = tmp_path / "damaged.jpg"
        path.write_bytes(bytes(damaged))
        try:
            assert open_rgb(path).size in ((8, 12), (12, 8))
        except Unreadable as error:
            assert "damaged.jpg" in str(error)  # noqa: PT017


@pytest.mark.case("F15")
@pytest.mark.parametrize("check", [True, False])
def test_an_image_whose_exif_pillow_cannot_write_is_no_traceback(tmp_path, check, monkeypatch) -> None:
    for label in "ab":
        for n in range(3):
            save(tmp_path / label / f"{n}.jpg", np.full((9, 9, 3), 90, np.uint8), 3)

    def broken(self, *_, **__):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(Image.Exif, "tobytes", broken)
    bundle = ImageFolder(root=tmp_path, img_size=8, check=check).load()
    assert bundle.val[0][0].shape == (3, 8, 8)
    monkeypatch.setattr(Image.Exif, "get", broken)
    with pytest.raises(InputError, match=r"cannot read|can be read.*0\.jpg"):
        ImageFolder(root=tmp_path, img_size=8, check=check).load().val[0]


def pgm(path: Path, most: int, value: int) -> Path:
    path.write_bytes(b"P5 6 4 %d\n" % most + np.full(24, value, ">u2").tobytes())
    return path


def tif(path: Path, pixels: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


RAMP = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
DEEP = {
    "16-bit pgm": (lambda p: pgm(p / "a.pgm", 65535, 0x8123), 0x81),
    "12-bit pgm that says so": (lambda p: pgm(p / "a.pgm", 4095, 0x812), 0x81),
    "16-bit png": (lambda p: png(p / "a.png", RAMP[..., None]), RAMP >> 8),
    "16-bit png with alpha": (lambda p: png(p / "a.png", np.stack([RAMP, 0 * RAMP], -1)), RAMP >> 8),
    "16-bit png in color": (lambda p: png(p / "a.png", np.stack([RAMP] * 3, -1)), RAMP >> 8),
    "16-bit tiff": (lambda p: tif(p / "a.tif", RAMP), RAMP >> 8),
    "16-bit tiff, big endian": (lambda p: tif(p / "a.tif", RAMP.astype(">u2"), byteorder=">"), RAMP >> 8),
    "16-bit tiff in color": (lambda p: tif(p / "a.tif", np.stack([RAMP] * 3, -1), photometric="rgb"), RAMP >> 8),
    "32-bit tiff of 16": (lambda p: tif(p / "a.tif", RAMP.astype(np.int32)), RAMP >> 8),
    "float tiff": (lambda p: tif(p / "a.tif", np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)), np.rint(np.linspace(0, 255, 24)).reshape(4, 6)),
    "black": (lambda p: tif(p / "a.tif", 0 * RAMP), 0),
}


@pytest.mark.case("F16")
@pytest.mark.parametrize("name", DEEP)
def test_deep_pictures_keep_their_shades(tmp_path, name) -> None:
    make, want = DEEP[name]
    assert np.array_equal(gray(make(tmp_path)), np.broadcast_to(want, (4, 6)))


UNSCALED = {
    "12 bits in a png of 16": lambda p: png(p / "a.png", np.full((4, 6, 1), 4000)),
    "12 bits in a png of 16, in color": lambda p: png(p / "a.png", np.full((4, 6, 3), 4000)),
    "12 bits in a pgm that says 16": lambda p: pgm(p / "a.pgm", 65535, 4000),
    "12 bits in a tiff": lambda p: tif(p / "a.tif", np.full((4, 6), 4095, np.uint16)),
    "8 bits in a tiff of 32": lambda p: tif(p / "a.tif", np.full((4, 6), 200, np.int32)),
    "signed": lambda p: tif(p / "a.tif", np.full((4, 6), 9000, np.int16)),
    "negative": lambda p: tif(p / "a.tif", np.full((4, 6), -9000, np.int32)),
    "32 bits": lambda p: tif(p / "a.tif", np.full((4, 6), 70000, np.int32)),
    "nan": lambda p: tif(p / "a.tif", np.full((4, 6), np.nan, np.float32)),
    "one nan": lambda p: tif(p / "a.tif", np.where(np.arange(24) == 7, np.nan, 0.5).reshape(4, 6).astype(np.float32)),
    "inf": lambda p: tif(p / "a.tif", np.full((4, 6), np.inf, np.float32)),
    "floats to 255": lambda p: tif(p / "a.tif", np.full((4, 6), 100, np.float32)),
    "negative floats": lambda p: tif(p / "a.tif", np.full((4, 6), -0.1, np.float32)),
}


@pytest.mark.case("F16")
@pytest.mark.parametrize("name", UNSCALED)
def test_shades_that_nobody_can_scale_are_refused_by_name(tmp_path, name) -> None:
    with pytest.raises(Unscaled, match=r"cannot read .*a\.(png|pgm|tif): .*; (scale|save)"):
        open_rgb(UNSCALED[name](tmp_path))


@pytest.mark.case("F16")
def test_a_set_of_twelve_bits_stops_and_is_not_thinned_out(tmp_path) -> None:
    for label in "ab":
        for n in range(3):
            save(tmp_path / label / f"{n}.png", np.full((9, 9), 90, np.uint8))
    png(tmp_path / "b" / "3.png", np.full((9, 9, 1), 4000))
    with pytest.raises(InputError, match=r"b/3\.png: of its 16 bits 12 or fewer are used"):
        ImageFolder(root=tmp_path, img_size=8).load()


@pytest.mark.case("F16")
def test_shades_hold_in_every_task(tmp_path) -> None:
    """The same file as an image of a mask set, as a frame of a video, as one of ImageNet's and as a picture to look at."""
    pixels = np.full((16, 16), 0x8123, np.uint16)
    for n in range(3):
        tif(save(tmp_path / "set" / "images" / f"{n}.tif", SHOWN), pixels)
        save(tmp_path / "set" / "masks" / f"{n}.png", (np.arange(256) % 2).reshape(16, 16).astype(np.uint8))
        tif(save(tmp_path / "video" / f"{n}.tif", SHOWN), pixels)
        for place in ("train/a", "train/b", "val/a", "val/b"):
            tif(save(tmp_path / "net" / place / f"{n}.tif", SHOWN), pixels)
    want = (0x81 / 255 - 0.485) / 0.229
    image, _ = MaskFolder(root=tmp_path / "set", img_size=16, classes=("a", "b")).load().val[0]
    assert image[0].sub(want).abs().max() < 1e-5
    with open_clip(tmp_path / "video") as clip:
        assert (clip.read([1])[0] == 0x81).all()
    image, _ = ImageNet(root=tmp_path / "net", img_size=16).load().val[0]
    assert image[0].sub(want).abs().max() < 1e-5
    with Image.open(tmp_path / "video" / "0.tif") as image:
        assert gray_digit(8)(image).sub((0x81 / 255 - 0.13) / 0.25).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"])
def test_modes_of_eight_bits_keep_their_color_and_drop_transparency(tmp_path, mode) -> None:
    picture = Image.new("RGB", (4, 3), (255, 255, 255))
    picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert("L").convert(mode) if mode == "LA" else picture.convert(mode)
    if "A" in mode:
        picture.putalpha(0)
    assert np.asarray(rgb(picture)).min() > 250, "transparent white is white"


@pytest.mark.case("F36")
def test_a_picture_that_would_fill_the_memory_is_one_line(tmp_path) -> None:
    for label in "ab":
        for n in range(3):
            save(tmp_path / "set" / label / f"{n}.png", np.full((9, 9), 90, np.uint8))
    path = bomb(tmp_path / "set" / "a" / "9.png")
    bundle = ImageFolder(root=tmp_path / "set", img_size=8).load()
    assert any("1 unreadable" in note and "a/9.png" in note for note in bundle.notes)
    bundle = ImageFolder(root=tmp_path / "set", img_size=8, check=False).load()
    part, place = next((part, n) for part in (bundle.train, bundle.val) for n, (file, _) in enumerate(part.files) if file == path)
    with pytest.raises(InputError, match=r"cannot read .*a/9\.png: .*decompression bomb"):
        part[place]


@pytest.mark.case("F36")
@pytest.mark.parametrize("what", ["images", "masks"])
@pytest.mark.parametrize("check", [True, False])
def test_so_it_is_for_masks_and_frames(tmp_path, what, check) -> None:
    for n in range(12):
        save(tmp_path / "images" / f"{n}.png", np.full((8, 8), 90, np.uint8))
        save(tmp_path / "masks" / f"{n}.png", (np.arange(64) % 2).reshape(8, 8).astype(np.uint8))
    bomb(tmp_path / what / "2.png", 200_000)
    settings = MaskFolder(root=tmp_path, classes=("a", "b"), img_size=8, check=check)
    if check:
        assert any("1 unreadable" in note and f"{what}/2.png" in note for note in settings.load().notes)
    else:
        bundle = settings.load()
        part, place = next((part, n) for part in (bundle.train, bundle.val) for n, (file, _) in enumerate(part.pairs) if file.name == "2.png")
        with pytest.raises(InputError, match=rf"cannot read .*{what}/2\.png"):
            part[place]
    with open_clip(tmp_path / what) as clip, pytest.raises(InputError, match=r"cannot read the frame .*2\.png"):
        clip.read([2])


@pytest.mark.case("F4", "F16", "F36")
def test_a_picture_to_look_at_is_read_in_the_same_way(tmp_path) -> None:
    from foveal.cli._inspect import _open

    assert np.array_equal(np.asarray(_open(save(tmp_path / "a.png", STORED[6], 6)))[..., 0], SHOWN)
    assert np.array_equal(np.asarray(_open(tmp_path / "a.png", upright=False))[..., 0], STORED[6])
    assert np.array_equal(np.asarray(_open(pgm(tmp_path / "a.pgm", 65535, 0x8123)))[..., 0], np.full((4, 6), 0x81))
    for path, says in ((bomb(tmp_path / "b.png"), "decompression bomb"), (pgm(tmp_path / "c.pgm", 65535, 7), "of its 16 bits 3 or fewer")):
        with pytest.raises(InputError, match=rf"cannot read the image .*{path.name}: .*{says}"):
            _open(path)
