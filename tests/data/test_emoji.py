"""Emoji out of a miniature in the package's true layout, and out of the package where it was fetched."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import DigitImages, Emoji, cache_folder
from foveal.lab.data.emoji import CATEGORIES


@pytest.fixture
def package(tmp_path):
    """``package/emoji.json`` and ``package/img/google/64``: ten drawings of each class, flags, one without a drawing of this vendor."""
    folder = tmp_path / "package" / "img" / "google" / "64"
    folder.mkdir(parents=True)
    entries = []
    for label, category in enumerate([*CATEGORIES.values(), "Flags"]):
        for n in range(10):
            pixels = np.zeros((64, 64, 4), np.uint8)
            # half seen, so that white shows through; what lies under full transparency has another color
            pixels[..., :3] = (250, 0, 0)
            pixels[16:48, 16:48] = (20 * label, 10 * n, 100, 255)
            pixels[:8, :8] = (0, 0, 0, 128)
            name = f"{label:02x}-{n:x}.png"
            Image.fromarray(pixels).save(folder / name)
            entries.append({"image": name, "category": category, "has_img_google": True})
    entries.append({"image": "none.png", "category": "Objects", "has_img_google": False})
    (folder.parents[2] / "emoji.json").write_text(json.dumps(entries))
    return folder


def test_emoji_lie_on_white_in_eight_classes(package) -> None:
    bundle = Emoji(folder=str(package)).load()
    assert bundle.classes == list(CATEGORIES)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (56, 8, 16)
    seen = set()
    for split in (bundle.train, bundle.val, bundle.test):
        for n in range(len(split)):
            image, label = split[n]
            assert image.shape == (3, 32, 32)
            middle = ((image[:, 16, 16] + 1) * 127.5).round().int().tolist()
            assert middle[0] == 20 * label
            assert middle[2] == 100
            seen.add(tuple(middle))
            assert image[:, 31, 0].tolist() == [1, 1, 1], "under full transparency is white"
            assert image[0, 0, 0].item() == pytest.approx(0, abs=0.02), "half black on white is gray"
    assert len(seen) == 80, "each emoji is in one split alone"
    assert torch.equal(Emoji(folder=str(package), seed=0).load().test[3][0], bundle.test[3][0])
    assert Emoji().smoke_data() == DigitImages(source="digits", train_digits=16)


def test_what_is_no_package_of_emoji_is_named(package) -> None:
    listing = package.parents[2] / "emoji.json"
    text = listing.read_text()
    for broken, says in (("[{", "no list of emoji"), ('{"a": 1}', "no list of emoji"), ('[{"image": "x.png"}]', "no list of emoji"), ("[]", "names 0 emoji")):
        listing.write_text(broken)
        with pytest.raises(InputError, match=says):
            Emoji(folder=str(package)).load()
    listing.write_text(text)
    (package / "03-2.png").write_bytes(b"no png")
    with pytest.raises(InputError, match="03-2"):
        Emoji(folder=str(package)).load()
    (package / "03-2.png").unlink()
    with pytest.raises(InputError, match=r"1 of 80 drawings.*03-2\.png"):
        Emoji(folder=str(package)).load()
    listing.unlink()
    with pytest.raises(InputError, match="cannot read"):
        Emoji(folder=str(package)).load()


@pytest.mark.data
def test_the_package_as_it_is() -> None:
    if not (cache_folder() / "emoji-google").is_dir():
        pytest.skip("emoji-google was not fetched: foveal data fetch emoji-google")
    bundle = Emoji().load()
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 1636
