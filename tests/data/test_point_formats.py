"""Files of clouds in their true format, and broken ones, whose names the messages give."""

import contextlib

import numpy as np
import pytest

from foveal import InputError
from foveal.lab.data.points._lists import files_of_list
from foveal.lab.data.points.formats import read_cloud_txt, read_clouds_h5, read_off, sample_surface

# a rectangle of 2 × 1 and a triangle of area 1 that stands on its side
MESH = "OFF\n5 2 0\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n0 0 1\n4 0 1 2 3\n3 0 1 4 255 0 0\n"


@pytest.mark.parametrize("text", [MESH, MESH.replace("OFF\n", "OFF"), MESH.replace("OFF\n", "OFF # made\n\n# by hand\n")])
def test_polygons_become_triangles_and_headers_may_be_glued(text, tmp_path) -> None:
    path = tmp_path / "a.off"
    path.write_text(text)
    vertices, triangles = read_off(path)
    assert vertices.tolist() == [[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4]]
    points = sample_surface(vertices, triangles, 9000, np.random.default_rng(0), path=path)
    flat = points[:, 2] == 0
    assert abs(flat.mean() - 2 / 3) < 0.02, "by area"
    np.testing.assert_allclose(points[flat, :2].mean(0), [1, 0.5], atol=0.03)
    np.testing.assert_allclose(points[~flat, :3].mean(0), [2 / 3, 0, 1 / 3], atol=0.03, err_msg="a triangle's middle")
    np.testing.assert_allclose(points[flat, 3:] - [0, 0, 1], 0, atol=1e-12)
    np.testing.assert_allclose(points[~flat, 3:] - [0, -1, 0], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no OFF file"),
        ("PLY\n", "no OFF file"),
        (MESH[:30], "cut off"),
        (MESH.replace("4 0 1 2 3", "4 0 1 2"), "names 3"),
        (MESH.replace("4 0 1 2 3", "4 0 1 2 7"), "0 to 7"),
        (MESH.replace("2 1 0", "nan 1 0"), "not finite"),
        (MESH.replace("2 1 0", "x 1 0"), "numbers"),
    ],
)
def test_broken_meshes_are_refused_by_name(text, says, tmp_path) -> None:
    path = tmp_path / "broken.off"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"broken\.off.*{says}"):
        read_off(path)


@pytest.mark.parametrize("faces", [[], [[0, 0, 1]], [[0, 1, 2]]])
def test_meshes_without_area_are_refused_by_name(faces, tmp_path) -> None:
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    with pytest.raises(InputError, match=r"line\.off is a mesh without area"):
        sample_surface(line, np.array(faces, np.int64).reshape(-1, 3), 4, np.random.default_rng(0), path=tmp_path / "line.off")


@pytest.mark.filterwarnings("error")
def test_meshes_whose_areas_are_no_numbers_are_refused_by_name(tmp_path) -> None:
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    triangle = np.array([[0, 1, 2]])
    for far in (1e160, 1e308):
        with pytest.raises(InputError, match=r"far\.off reaches so far .* scale it down"):
            sample_surface(far * corners, triangle, 4, np.random.default_rng(0), path=tmp_path / "far.off")
    assert sample_surface(1e60 * corners, triangle, 4, np.random.default_rng(0), path=tmp_path / "far.off").shape == (4, 6)


def test_text_with_a_point_a_line(tmp_path) -> None:
    path = tmp_path / "chair_0001.txt"
    path.write_text("0.5,1,2,0,0,1\n3,4,5,1,0,0\n")
    assert read_cloud_txt(path, 6, delimiter=",").tolist() == [[0.5, 1, 2, 0, 0, 1], [3, 4, 5, 1, 0, 0]]
    for text, says in [("", "0 points"), ("1,2\n", "2 columns"), ("1,2,3,4,5,nan\n", "not finite"), ("1,2,3,4,5,6\n1,2\n", "point a line")]:
        path.write_text(text)
        with pytest.raises(InputError, match=rf"chair_0001\.txt.*{says}"):
            read_cloud_txt(path, 6, delimiter=",")
    path.write_text("1 2 3 0 0 1 12\n")
    assert read_cloud_txt(path, 7)[0, 6] == 12
    with pytest.raises(InputError, match="1 points in a cloud, and 32 are needed"):
        read_cloud_txt(path, 7, at_least=32)


def test_hdf5_of_modelnet(tmp_path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'foveal[points]'")
    path, data = tmp_path / "ply_data_train0.h5", np.random.default_rng(0).normal(size=(3, 8, 3)).astype("f4")

    def write(**parts: object) -> None:
        with h5py.File(path, "w") as file:
            for name, part in parts.items():
                file[name] = part

    label = np.array([[1], [0], [1]], "u1")
    write(data=data, label=label, normal=-data)
    clouds, labels = read_clouds_h5(path, normals=True)
    assert np.array_equal(clouds, np.concatenate([data, -data], -1))
    assert labels.tolist() == [1, 0, 1]
    assert read_clouds_h5(path)[0].shape == (3, 8, 3)
    bad = np.where(np.arange(8)[:, None] == 3, np.nan, data)
    for parts, normals, says in [
        ({"data": data, "label": label}, True, "has no normal"),
        ({"data": data[:2], "label": label}, False, "3 labels"),
        ({"data": bad, "label": label}, False, "not finite"),
        ({"data": np.where(np.arange(8)[:, None] == 3, 1e39, data.astype("f8")), "label": label}, False, "not finite"),
        ({"data": np.where(np.arange(8)[:, None] == 3, 1e19, data), "label": label}, False, "farther than 1e\\+18"),
        ({"data": np.where(np.arange(3)[:, None, None] == 2, 1, data), "label": label}, False, "all points of cloud 2 in one place"),
        ({"data": data.astype("S4"), "label": label}, False, "data of .S4, expected numbers"),
        ({"data": data, "label": label + 0.5}, False, "numbers in label that are not whole"),
        ({"data": data, "label": label * np.nan}, False, "numbers in label that are not whole"),
    ]:
        write(**parts)
        with pytest.raises(InputError, match=rf"train0\.h5.*{says}"):
            read_clouds_h5(path, normals=normals)
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"train0\.h5 cannot be read"):
        read_clouds_h5(path)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_hdf5_is_one_line_whatever_the_library_raises(tmp_path, seed) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'foveal[points]'")
    path = tmp_path / "ply_data_train0.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.zeros((3, 8, 3), "f4"), compression="gzip")
        file["label"] = np.zeros((3, 1), "u1")
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, len(content), len(content) // 20):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    # noise may miss what matters
    with contextlib.suppress(InputError):
        read_clouds_h5(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"train0\.h5 cannot be read as HDF5") as caught:
        read_clouds_h5(path)
    assert "\n" not in str(caught.value)


def test_a_list_of_files_that_are_not_there_is_what_is_wrong(tmp_path) -> None:
    listed = tmp_path / "train_files.txt"
    (tmp_path / "a.h5").touch()
    listed.write_text("data/of/somebody/a.h5\n")
    assert files_of_list(listed) == [tmp_path / "a.h5"]
    for text in ("this is a sentence\n", "[" * 100_000, "a.h5\nb.h5\n", "x\0y\n"):
        listed.write_text(text)
        with pytest.raises(InputError, match=r"train_files\.txt"):
            files_of_list(listed)
