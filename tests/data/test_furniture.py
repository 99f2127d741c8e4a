"""Furniture on tiny made-up catalogs: labels by name, meshes out of archives, splits by name; and OBJ files, broken ones among them."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from foveal import InputError
from foveal.lab.data import Furniture, Solids
from foveal.lab.data.points import furniture
from foveal.lab.data.points.formats import read_obj
from foveal.lab.data.points.furniture import KINDS, LABELS, label_of, split_by_name, stem_of

# a square of area 4 with texture and normals, and a triangle of area 1 counted from the end
OBJ = b"""# made
v 0 0 0
v 2 0 0
v 2 2 0
v 0 2 0
v 0 0 1
vt 0 0
vn 0 0 1
usemtl wood
f 1/1/1 2/1/1 3/1/1 4/1/1
f -5 -4 -1
"""


def test_polygons_and_places_from_the_end() -> None:
    vertices, triangles = read_obj(OBJ, Path("a.obj"))
    assert vertices.tolist() == [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [0, 0, 1]]
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4]]
    five = OBJ + b"f 1 2 3 4 5\nf 1 2\n"
    assert read_obj(five, Path("a.obj"))[1][3:].tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]], "a line has no area"
    empty = read_obj(b"", Path("a.obj"))
    assert [part.shape for part in empty] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OBJ.replace(b"v 2 2 0", b"v 2 x 0"), "numbers"),
        (OBJ.replace(b"v 2 2 0", b"v 2 2"), "numbers"),
        (OBJ.replace(b"v 2 2 0", b"v 2 nan 0"), "not finite"),
        (OBJ.replace(b"f -5 -4 -1", b"f 1 2 9"), "not among its 5"),
        (OBJ.replace(b"f -5 -4 -1", b"f -9 2 1"), "not among its 5"),
        (OBJ.replace(b"f -5 -4 -1", b"f 0 2 1"), "not among its 5"),
        (OBJ.replace(b"f -5 -4 -1", b"f a b c"), "numbers"),
    ],
)
def test_broken_meshes_are_refused_by_name(text, says) -> None:
    with pytest.raises(InputError, match=rf"sofa\.obj .*{says}"):
        read_obj(text, Path("sofa.obj"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Coffee table", "table"),
        ("Glass door cabinet", "cabinet"),
        ("Desk lamp", "lamp"),
        ("Bowl with fruits", "vessel"),
        ("Table on trestles", "table"),
        ("Chair with cushion", "chair"),
        ("Sofa 2 seats", "sofa"),
        ("Plate, glasses and cutlery", "vessel"),
        ("Track lights", "lamp"),
        ("Shelves", "cabinet"),
        ("Cypress", "plant"),
        ("Futon couch", "sofa"),
        *(
            (name, None)
            for name in ("Pool table", "Football table", "Table fan", "Child swing", "Table tennis", "Shower curtain", "Seat Leon", "Cup cake", "Dog")
        ),
    ],
)
def test_labels_are_the_last_noun_of_the_name(name, kind) -> None:
    assert label_of(name) == kind


def test_the_committed_labels_follow_the_rule() -> None:
    with LABELS.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 355
    assert all(label_of(row["name"]) == row["label"] for row in rows)
    assert {row["label"] for row in rows} == set(KINDS)
    assert len({(row["file"], row["model"]) for row in rows}) == 355
    assert {row["file"] for row in rows} == {"BlendSwap-CC-0.sh3f", "BlendSwap-CC-BY.sh3f", "KatorLegaz.sh3f", "Scopia.sh3f"}, "not the persons"


def test_names_stay_on_one_side_and_every_kind_is_everywhere() -> None:
    with LABELS.open(encoding="utf8", newline="") as file:
        models = [(row["label"], stem_of(row["name"])) for row in csv.DictReader(file)]
    parts = split_by_name(models, 0)
    assert sorted(place for places in parts.values() for place in places) == list(range(355))
    stems = [{models[place] for place in places} for places in parts.values()]
    assert sum(map(len, stems)) == len(set().union(*stems))
    for places in parts.values():
        assert {models[place][0] for place in places} == set(KINDS)
    shares = [len(places) / 355 for places in parts.values()]
    assert shares == pytest.approx([0.6, 0.15, 0.25], abs=0.04)
    assert split_by_name(models, 1) != parts
    assert stem_of("Double window 3 panes") == stem_of("double Window 4 panes") != stem_of("Window")


@pytest.fixture
def catalogs(tmp_path, monkeypatch) -> Path:
    """Two archives, of boxes stretched each in its own way: two kinds of four names each."""
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    rows = []
    for catalog in ("one.sh3f", "two.sh3f"):
        with zipfile.ZipFile(tmp_path / catalog, "w") as archive:
            for n, (kind, name) in enumerate((kind, f"{adjective} {kind}") for kind in ("chair", "table") for adjective in ("Red", "Blue", "Old", catalog[:3])):
                text = "".join(f"v {x * (n + 1)} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
                archive.writestr(f"made/{n}.obj", text + "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n")
                rows.append((catalog, name, f"made/{n}.obj", kind))
    labels = tmp_path / "labels.csv"
    labels.write_text("file,name,model,label\n" + "".join(",".join(row) + "\n" for row in rows))
    monkeypatch.setattr(furniture, "LABELS", labels)
    return tmp_path


def test_clouds_lie_on_their_meshes_and_are_read_once(catalogs, monkeypatch) -> None:
    settings = Furniture(folder=str(catalogs), num_points=60)
    bundle = settings.load()
    assert sum(len(split) for split in (bundle.train, bundle.val, bundle.test)) == 16
    assert (bundle.up_axis, bundle.in_chans, bundle.classes[0]) == ("y", 6, "chair")
    for index in range(len(bundle.test)):
        points = bundle.test[index][0].numpy()
        # on a box every normal is along an axis, and so is the place in it
        assert np.allclose(np.abs(points[:, 3:]).max(1), 1)
        axis = np.abs(points[:, 3:]).argmax(1)
        for way in range(3):
            places = points[axis == way, way]
            assert len(np.unique(places.round(4))) <= 2, "two sides across each axis"
        assert np.linalg.norm(points[:, :3], axis=1).max() == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr(furniture, "read_obj", lambda *args: pytest.fail("it was kept"))
    again = Furniture(folder=str(catalogs), num_points=60, normals=False).load()
    assert np.array_equal(again.test.stored.points, bundle.test.stored.points[:, :3])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "two.sh3f").unlink(), r"two\.sh3f is not there"),
        (lambda root: (root / "two.sh3f").write_bytes(b"no archive"), r"two\.sh3f is no catalog"),
        (lambda root: zipfile.ZipFile(root / "two.sh3f", "w").close(), r"two\.sh3f has no made/0\.obj"),
    ],
)
def test_broken_catalogs_are_refused_by_name(catalogs, spoil, says) -> None:
    spoil(catalogs)
    with pytest.raises(InputError, match=says):
        Furniture(folder=str(catalogs)).load()


def test_a_mesh_without_area_is_refused_by_name(catalogs) -> None:
    with zipfile.ZipFile(catalogs / "one.sh3f", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("made/0.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    with pytest.raises(InputError, match=r"one\.sh3f/made/0\.obj is a mesh without area"):
        Furniture(folder=str(catalogs)).load()


def test_what_is_fetched_is_stood_in_for_by_what_need_not(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    monkeypatch.setattr("foveal.lab.data._fetch.find.__defaults__", (tmp_path,))
    with pytest.raises(InputError, match="foveal data fetch sweethome3d-furniture"):
        Furniture().load()
    small = Furniture(normals=False).smoke_data()
    assert isinstance(small, Solids)
    assert (small.num_points, small.normals, small.smoke_data()) == (64, False, small)
