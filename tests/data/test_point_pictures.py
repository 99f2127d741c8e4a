"""Pictures of clouds: what is up is up, colors stand for what they say."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.analysis.clouds import CloudView, cloud_picture, cloud_sheet, confusion_picture, weight_colors

RED, GRAY = (255, 0, 0), (190, 190, 190)


def place_of(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    near = np.abs(picture.astype(int) - color).sum(-1) < 60
    return np.argwhere(near)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_what_points_up_is_above(up) -> None:
    points = torch.zeros(2, 3)
    points[0, "xyz".index(up)], points[1, "xyz".index(up)] = 1.0, -1.0
    picture = cloud_picture(points, np.array([RED, (0, 0, 255)]), up=up, size=40.0)
    red, blue = place_of(picture, RED), place_of(picture, (115, 115, 255))  # what is far is paler
    assert len(red) > 20
    assert red[:, 0].max() < blue[:, 0].min()
    # both views, side by side
    middle = picture.shape[1] // 2
    assert (red[:, 1] < middle).any()
    assert (red[:, 1] > middle).any()


def test_the_nearer_point_hides_the_farther() -> None:
    """Looked at from an azimuth of 45 and 135 degrees, twenty degrees up: a point towards the first and one behind it."""
    look = np.array([np.cos(np.deg2rad(20)) * np.cos(np.deg2rad(45)), np.cos(np.deg2rad(20)) * np.sin(np.deg2rad(45)), np.sin(np.deg2rad(20))])
    points = torch.from_numpy(np.stack([look, -look]))
    for order in ([0, 1], [1, 0]):
        colors = np.array([(255, 0, 0), (0, 0, 255)])[order]
        picture = cloud_picture(points[order], colors, size=60.0)
        left = picture[:, : picture.shape[1] // 2]
        assert len(place_of(left, RED)) > 20
        assert len(place_of(left, (0, 0, 255))) == 0


def test_weights_are_gray_to_red_and_blue_below_none() -> None:
    colors = weight_colors(np.array([0.0, 0.5, 1.0, -1.0]))
    assert np.ptp(colors[0]) == 0
    assert colors[2, 0] > 2 * colors[2, 1:].max()
    assert colors[3, 2] > colors[3, 0]
    assert np.array_equal(weight_colors(np.array([2.0, 5.0]), 2.0)[0], weight_colors(np.array([2.0, 5.0]), 2.0)[1]), "cut off at the largest that counts"


def test_sheets_are_the_same_bytes_each_time_and_hold_every_cloud() -> None:
    torch.manual_seed(0)
    rows = [("one", [CloudView(torch.rand(20, 3), caption="a", star=3)] * 2), ("two", [CloudView(torch.rand(5, 3), caption="b", wrong=True)])]
    first, second = (cloud_sheet(rows, title="title", legend=[("part", RED)], about="about") for _ in range(2))
    assert first == second
    image = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"))
    assert image.shape[1] > image.shape[0] > 300


def test_shares_of_a_row_are_what_is_written() -> None:
    counts = np.array([[3, 1], [0, 0]])
    drawn = confusion_picture(counts, ["one", "two"], title="title")
    assert drawn == confusion_picture(counts.copy(), ["one", "two"], title="title")
    assert drawn != confusion_picture(np.array([[1, 3], [0, 0]]), ["one", "two"], title="title")
