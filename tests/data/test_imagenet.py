"""ImageNet's two forms: what is found, read and drawn, what is refused and how; shards against Python's own reader of tar files."""

import io
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import ImageNet
from foveal.lab.data._shards import index_shards

PLAIN = {"auto_augment": None, "random_erasing": 0.0}
COUNTS = {"train-0": 5, "train-1": 4, "val-0": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def picture(seed: int, size: tuple[int, int] = (40, 30), form: str = "JPEG") -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(content, form)
    return content.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folders(root: Path, count: int = 3) -> Path:
    for place, split in enumerate(("train", "val")):
        for label, name in enumerate(("n01", "n02")):
            for n in range(count):
                put(root / split / name / f"{name}_{n}.JPEG", picture(place * 1000 + label * 100 + n))
    return root


def shard(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(count: int, start: int = 0) -> dict[str, bytes]:
    out = {}
    for n in range(start, start + count):
        out |= {f"{n:06d}.cls": str(n % 2).encode(), f"{n:06d}.jpg": picture(n)}
    return out


def shards(root: Path) -> Path:
    for place, (name, count) in enumerate(COUNTS.items()):
        shard(root / f"imagenet-{name}.tar", samples(count, 10 * place))
    return root


def load(root: Path, **options):
    return ImageNet(root=root, **{"img_size": 16, **options}).load()


def pixels(image: torch.Tensor) -> np.ndarray:
    back = image * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    return (back * 255).permute(1, 2, 0).numpy()


def as_evaluated(content: bytes, side: int = 16, resized: int = 18) -> np.ndarray:
    """Written out with Pillow alone: the shorter side to ``resized``, bicubic, and the middle."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = resized / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32)


def test_folders_are_read_in_the_order_of_their_names(root) -> None:
    folders(root)
    put(root / "train" / "n01" / "notes.txt", b"not looked at")
    (root / "train" / ".hidden").mkdir()
    bundle = load(root)
    assert bundle.classes == ["n01", "n02"]
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (6, 6, 6)
    assert (bundle.img_size, bundle.in_chans) == (16, 3)
    assert bundle.notes[0] == "test labels are not public: the final numbers are those of val"
    assert bundle.notes[1:] == [
        "2 entries were passed over: 1 ending in .txt, such as n01/notes.txt; 1 hidden or left behind by a system, such as train/.hidden"
    ]
    assert (bundle.train.augments, bundle.val.augments, bundle.test.augments) == (True, False, False)
    files = sorted((root / "val").rglob("*.JPEG"))
    for n, file in enumerate(files):
        image, label = bundle.val[n]
        assert image.shape == (3, 16, 16)
        assert bundle.classes[label] == file.parent.name
        np.testing.assert_allclose(pixels(image), as_evaluated(file.read_bytes()), atol=1e-3)


def test_shards_hold_what_a_plain_reader_finds(root) -> None:
    """The oracle walks the tar files with extractfile; no offset is in it."""
    shards(root)
    bundle = load(root, **PLAIN)
    want = []
    for path in sorted(root.glob("*val*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        want += [(content, int(members[name.replace(".jpg", ".cls")])) for name, content in members.items() if name.endswith(".jpg")]
    assert len(want) == len(bundle.val) == 3
    for (image, label), (content, number) in zip((bundle.val[n] for n in range(3)), want, strict=True):
        assert label == number
        np.testing.assert_allclose(pixels(image), as_evaluated(content), atol=1e-3)
    assert len(bundle.train) == 9
    assert bundle.classes == ["0", "1"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_bytes_are_equal_in_every_format_of_tar(tmp_path, form) -> None:
    """Names too long for a header, folders, a link, other members and every ending; the order is that of the images."""
    far = "/".join(["folder" * 8] * (2 if form == tarfile.USTAR_FORMAT else 5))
    members = {f"{far}/b.cls": b" 1\n", f"{far}/b.PNG": b"first", "a.json": b'{"label": 3, "x": [1]}', "a.jpeg": b"second " * 200, "a.txt": b"a caption"}
    members |= {"c.webp": b"third", "c.json": b'{"no": "label here"}', "c.cls": b"2", ".hidden.jpg": b"nothing"}
    path = shard(tmp_path / "one.tar", members, form)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("d.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "c.webp"
        tar.addfile(link)
    found = index_shards([path, path])
    assert [found.read(n) for n in range(6)] == [b"first", b"second " * 200, b"third"] * 2
    assert found.labels.tolist() == [1, 3, 2, 1, 3, 2]
    assert found.name(0) == f"{far}/b.PNG in {path}"


def test_the_index_is_kept_apart_from_the_data_and_follows_them(root, cache, monkeypatch) -> None:
    paths = sorted(shards(root).glob("*train*.tar"))
    before = {path.name for path in root.iterdir()}
    first = index_shards(paths)
    assert {path.name for path in root.iterdir()} == before
    assert len(list((cache / "shards").glob("*.npy"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("foveal.lab.data._shards._rows", lambda path: pytest.fail("the headers were read again"))
        again = index_shards(paths)
    assert np.array_equal(again.table, first.table)
    shard(paths[0], samples(2))
    os.utime(paths[0], ns=(1, 1))
    assert len(index_shards(paths)) == 6
    for index in (cache / "shards").glob("*.npy"):
        index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"the index .*\.npy is damaged: .*delete it"):
        index_shards(paths)


def test_processes_that_index_at_once_agree_and_leave_one_index(root, cache) -> None:
    paths = sorted(shards(root).glob("*train*.tar"))
    code = """
import sys
from pathlib import Path
from foveal.lab.data._shards import index_shards
print("ready", flush=True)
sys.stdin.readline()
print(index_shards([Path(path) for path in sys.argv[1:]]).table.tolist())
"""
    other = subprocess.Popen([sys.executable, "-c", code, *map(str, paths)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("go\n")
    other.stdin.flush()
    own = index_shards(paths).table.tolist()
    theirs, _ = other.communicate()
    assert json.loads(theirs) == own
    assert len(list((cache / "shards").glob("*.npy"))) == 1
    assert not [path.name for path in (cache / "shards").iterdir() if path.suffix not in (".npy", ".lock")]


def test_train_and_val_folders_of_shards_and_names_of_classes(root) -> None:
    shard(root / "train" / "0.tar", samples(4))
    shard(root / "val" / "0.tar", samples(3))
    put(root / "classnames.txt", b"crane\ncrane\nfinch\n")
    bundle = load(root)
    assert bundle.classes == ["crane (0)", "crane (1)", "finch"], "two classes of one name are told apart; one may be without images"
    assert (len(bundle.train), len(bundle.val)) == (4, 3)


def test_a_downloaded_archive_beside_what_was_unpacked_is_no_shard(root) -> None:
    folders(root)
    put(root / "ILSVRC2012_img_train.tar", b"whatever")
    put(root / "ILSVRC2012_img_val.tar", b"whatever")
    assert load(root).classes == ["n01", "n02"]


def test_held_out_images_validate_and_val_is_for_the_end(root) -> None:
    folders(root, 10)
    bundle, again = load(root, hold_out=4), load(root, hold_out=4)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (16, 4, 20)
    assert (bundle.train.augments, bundle.val.augments) == (True, False)
    assert bundle.notes == ["4 images of train validate; the final numbers are those of val"]
    held = [bundle.val[n][0] for n in range(4)]
    assert all(torch.equal(image, again.val[n][0]) for n, image in enumerate(held))
    where = set(bundle.train._chosen.tolist()) | set(bundle.val._chosen.tolist())
    assert where == set(range(20)), "each image is in one of both"


@pytest.mark.parametrize("options", [{}, PLAIN, {"auto_augment": "3a", "color_jitter": 0.3}, {"auto_augment": "augmix-m3-w3"}, {"interpolation": "random"}])
def test_training_images_follow_from_torch_and_nothing_else_is_touched(root, options) -> None:
    bundle = ImageNet(root=folders(root), img_size=32, random_erasing=0.5, **{k: v for k, v in options.items() if k != "random_erasing"}).load()
    random.seed(7)
    np.random.seed(7)
    python, numpy = random.getstate(), np.random.get_state()

    def draw(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [bundle.train[0][0] for _ in range(4)]

    first = draw(0)
    random.seed(8)
    np.random.seed(8)
    again = draw(0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], draw(1)[0])
    random.setstate(python)
    np.random.set_state(numpy)
    draw(2)
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))


def test_augmentation_is_timms_with_these_settings(root) -> None:
    """timm's own factory, seeded as an image of ours is, gives the image."""
    from timm.data import create_transform

    folders(root)
    options = {"color_jitter": 0.4, "auto_augment": "rand-m7-mstd0.5-inc1", "interpolation": "bicubic", "re_prob": 0.9, "re_mode": "pixel"}
    theirs = create_transform(48, is_training=True, scale=(0.3, 1.0), **options)
    ours = ImageNet(root=root, img_size=48, min_scale=0.3, auto_augment="rand-m7-mstd0.5-inc1", random_erasing=0.9).load().train
    image = Image.open(sorted((root / "train").rglob("*.JPEG"))[4])
    torch.manual_seed(3)
    got, label = ours[4]
    torch.manual_seed(3)
    seed = int(torch.randint(2**32, ()))
    random.seed(seed)
    np.random.seed(seed)
    assert torch.equal(got, theirs(image))
    assert label == 1


def test_posterising_to_no_bits_is_black_and_ends_no_run(root) -> None:
    """At the largest magnitude timm asks for it every few images."""
    split = ImageNet(root=folders(root), img_size=16, auto_augment="rand-m10-n15-mstd0.5-inc1", hflip=0.0).load().train
    torch.manual_seed(0)
    for n in range(60):
        assert split[n % 6][0].isfinite().all()
    (randaugment,) = (step for step in split._transform.transforms if hasattr(step, "ops"))
    (posterize,) = (op.aug_fn for op in randaugment.ops if op.name == "PosterizeIncreasing")
    image = Image.open(io.BytesIO(picture(0)))
    for bits in range(9):
        # keeping the upper bits of each byte, written out
        assert np.array_equal(np.asarray(posterize(image, bits)), np.asarray(image) & (0xFF << (8 - bits) & 0xFF))


def test_a_split_travels_to_other_processes(root) -> None:
    for make in (folders, shards):
        bundle = load(make(root / make.__name__), **PLAIN)
        torch.manual_seed(0)
        want = bundle.train[1]
        torch.manual_seed(0)
        got = pickle.loads(pickle.dumps(bundle.train))[1]
        assert torch.equal(got[0], want[0])
        assert got[1] == want[1]
        with pytest.raises(IndexError):
            bundle.train[len(bundle.train)]


@pytest.mark.parametrize("kind", ["CMYK", "L", "P", "RGBA", "I;16", "1", "LA"])
def test_odd_images_become_three_channels(root, kind) -> None:
    folders(root)
    gray = Image.new("RGB", (40, 30), (128, 128, 128))
    form = "JPEG" if kind in ("CMYK", "L") else "PNG"
    odd = Image.fromarray(np.full((30, 40), 128 * 257, np.uint16)) if kind == "I;16" else gray.quantize() if kind == "P" else gray.convert(kind)
    odd.save(root / "val" / "n02" / "n02_9.png", form)
    bundle = load(root)
    image, label = bundle.val[len(bundle.val) - 1]
    assert (label, tuple(image.shape)) == (1, (3, 16, 16))
    if kind != "1":
        np.testing.assert_allclose(pixels(image), 128, atol=2)


def test_images_are_as_stored_and_not_turned(root) -> None:
    """Published trainings did not look at what a camera says of how it was held."""
    exif = Image.Exif()
    exif[0x0112] = 3
    upper = np.zeros((32, 32, 3), np.uint8)
    upper[:16] = 255
    folders(root)
    Image.fromarray(upper).save(root / "val" / "n02" / "n02_9.png", exif=exif)
    image, _ = load(root).val[6]
    assert image[:, :6].min() > image[:, 10:].max()


def test_prepare_is_what_evaluation_sees(root) -> None:
    folders(root)
    bundle = load(root)
    file = sorted((root / "val").rglob("*.JPEG"))[0]
    assert torch.equal(bundle.prepare(Image.open(file)), bundle.val[0][0])


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def no_root(root: Path) -> None:
    root.rmdir()


def nothing(root: Path) -> None:
    pass


def no_val(root: Path) -> None:
    folders(root)
    (root / "val").rename(root / "test")


def flat_val(root: Path) -> None:
    folders(root)
    (root / "val").rename(root / "old")
    put(root / "val" / "ILSVRC2012_val_00000001.JPEG", picture(0))


def one_class(root: Path) -> None:
    for split in ("train", "val"):
        put(root / split / "n01" / "0.JPEG", picture(0))


def empty_class(root: Path) -> None:
    (folders(root) / "train" / "n03").mkdir()


def other_classes(root: Path) -> None:
    put(folders(root) / "val" / "n03" / "0.JPEG", picture(0))


def both_forms(root: Path) -> None:
    shard(folders(root) / "my-train.tar", samples(2))


def no_val_shards(root: Path) -> None:
    shard(root / "my-train.tar", samples(2))


def in_both(root: Path) -> None:
    shard(shards(root) / "train-without-val.tar", samples(2))


def no_label(root: Path) -> None:
    shard(shards(root) / "train-x.tar", samples(2) | {"000099.jpg": picture(0)})


def no_image(root: Path) -> None:
    shard(shards(root) / "train-x.tar", samples(2) | {"000099.cls": b"1"})


def two_images(root: Path) -> None:
    shard(shards(root) / "train-x.tar", samples(2) | {"000001.png": picture(0)})


def word(root: Path) -> None:
    shard(shards(root) / "train-x.tar", samples(2) | {"000001.cls": b"finch"})


def negative(root: Path) -> None:
    shard(shards(root) / "train-x.tar", samples(2) | {"000001.cls": b"-1"})


def json_without(root: Path) -> None:
    shard(shards(root) / "train-x.tar", {"0.jpg": picture(0), "0.json": b'{"label": "finch"}'})


def no_json(root: Path) -> None:
    shard(shards(root) / "train-x.tar", {"0.jpg": picture(0), "0.json": b"{"})


def a_number_as_json(root: Path) -> None:
    shard(shards(root) / "train-x.tar", {"0.jpg": picture(0), "0.json": b"1"})


def archive_of_archives(root: Path) -> None:
    shard(shards(root) / "train-x.tar", {"n01.tar": b"tar"})


def compressed(root: Path) -> None:
    shards(root)
    with tarfile.open(root / "train-x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.jpg"))


def empty_file(root: Path) -> None:
    put(shards(root) / "train-x.tar", b"")


def cut_in_an_image(root: Path) -> None:
    cut(shards(root) / "imagenet-train-1.tar", 512 * 3 + 100)


def cut_in_a_header(root: Path) -> None:
    path = shards(root) / "imagenet-train-1.tar"
    with tarfile.open(path) as tar:
        cut(path, tar.getmembers()[2].offset + 100)


def cut_between_members(root: Path) -> None:
    path = shards(root) / "imagenet-train-1.tar"
    with tarfile.open(path) as tar:
        cut(path, tar.getmembers()[2].offset)


def noise_in_a_header(root: Path) -> None:
    path = shards(root) / "imagenet-train-1.tar"
    with tarfile.open(path) as tar:
        start = tar.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = bytes(range(256)) * 2
    path.write_bytes(content)


def from_one(root: Path) -> None:
    shard(root / "train.tar", {"0.jpg": picture(0), "0.cls": b"1", "1.jpg": picture(0), "1.cls": b"2"})
    shard(root / "val.tar", samples(2))


def beyond_train(root: Path) -> None:
    shard(shards(root) / "imagenet-val-1.tar", {"7.jpg": picture(0), "7.cls": b"5"})


def beyond_names(root: Path) -> None:
    put(shards(root) / "classnames.txt", b"a\n" * 3)
    shard(root / "imagenet-train-2.tar", {"7.jpg": picture(0), "7.cls": b"3"})


def all_alike(root: Path) -> None:
    for split in ("train", "val"):
        shard(root / f"{split}.tar", {"0.jpg": picture(0), "0.cls": b"0"})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_root, r"data is no folder; expected one with train/CLASS"),
        (nothing, r"neither train/ nor shards \*train\*\.tar"),
        (no_val, r"neither val/ nor shards \*val\*\.tar"),
        (flat_val, r"val has 0 class folders; .*unsorted: move each into the folder of its class"),
        (one_class, r"train has 1 class folders; expected at least 2"),
        (empty_class, r"no images for n03; expected files ending in .*\.jpeg"),
        (other_classes, r"same classes, but n03"),
        (both_forms, r"holds shards, my-train\.tar among them, and class folders; expected one"),
        (no_val_shards, r"has no shards of val; expected \*val\*\.tar"),
        (in_both, r"train-without-val\.tar is named as a shard of train and of val; rename"),
        (no_label, r"1 keys of .*train-x\.tar are without a label, .* 000099"),
        (no_image, r"1 keys of .*train-x\.tar are without an image, .* 000099"),
        (two_images, r"two images of the key 000001"),
        (word, r"000001\.cls in .*train-x\.tar holds b'finch'; expected a whole number"),
        (negative, r"holds b'-1'; expected a whole number from 0 on"),
        (json_without, r"0\.json in .* expected an object with .label."),
        (no_json, r"0\.json in .* expected an object"),
        (a_number_as_json, r"0\.json in .* expected an object"),
        (archive_of_archives, r"train-x\.tar holds no images; .*unpack it into folders"),
        (compressed, r"train-x\.tar cannot be read as a tar file: .*compressed"),
        (empty_file, r"train-x\.tar cannot be read as a tar file"),
        (cut_in_an_image, r"train-1\.tar cannot be read as a tar file: unexpected end of data"),
        (cut_in_a_header, r"train-1\.tar is damaged or cut off at byte \d+, after 1 images"),
        (cut_between_members, r"train-1\.tar is damaged or cut off at byte \d+, after 1 images"),
        (noise_in_a_header, r"train-1\.tar is damaged or cut off at byte \d+, after 1 images"),
        (from_one, r"no training image of .* has the label 0, but one has 2; number from 0"),
        (beyond_train, r"7\.jpg in .*val-1\.tar has the label 5, but the labels of train go to 1"),
        (beyond_names, r"7\.jpg in .*train-2\.tar has the label 3, but .*classnames\.txt names 3 classes"),
        (all_alike, r"has 1 class; at least 2"),
    ],
)
def test_what_cannot_be_used_says_why(root, make, says) -> None:
    make(root)
    with pytest.raises(InputError, match=says):
        load(root)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"img_size": 0}, "img_size"),
        ({"min_scale": 0.0}, "shares between 0 and 1"),
        ({"crop_pct": 1.5}, "shares between 0 and 1"),
        ({"random_erasing": -0.1}, "shares between 0 and 1"),
        ({"hold_out": -1}, "hold_out"),
        ({"hold_out": 6}, "must leave images to train on, got 6 of 6"),
        ({"color_jitter": 0.4}, "jitters no colors beside"),
        ({"auto_augment": "rand-q9"}, "cannot read auto_augment 'rand-q9'"),
        ({"auto_augment": "rand-mnine"}, "cannot read auto_augment"),
        ({"auto_augment": "sharper"}, "cannot read auto_augment 'sharper'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(root, options, says) -> None:
    folders(root)
    with pytest.raises(InputError, match=says):
        load(root, **options)


def test_broken_images_are_named(root) -> None:
    put(folders(root / "folders") / "val" / "n01" / "n01_0.JPEG", picture(0)[:300])
    with pytest.raises(InputError, match=r"cannot decode .*val/n01/n01_0\.JPEG: "):
        load(root / "folders").val[0]
    shard(shards(root / "shards") / "imagenet-val-0.tar", {"7.jpg": b"no picture", "7.cls": b"1"})
    with pytest.raises(InputError, match=r"cannot decode 7\.jpg in .*imagenet-val-0\.tar: "):
        load(root / "shards").val[0]


def test_data_that_change_under_a_run_are_noticed(root) -> None:
    bundle = load(folders(root / "folders"))
    (root / "folders" / "val" / "n01" / "n01_0.JPEG").unlink()
    with pytest.raises(InputError, match=r"n01_0\.JPEG.* do not change a folder that is in use"):
        bundle.val[0]
    bundle = load(shards(root / "shards"))
    cut(root / "shards" / "imagenet-val-0.tar", 600)
    with pytest.raises(InputError, match=r"imagenet-val-0\.tar changed since training began"):
        bundle.val[0]


def test_a_cache_that_cannot_be_written_to_says_so(root, monkeypatch) -> None:
    shards(root)
    monkeypatch.setenv("FOVEAL_CACHE", str(put(root / "file", b"")))
    with pytest.raises(InputError, match=r"file is a file; expected a folder"):
        load(root)


def test_the_stand_in_is_the_same_pipeline_on_digits(cache) -> None:
    data = ImageNet(root=Path("imagenet"), img_size=224, auto_augment="rand-m7-mstd0.5-inc1", random_erasing=0.25, crop_pct=0.95, hold_out=10_000)
    small = data.smoke_data()
    assert (small.img_size, small.hold_out, small.auto_augment, small.crop_pct) == (32, 4, data.auto_augment, 0.95)
    bundle = small.load()
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (16, 4, 20)
    assert bundle.classes == [str(n) for n in range(10)]
    assert bundle.train[0][0].shape == (3, 32, 32)
    made = {path: path.stat().st_mtime_ns for path in small.root.iterdir()}
    assert len(made) == 5
    assert data.smoke_data() == small
    assert small.smoke_data() is small
    assert {path: path.stat().st_mtime_ns for path in small.root.iterdir()} == made, "written once"
    assert list(small.root.parent.iterdir()) == [small.root]
