"""The viewer on clouds, with two views of one cloud, and by words: what is asked, shown and counted, in a real browser and against loops."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from foveal import InputError
from foveal.analysis.clouds import looking_at
from foveal.lab.tasks._point_viewer import view_cloud, write_cloud_page
from foveal.lab.tasks._word_viewer import over_picture, view_answer, view_caption, write_word_page
from foveal.models.points import PCTParts
from foveal.models.points.maps import LayerLook, point_attention
from foveal.models.points.pct import SimplePCT
from tests.browser import chromium
from tests.inspect.test_viewer_page import browser, shown  # noqa: F401  # a fixture

needs_browser = pytest.mark.skipif(chromium() is None, reason="needs the browser chromium, which is not installed: apt install chromium")
POINTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(3))


def network(attention: str) -> SimplePCT:
    torch.manual_seed(0)
    return SimplePCT(num_classes=4, width=16, attention=attention).eval()


def test_two_views_are_turns_of_the_cloud() -> None:
    """By rotation matrices: about the upright axis by the azimuth, then towards who looks by the elevation."""
    xyz = POINTS.double().numpy()
    xyz = xyz - (xyz.max(0) + xyz.min(0)) / 2
    xyz /= np.linalg.norm(xyz, axis=1).max()
    for (across, upward, near), azimuth in zip(looking_at(POINTS), (45, 135), strict=True):
        a, e = np.deg2rad(azimuth), np.deg2rad(20)
        turned = xyz @ np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        tilted = turned @ np.array([[np.cos(e), 0, -np.sin(e)], [0, 1, 0], [np.sin(e), 0, np.cos(e)]])
        np.testing.assert_allclose(np.stack([near, across, upward], 1), tilted, atol=1e-12)


@pytest.mark.parametrize("attention", ["offset", "denoising", "external"])
def test_maps_of_a_cloud_are_the_networks(attention) -> None:
    model = network(attention)
    seen = view_cloud(model, POINTS, name="net")
    viewed = seen.model
    assert torch.equal(seen.points, POINTS)
    assert seen.asked is None
    looks = point_attention(model, POINTS[None])
    assert [layer.name for layer in viewed.layers] == [look.name for look in looks]
    for layer, look in zip(viewed.layers, looks, strict=True):
        for which, value in layer.maps.items():
            assert torch.equal(value, look.maps[which][0])
        if "combined" not in layer.maps:
            strength = torch.tensor(layer.lambdas).view(-1, 1, 1)
            want = look.maps["combined"][0]
            torch.testing.assert_close((layer.maps["positive"] - strength * layer.maps["negative"]).float(), want, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="do not meet"):
        view_cloud(network("none"), POINTS, name="net")


@needs_browser
def test_a_point_is_found_in_both_views(browser, tmp_path) -> None:  # noqa: F811
    model = network("offset")
    seen = view_cloud(model, POINTS, name="net")
    viewed = seen.model
    browser.view(1440)
    browser.events.clear()
    browser.open(seen.page(title="a cloud").save(tmp_path / "cloud.html"))
    asked = "document.getElementById('asked-name').textContent"
    assert browser(asked) == "mean of all points"
    # one that lies apart from the others in both views, so that it is the nearest
    places = np.array(browser("foveal.about.cloud"))
    both = np.concatenate([places[:, :2], places[:, 2:]])
    apart = [np.sort(np.linalg.norm(both - place, axis=1))[1] for place in both]
    lonely = int(np.minimum(apart[:24], apart[24:]).argmax())
    before = browser("document.querySelector('.tile').querySelector('canvas').toDataURL()")
    for across, down in (places[lonely, :2], places[lonely, 2:]):
        box = browser("(e => (e = e.getBoundingClientRect(), [e.x, e.y, e.width, e.height]))(document.querySelector('#asked-picture .cells'))")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + across * box[2], y=box[1] + down * box[3])
        assert browser(asked) == f"point {lonely + 1}"
        assert browser("document.querySelector('.tile').querySelector('canvas').toDataURL()") != before
        browser.point("h1")
        assert browser(asked) == "mean of all points"
    box = browser("(e => (e = e.getBoundingClientRect(), [e.x, e.y, e.width, e.height]))(document.querySelector('#asked-picture .cells'))")
    for kind in ("mousePressed", "mouseReleased"):
        x, y = box[0] + places[lonely, 0] * box[2], box[1] + places[lonely, 1] * box[3]
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    name = viewed.layers[-1].name
    browser(f"document.querySelector(\"[aria-label='{name}, head 0']\").click()")
    named, most, _ = shown(browser)
    row, error = viewed.layers[-1].maps["combined"][0, lonely], browser("foveal.about.error") * 1.01 + 1e-6
    assert named["on all"] == pytest.approx(row.sum().item(), abs=error * 24)
    best = row.abs().argsort(descending=True)[:5].tolist()
    assert {place for place, _ in most} == {f"point {at + 1}" for at in best}
    for place, value in most:
        assert value == pytest.approx(row[int(place.split()[1]) - 1].item(), abs=error)
    # from point to point by the keyboard
    browser.press("ArrowRight")
    assert browser(asked) == f"point {(lonely + 1) % 24 + 1}" or lonely == 23
    assert not browser.complaints()
    assert not [url for url in browser.requests() if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("attention", ["offset", "denoising", "external"])
def test_of_a_large_cloud_points_far_from_one_another_are_asked(attention) -> None:
    model = network(attention)
    whole = view_cloud(model, POINTS, name="net").model
    kept = [value for layer in whole.layers for value in layer.maps.values()]
    each = sum(value.shape[0] * value.shape[-1] for value in kept)
    assert view_cloud(model, POINTS, name="net", most=24 * each).asked is None
    seen = view_cloud(model, POINTS, name="net", most=24 * each - 1)
    assert len(seen.asked) == 22, "with the mean behind them 23 rows"
    seen = view_cloud(model, POINTS, name="net", most=7 * each)
    # by hand: the first, then each the farthest from those before
    chosen = [0]
    while len(chosen) < 6:
        apart = torch.cdist(POINTS.double(), POINTS[chosen].double()).amin(1)
        chosen.append(int(apart.argmax()))
    assert seen.asked == sorted(chosen)
    assert f"6 of {len(POINTS)} points can be asked" in seen.model.notes[-1]
    for layer, exact in zip(seen.model.layers, whole.layers, strict=True):
        assert (layer.queries.grid, layer.queries.num_suffix_tokens, layer.keys.grid) == ((1, 6), 1, (1, 24))
        for which, value in layer.maps.items():
            assert torch.equal(value[:, :-1], exact.maps[which][:, seen.asked])
            torch.testing.assert_close(value[:, -1], exact.maps[which].mean(1))
        assert layer.lambdas is None or torch.allclose(torch.tensor(layer.lambdas), torch.tensor(exact.lambdas), atol=1e-5)


@needs_browser
@pytest.mark.parametrize("attention", ["denoising", "external"])
def test_a_point_that_can_be_asked_is_found_among_all(attention, browser, tmp_path) -> None:  # noqa: F811
    model = network(attention)
    whole, seen = view_cloud(model, POINTS, name="net").model, view_cloud(model, POINTS, name="net", most=7 * 24 * 5 * 4)
    assert seen.asked is not None
    browser.view(1440)
    browser.events.clear()
    page = seen.page(title="a cloud")
    browser.open(page.save(tmp_path / "cloud.html"))
    asked, error = "document.getElementById('asked-name').textContent", page.error * 2.5 + 1e-6
    layer = whole.layers[-1]
    flow = layer.maps["combined"] if "combined" in layer.maps else layer.maps["positive"] - torch.tensor(layer.lambdas).view(-1, 1, 1) * layer.maps["negative"]

    def shows(row: torch.Tensor) -> None:
        got = browser("[...foveal.weightsOf(foveal.about.models[0].layers.at(-1), 'combined', 'mean', foveal.current())]")
        torch.testing.assert_close(torch.tensor(got), row.mean(0).float(), rtol=0, atol=error)

    assert browser(asked) == "mean of all points"
    shows(flow.mean(1))
    for column, point in enumerate(seen.asked):
        # the grid that is asked, each cell at its point in the first view
        cell = f"document.querySelectorAll('#asked-picture [data-column]')[{column}]"
        browser(f"{cell}.focus()")
        assert browser(asked) == f"point {point + 1}"
        place = browser("foveal.about.cloud")[point]
        assert [float(browser(f"parseFloat({cell}.style.{side})")) for side in ("left", "top")] == pytest.approx([100 * place[0], 100 * place[1]], abs=0.01)
        shows(flow[:, point].double())
    # by the pointer only those that can be asked are found, in the second view too
    places = np.array(browser("foveal.about.cloud"))
    box = browser("(e => (e = e.getBoundingClientRect(), [e.x, e.y, e.width, e.height]))(document.querySelector('#asked-picture .cells'))")
    names = {f"point {point + 1}" for point in seen.asked} | {"mean of all points"}
    found = set()
    for at in range(24):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + places[at, 2] * box[2], y=box[1] + places[at, 3] * box[3])
        found.add(browser(asked))
        if at in seen.asked:
            assert browser(asked) in names - {"mean of all points"}
    assert found <= names
    if attention == "external":
        browser("document.querySelector(\"input[name='kind'][value='slots']\").click()")
        browser("document.querySelector('.closeup [data-column]').focus()")
        browser.point(".closeup .cells [data-row='0'][data-column='0']")
        assert not browser("document.querySelector('.closeup .used').hidden")
    assert not browser.complaints()


def test_a_page_of_2048_points_is_below_six_megabytes(monkeypatch) -> None:
    """Of weights at random, which nothing compresses; maps of networks take less, and have the finest steps."""
    cloud = torch.randn(1, 2048, 3)
    looks = [LayerLook(f"layer {n}", cloud, {"combined": torch.rand(1, 1, 2048, 2048)}) for n in range(4)]
    monkeypatch.setattr("foveal.lab.tasks._point_viewer.point_attention", lambda *given: looks)
    seen = view_cloud(nn.Linear(1, 1), cloud[0], name="net")
    page = seen.page(title="a cloud")
    assert 500 < len(seen.asked) < 560
    assert len(page.html.encode()) < 6_000_000
    assert page.steps >= 127


def test_shares_of_regions_are_spread_over_their_boxes() -> None:
    """Against the middle of each of 480 × 480 pixels, which either lies in a box or does not."""
    torch.manual_seed(0)
    corners = torch.rand(5, 2, 2).sort(1).values
    boxes = torch.cat([corners[:, 0], corners[:, 1]], -1)
    shares = torch.rand(3, 5)
    got = over_picture(shares, boxes, grid=6).view(3, 6, 6)
    torch.testing.assert_close(got.sum((1, 2)), shares.sum(1))
    fine = 480
    middle = (torch.arange(fine) + 0.5) / fine
    want = torch.zeros(3, 6, 6)
    for region, (left, top, right, bottom) in enumerate(boxes.tolist()):
        inside = ((middle >= top) & (middle < bottom))[:, None] & ((middle >= left) & (middle < right))[None]
        cells = inside.float().unflatten(0, (6, -1)).unflatten(2, (6, -1)).sum((1, 3))
        want += shares[:, region, None, None] * cells / cells.sum()
    assert (got - want).abs().max() < 0.01
    # boxes without an area, and those that reach out, give all their share
    odd = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [-0.2, 0.9, 1.4, 1.3], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(over_picture(torch.eye(4), odd, grid=4).sum(-1), torch.ones(4))


@needs_browser
def test_a_word_is_chosen_and_seen_to_look(browser, tmp_path) -> None:  # noqa: F811
    words, boxes = ["a", "dog", "a"], torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1.0]])
    looks = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    picture = torch.randint(0, 255, (3, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    browser.view(1440)
    browser.events.clear()
    browser.open(write_word_page(view_caption(words, looks, boxes), picture, tmp_path, title="words"))
    buttons = browser("[...document.querySelectorAll('#asked-tokens button')].map(e => e.textContent)")
    assert buttons == ["1: a", "2: dog", "3: a"]
    assert browser("document.getElementById('asked-name').textContent") == "1: a"
    # the mean of one head, and of one layer, is the map that is there already
    seen = "[...document.querySelectorAll('.tile')].filter(e => !e.closest('[hidden]')).map(e => e.ariaLabel)"
    assert browser(seen) == ["last layer, mean over heads"]
    assert browser("document.getElementById('close-name').textContent") == "last layer, mean over heads"
    error = browser("foveal.about.error") * 2 + 1e-6
    for number, row in enumerate(looks.tolist()):
        browser.click(f"#asked-tokens button:nth-child({number + 1})")
        named, _, _ = shown(browser)
        assert named["on all patches"] == pytest.approx(1, abs=600 * error)
        got = browser("[...foveal.weightsOf(foveal.about.models[0].layers[0], 'combined', 'mean', foveal.current())]")
        quarter = torch.tensor(got).view(24, 24)
        assert quarter[:12, :12].sum().item() == pytest.approx(row[0], abs=144 * error)
        assert quarter[12:, 12:].sum().item() == pytest.approx(row[1], abs=144 * error)
        assert quarter[12:, :12].abs().max() < error
    assert not browser.complaints()


@needs_browser
@pytest.mark.parametrize("seen", [True, False], ids=["regions and words", "words alone"])
def test_an_answer_takes_of_words_by_name(seen, browser, tmp_path) -> None:  # noqa: F811
    question, shares = ["what", "is", "red", "?"], torch.tensor([0.1, 0.2, 0.6, 0.1])
    viewed = view_answer(question, torch.tensor([1.0]) if seen else None, shares, torch.tensor([[0.25, 0.25, 0.75, 0.75]]), [("cup", 0.9), ("hat", 0.1)])
    browser.view(1440)
    browser.events.clear()
    browser.open(write_word_page(viewed, torch.zeros(3, 16, 16, dtype=torch.uint8), tmp_path, title="an answer"))
    browser("document.querySelector(\"[aria-label='words of the question, mean over heads']\").click()")
    rows = "[...document.querySelectorAll('.closeup tbody tr')].map(e => [e.firstChild.textContent, Number(e.querySelector('data').value)])"
    most = browser(rows)
    assert most[0][0] == "red"
    error = browser("foveal.about.error") * 2 + 1e-6
    assert dict(map(tuple, most)) == {word: pytest.approx(share, abs=error) for word, share in zip(question, shares.tolist(), strict=True)}
    assert browser("document.querySelector('.answers li').textContent").startswith("cup")
    # pointing at a word shows no map of who has it: it is no slot
    browser.point(".closeup .cells [data-row='0'][data-column='0']")
    assert browser("document.querySelector('.closeup .used').hidden")
    assert not browser.complaints()


@needs_browser
def test_three_widths_and_both_modes_of_a_cloud(browser, tmp_path) -> None:  # noqa: F811
    path = view_cloud(network("external"), POINTS, name="net").page(title="a cloud").save(tmp_path / "cloud.html")
    for width, dark in itertools.product((390, 820, 1440), (False, True)):
        browser.view(width, dark=dark)
        browser.open(path)
        assert browser("document.documentElement.scrollWidth") <= width


def test_clouds_of_too_many_points_have_no_page(tmp_path, monkeypatch) -> None:
    """And not one without a map."""
    monkeypatch.setattr("foveal.lab.tasks._point_viewer.MOST", 100)
    model, points, rest = PCTParts(num_parts=3, num_shapes=2).eval(), torch.randn(64, 3), (torch.tensor([0]),)
    with pytest.raises(InputError, match=r"one row of all maps has [\d,]+ entries, of the 100 that a page takes; give fewer points"):
        view_cloud(model, points, rest, name="it")
    bundle = SimpleNamespace(classes=[], up_axis="z")
    assert write_cloud_page(model, points, rest, bundle, tmp_path, logits=torch.empty(0), truth=None) == []
    assert not list(tmp_path.iterdir())
