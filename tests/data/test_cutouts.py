"""Cut-outs and how they are fetched, on a small folder of the same kind; on the real one where it is."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import SOURCES, Cutouts, DataBundle, cache_folder, fetch
from foveal.lab.data._fetch import find
from foveal.lab.data.cutouts import CLASSES, list_cutouts
from foveal.lab.recipes import get_recipe
from foveal.lab.training import Recipe


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Discs, each class in a color of its own; and what is to be left out."""
    rows, columns = np.mgrid[:40, :60]
    disc = ((rows - 20) ** 2 + (columns - 30) ** 2 < 15**2).astype(np.uint8) * 255
    for label, below in enumerate(CLASSES.values()):
        for n in range(8):
            color = np.full((40, 60, 3), 20 * label + n, np.uint8)
            path = tmp_path / below / "kind" / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.dstack([color, disc])).save(path)
        (tmp_path / below / "cartoon").mkdir()
        for name in ("cartoon/drawn.png", "kind/0_mirror.png"):
            Image.fromarray(np.dstack([color, disc])).save(tmp_path / below / name)
    return tmp_path


def test_files_are_told_apart(stamps) -> None:
    files, labels = list_cutouts(stamps)
    assert len(files) == len(set(files)) == 80
    assert [labels.count(n) for n in range(10)] == [8] * 10
    assert not any("cartoon" in str(path) or "mirror" in path.name for path in files)
    with pytest.raises(InputError, match="no cut-outs of the class bird"):
        list_cutouts(stamps / "elsewhere")


def colors(bundle: DataBundle, split: str) -> set[int]:
    """Which files a split shows: each has a color of its own."""
    return {round(float(cutout[0][cutout[3] == 1].mean()) * 255) for cutout in getattr(bundle, split)._cutouts}


def test_no_file_is_in_two_splits(stamps) -> None:
    bundle = Cutouts(folder=str(stamps), img_size=24, views=2).load()
    sizes = {"train": 50, "val": 10, "test": 20}
    assert {split: len(getattr(bundle, split)) // 2 for split in sizes} == sizes
    shown = [colors(bundle, split) for split in sizes]
    assert [len(part) for part in shown] == list(sizes.values())
    assert len(set.union(*shown)) == 80
    other = Cutouts(folder=str(stamps), img_size=24, seed=1).load()
    assert colors(other, "test") != shown[2]


def test_scenes_show_the_thing_on_a_background(stamps) -> None:
    bundle = Cutouts(folder=str(stamps), img_size=48, views=3).load()
    image, label = bundle.test[5]
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.float32
    assert torch.equal(bundle.test[5][0], image), "scenes that judge stay"
    assert not torch.equal(bundle.test[25][0], image), "another view of the same file"
    assert bundle.test[25][1] == label
    assert bundle.train.augments
    torch.manual_seed(0)
    first = bundle.train[0][0]
    assert not torch.equal(bundle.train[0][0], first), "scenes to learn from are drawn anew"
    torch.manual_seed(0)
    assert torch.equal(bundle.train[0][0], first)
    gray = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) + torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * image
    assert 0 <= gray.min() <= gray.max() <= 1 + 1e-6
    cutout = bundle.test._cutouts[5]
    color = cutout[0][cutout[3] == 1].mean()
    assert ((gray - color).abs().amax(0) < 1e-3).float().mean() > 0.03, "the disc is there, without a rim of what lay under transparency"
    assert bundle.prepare(Image.new("RGB", (70, 30))).shape == (3, 48, 48)


def test_a_recipe_holds_them(stamps) -> None:
    recipe = Recipe(data=Cutouts(folder=str(stamps), img_size=32), model=get_recipe("digits").model)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_numbers_that_make_no_scene_are_refused() -> None:
    for options in ({"img_size": 4}, {"views": 0}):
        with pytest.raises(InputError, match="at least"):
            Cutouts(**options)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("foveal.lab.data._fetch.shutil.which", lambda client: f"/usr/bin/{client}")
    # as if the package were not installed on this machine
    monkeypatch.setattr("foveal.lab.data._fetch.find.__defaults__", (tmp_path / "root",), raising=False)
    return tmp_path / "cache"


def apt(folder: str = SOURCES["tuxpaint-stamps"].folder, code: int = 0, packages: int = 1):
    """In the place of apt and dpkg; what was called is kept on it."""

    def run(command, cwd, **options):
        run.calls.append(command)
        if command[0] == "apt-get":
            for n in range(packages):
                (cwd / f"tuxpaint-stamps-default_{n}_all.deb").touch()
        else:
            (cwd / "out" / folder).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, code, "", "E: Unable to locate package\n" if code else "")

    run.calls = []
    return run


def test_fetching_once(cache) -> None:
    assert cache_folder() == cache
    with pytest.raises(InputError, match=r"neither is tuxpaint-stamps-default installed.*remedy: foveal\.lab\.data\.fetch"):
        find("tuxpaint-stamps")
    run = apt()
    path = fetch("tuxpaint-stamps", run)
    assert path == cache / "tuxpaint-stamps" / "usr/share/tuxpaint/stamps"
    assert [command[0] for command in run.calls] == ["apt-get", "dpkg-deb"]
    assert fetch("tuxpaint-stamps", run) == find("tuxpaint-stamps") == path
    assert len(run.calls) == 2
    assert [entry.name for entry in cache.iterdir()] == ["tuxpaint-stamps"], "nothing is left behind"


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (apt(code=100), "Unable to locate package; is tuxpaint-stamps-default in your sources"),
        (apt(packages=0), "left 0 packages"),
        (apt(folder="elsewhere"), "has no usr/share/tuxpaint/stamps; this was written for version"),
    ],
)
def test_what_fails_leaves_nothing(cache, run, says) -> None:
    with pytest.raises(InputError, match=says):
        fetch("tuxpaint-stamps", run)
    assert not list(cache.iterdir())


def test_missing_clients_and_names_are_told(cache, monkeypatch) -> None:
    monkeypatch.setattr("foveal.lab.data._fetch.shutil.which", lambda client: None)
    with pytest.raises(InputError, match="needs apt-get, as Debian and Ubuntu have it; elsewhere unpack"):
        fetch("tuxpaint-stamps", apt())
    with pytest.raises(InputError, match="did you mean tuxpaint-stamps"):
        fetch("tuxpaint")


@pytest.mark.data
def test_the_real_cutouts() -> None:
    try:
        find("tuxpaint-stamps")
    except InputError as error:
        pytest.skip(str(error))
    _, labels = list_cutouts()
    assert [labels.count(n) for n in range(10)] == [35, 65, 11, 9, 26, 18, 25, 12, 11, 17]
    bundle = Cutouts(img_size=32, views=1).load()
    assert bundle.test[0][0].isfinite().all()
