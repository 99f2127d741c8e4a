"""Shards, lists and names of people: odd labels and members, byte-order marks, other encodings, numbers that would fill the memory."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal import InputError
from foveal.lab.data import NICO, ImageNet, PascalVOC, VideoFolder
from foveal.lab.data._foreign import Entry, read_json, to_text


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 90, 90)).save(content, "PNG")
    return content.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(start: int = 0) -> dict[str, bytes]:
    return {f"{n}.{ending}": content for n in range(start, start + 4) for ending, content in (("png", picture()), ("cls", str(n % 2).encode()))}


def load(root: Path, members: dict[str, bytes], **options):
    shard(root / "train.tar", samples() | members)
    shard(root / "val.tar", samples(10))
    return ImageNet(root=root, img_size=8, **options).load()


@pytest.mark.case("F24")
@pytest.mark.parametrize("label", [b"4294967295", b"2147483647", b"99", b"3"])
def test_labels_that_leave_gaps_are_refused_before_anything_is_made_for_them(tmp_path, label) -> None:
    with pytest.raises(InputError, match=r"expected a whole number from 0 on and below 2147483648|no training image of .* has the label 2, but one has"):
        load(tmp_path, {"9.png": picture(), "9.cls": label})


@pytest.mark.case("F24")
def test_labels_beyond_the_names_are_refused(tmp_path) -> None:
    (tmp_path / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"9\.png in .* has the label 2147483646, but .*classnames\.txt names 2 classes"):
        load(tmp_path, {"9.png": picture(), "9.cls": b"2147483646"})


LABELS = {
    "63 bits": b"9223372036854775808",
    "many digits": b"1" * 6000,
    "underscores": b"1_0",
    "arabic digits": "\u0661".encode(),
    "a plus": b"+1",
    "a half": b"0.5",
    "nothing": b"",
    "latin-1": b"\xe9",
    "large": b" " * (1 << 24) + b" 1",
}


@pytest.mark.case("F25")
@pytest.mark.parametrize("what", LABELS)
def test_labels_that_are_no_numbers_name_shard_and_member(tmp_path, what) -> None:
    with pytest.raises(InputError, match=r"9\.cls.* in .*train\.tar"):
        load(tmp_path, {"9.png": picture(), "9.cls": LABELS[what]})


@pytest.mark.case("F25")
@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"label": ' + b"1" * 6000 + b"}", b'{"label": true}', b'{"label": 1.5}', b"\xff\xfe{", b'{"label": "\xe9"}', b'{"label": NaN}'],
)
def test_json_that_holds_no_label_names_shard_and_member(tmp_path, content) -> None:
    with pytest.raises(InputError, match=r"9\.json.* in .*train\.tar"):
        load(tmp_path, {"9.png": picture(), "9.json": content})


@pytest.mark.case("F25")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_marks_and_line_ends_are_no_part_of_a_label(tmp_path, encoding) -> None:
    bundle = load(tmp_path, {"8.png": picture(), "8.cls": "1\r\n".encode(encoding), "9.png": picture(), "9.json": '{"label": 1}\r\n'.encode(encoding)})
    assert len(bundle.train) == 6


def huge(path: Path, size: int) -> None:
    """The second header says that its member is so large."""
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmembers()[1]
    # the binary form of GNU tar, for numbers that octal digits do not hold
    content[member.offset + 124 : member.offset + 136] = b"\x80" + size.to_bytes(11, "big")
    total = sum(content[member.offset : member.offset + 148]) + 8 * 32 + sum(content[member.offset + 156 : member.offset + 512])
    content[member.offset + 148 : member.offset + 156] = f"{total:06o}\0 ".encode()
    path.write_bytes(bytes(content))


@pytest.mark.case("F25")
@pytest.mark.parametrize("size", [2**63 - 1, 2**62, 2**40, 2**87 - 1])
def test_members_of_hostile_size_name_their_shard(tmp_path, size) -> None:
    shard(tmp_path / "train.tar", samples())
    shard(tmp_path / "val.tar", samples(10))
    huge(tmp_path / "train.tar", size)
    with pytest.raises(InputError, match=r"train\.tar (cannot be read as a tar file|is damaged or cut off)"):
        ImageNet(root=tmp_path, img_size=8).load()


@pytest.mark.case("F25", "F21")
def test_members_that_are_passed_over_are_counted_also_when_the_index_is_used_again(tmp_path) -> None:
    odd = {"._0.png": b"", "__MACOSX/._1.png": b"", ".DS_Store": b"", "0.txt": b"a cat", "0.seg.png": picture(), "a.b.png": picture(), "a.b.cls": b"1"}
    for _ in range(2):
        bundle = load(tmp_path, odd)
        assert len(bundle.train) == 4
        (note,) = (note for note in bundle.notes if "passed over" in note)
        assert "7 entries" in note
        assert "3 hidden members of shards" in note
        assert "1 pictures in shards whose name or form is not read" in note
        assert "3 further members of shards" in note
    with pytest.raises(InputError, match=r"most pictures would be passed over, 5 of 9, such as a0\.b\.png; expected KEY\.jpg .*no dot in KEY"):
        load(tmp_path, {f"a{n}.b.png": picture() for n in range(5)})
    shard(tmp_path / "train.tar", samples())
    with tarfile.open(tmp_path / "train.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("0.cls"), io.BytesIO(b""))
    with pytest.raises(InputError, match=r"two labels \.cls of the key 0"):
        ImageNet(root=tmp_path, img_size=8).load()


@pytest.mark.case("F25")
def test_names_of_classes_in_other_encodings(tmp_path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "classnames.txt").write_bytes("caf\u00e9\r\nh\u00f6hle\r\n\r\n".encode(encoding))
        assert load(tmp_path, {}).classes == ["caf\u00e9", "h\u00f6hle"]
    (tmp_path / "classnames.txt").write_bytes("caf\u00e9\nh\u00f6hle\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classnames\.txt as text: byte 3 is not of utf-8; save it in UTF-8"):
        load(tmp_path, {})
    (tmp_path / "classnames.txt").write_text("a\n\nb\n")
    with pytest.raises(InputError, match=r"classnames\.txt, line 2: expected the name of class 1, got an empty line"):
        load(tmp_path, {})


@pytest.mark.case("F25")
def test_lists_of_videos_in_other_encodings(tmp_path) -> None:
    for place in ("a", "b"):
        (tmp_path / f"h\u00f6hle {place}").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / f"h\u00f6hle {place}" / "0.png")
    settings = VideoFolder(root=tmp_path, img_size=8, num_frames=1, stride=1)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "train.csv").write_bytes("h\u00f6hle a,0\r\n".encode(encoding))
        (tmp_path / "val.csv").write_bytes("h\u00f6hle b,1\r\n".encode(encoding))
        (tmp_path / "classes.txt").write_bytes("\u00e4\r\n\u00f6\r\n".encode(encoding))
        bundle = settings.load()
        assert (bundle.classes, len(bundle.train)) == (["\u00e4", "\u00f6"], 1)
        assert bundle.notes[0] == "1 of 2 classes have no training video: \u00f6"
    (tmp_path / "classes.txt").unlink()
    never = r"class numbers up to 100000000, of which 99999999 never come"
    for number, says in ((2**32 - 1, "line 1: expected a path"), (10**8, never), ("9" * 6000, "line 1: expected a path")):
        (tmp_path / "train.csv").write_text(f"h\u00f6hle a {number}\n")
        (tmp_path / "val.csv").write_text("h\u00f6hle b 1\n")
        with pytest.raises(InputError, match=says):
            settings.load()
    (tmp_path / "train.csv").write_bytes("h\u00f6hle a 0".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.csv as text: byte 1 is not of utf-8"):
        settings.load()


@pytest.mark.case("F25")
def test_json_of_contexts_and_lists_of_voc(tmp_path) -> None:
    for content, says in ((b"[" * 100_000, "nested too deep"), (b"\xe9", "as text"), (b"1" * 6000, "no JSON")):
        (tmp_path / "order.json").write_bytes(content)
        with pytest.raises(InputError, match=rf"order\.json.*{says}"):
            NICO(root=tmp_path, contexts=tmp_path / "order.json").load()
    (tmp_path / "multi_classification").mkdir()
    (tmp_path / "label_file").mkdir()
    (tmp_path / "label_file" / "Context_name2label.json").write_text('{"snow": 0, "home": 1}')
    wrong = "must be an object of names with their numbers"
    for values, says in (({"cat": "4"}, wrong), (["cat"], wrong), ({"cat": 1, "dog": 1}, "one number to two names")):
        (tmp_path / "label_file" / "Animal_name2label.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=rf"Animal_name2label\.json .*{says}"):
            NICO(root=tmp_path).load()
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match=r"train\.txt as text"):
        PascalVOC(root=tmp_path, train_list="train").load()


@pytest.mark.case("F10", "F25")
def test_the_reader_of_foreign_texts() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert to_text("\u00e9\n".encode(encoding), "a") == "\u00e9\n"
    with pytest.raises(InputError, match=r"cannot read .*nowhere"):
        read_json(Path("nowhere"))
    with pytest.raises(InputError, match="cannot read"):
        read_json(Path("a\0b"))
    for value in (float("nan"), float("inf"), "1", True, None, [1], 2**63, -(2**63), 1e30, 0.5):
        with pytest.raises(InputError, match=r"thing 1 has id .*; expected a whole number"):
            Entry({"id": value}, Path("a"), "thing 1").whole("id")
    for value in (0, -1, 2**63 - 1, 3.0):
        assert Entry({"id": value}, Path("a"), "thing 1").whole("id") == value
    assert isinstance(Entry({"id": np.float64(3)}, Path("a"), "thing 1").whole("id"), int)
