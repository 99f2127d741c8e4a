"""The viewer as a reader meets it, in a real browser: what is pointed at, pressed, read and saved."""

import base64
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import foveal
from foveal.analysis import attention_maps, rollout
from foveal.analysis.viewer import show
from foveal.models.timesformer import TimeSformer
from tests.browser import Browser, Unavailable, chromium, opened

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs the browser chromium, which is not installed: apt install chromium")

ROWS = COLUMNS = 4
IMAGE = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)), 32, mode="bilinear")[0]
LABELS = [f"kind {n}" for n in range(7)]


def vit(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=7, depth=3, reg_tokens=1, **options).eval()
    for block in model.blocks:
        block.attn.qkv.weight.data[:128] *= 6
    return model


@pytest.fixture(scope="module")
def models():
    plain, changed = vit(), vit()
    foveal.convert_(changed, foveal.DenoisingAttention.Config(), where="blocks.[01].attn")
    changed.blocks[0].attn.lambdas.data.fill_(0.7)
    foveal.convert_(changed, foveal.ExternalAttention.Config(slots=10), where="blocks.2.attn")
    return plain, changed


@pytest.fixture(scope="module")
def pages(models, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    plain, changed = models
    return {
        "one": show(plain, IMAGE, labels=LABELS, truth="kind 3", title="one <model>").save(folder / "one.html"),
        "two": show(plain, IMAGE, against=changed, names=["before", "after"]).save(folder / "two.html"),
    }


@pytest.fixture(scope="module")
def browser():
    try:
        with opened() as started:
            yield started
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def page(browser: Browser, pages: dict[str, Path]) -> Browser:
    browser.view(1440)
    browser.open(pages["one"])
    return browser


def patch(row: int, column: int) -> str:
    return f"#asked-picture [data-row='{row}'][data-column='{column}']"


def tile(layer: str, head: str) -> str:
    return f".tile[aria-label='{layer}, {head}']"


def pixels(browser: Browser, selector: str, model: int = 0) -> np.ndarray:
    """Colors of a canvas, ``(h, w, 4)``."""
    script = "(c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    high, wide, *values = browser(f"{script}(document.querySelectorAll('.model')[{model}].querySelector({selector!r}).querySelector('canvas'))")
    return np.array(values).reshape(high, wide, 4)


def shown(browser: Browser, model: int = 0) -> tuple[dict[str, float], list[tuple[str, float]], list[float]]:
    """The numbers of a close-up: by name, the largest by place, the ends of the scale."""
    close = f"document.querySelectorAll('.closeup')[{model}]"
    named = browser(f"[...{close}.querySelectorAll('dt')].map(e => [e.textContent, Number(e.nextSibling.querySelector('data').value)])")
    most = browser(f"[...{close}.querySelectorAll('tbody tr')].map(e => [e.firstChild.textContent, Number(e.querySelector('data').value)])")
    scale = browser(f"[...{close}.querySelectorAll('.legend data')].map(e => Number(e.value))")
    return dict(named), [tuple(row) for row in most], scale


def check_numbers(browser: Browser, row: torch.Tensor, prefix: int, model: int = 0) -> None:
    """Against the row of a map, over all tokens."""
    named, most, _ = shown(browser, model)
    error = browser("foveal.about.error") * 1.001 + 1e-7
    patches = row[prefix:]
    assert named["on all patches"] == pytest.approx(patches.sum().item(), abs=error * len(patches))
    for name, want in zip(["class token", "register"][:prefix], row, strict=False):
        assert named[f"on the {name}"] == pytest.approx(want.item(), abs=error)
    assert len(most) == 5
    sizes = patches.abs().sort(descending=True).values
    for (place, value), size in zip(most, sizes, strict=False):
        at = [int(word) - 1 for word in place.replace(",", "").split() if word.isdigit()]
        assert value == pytest.approx(patches[at[0] * COLUMNS + at[1]].item(), abs=error)
        assert abs(value) == pytest.approx(size.item(), abs=error)


def test_pointing_changes_every_picture(page) -> None:
    before = {(layer, head): pixels(page, tile(f"blocks.{layer}.attn", head)) for layer in range(3) for head in ("mean", "head 0", "head 1")}
    assert page("document.getElementById('asked-name').textContent") == "class token"
    page.point(patch(2, 1))
    assert page("document.getElementById('asked-name').textContent") == "patch in row 3, column 2"
    after = {key: pixels(page, tile(f"blocks.{key[0]}.attn", key[1])) for key in before}
    assert all((before[key] != after[key]).any() for key in before)
    # who points elsewhere asks for nothing
    page.point("h1")
    assert page("document.getElementById('asked-name').textContent") == "class token"
    assert all((before[key] == pixels(page, tile(f"blocks.{key[0]}.attn", key[1]))).all() for key in before)


def test_numbers_are_those_of_the_tensors(page, models) -> None:
    maps = attention_maps(models[0], IMAGE[None])
    flow = rollout(models[0], IMAGE[None])[0]
    check_numbers(page, flow[0], 2)
    page.click(patch(1, 3))
    check_numbers(page, flow[2 + 1 * COLUMNS + 3], 2)
    for layer, head in itertools.product(range(3), ("mean", "0", "1")):
        page.click(tile(f"blocks.{layer}.attn", "mean" if head == "mean" else f"head {head}"))
        whole = maps[f"blocks.{layer}.attn"]["combined"][0]
        mine = whole.mean(0) if head == "mean" else whole[int(head)]
        check_numbers(page, mine[2 + 7], 2)
        _, most, scale = shown(page)
        assert scale == [0, pytest.approx(most[0][1])]
    for name, row in (("class token", mine[0]), ("register", mine[1]), ("mean of all patches", mine[2:].mean(0))):
        page(f"[...document.querySelectorAll('#asked-tokens button')].find(e => e.textContent === {name!r}).click()")
        assert page("document.getElementById('asked-name').textContent") == name
        check_numbers(page, row, 2)


def test_a_weight_is_read_by_pointing(page, models) -> None:
    page.click(tile("blocks.1.attn", "head 1"))
    page.point("#close-models [data-row='3'][data-column='0']")
    got = page("[document.querySelector('.line').textContent, Number(document.querySelector('.line data').value)]")
    want = attention_maps(models[0], IMAGE[None])["blocks.1.attn"]["combined"][0, 1, 0, 2 + 12].item()
    assert got[0].startswith("row 4, column 1: ")
    assert got[1] == pytest.approx(want, abs=page("foveal.about.error") * 1.001)


def test_colors_are_of_the_weights(page, models) -> None:
    from matplotlib import colormaps

    maps = attention_maps(models[0], IMAGE[None])["blocks.2.attn"]["combined"][0]
    row = maps[0, 0, 2:].view(ROWS, COLUMNS)
    for name in ("viridis", "cividis", "inferno"):
        page(f"(e => (e.value = {name!r}, e.dispatchEvent(new Event('input', {{bubbles: true}}))))(document.querySelector('[name=color]'))")
        want = np.asarray(colormaps[name]((row / row.max()).numpy()))[..., :3] * 255
        assert np.abs(pixels(page, tile("blocks.2.attn", "head 0"))[..., :3] - want).max() < 8
    # one scale for all: the largest of all heads of all layers
    page.click("[name=scale][value=shared]")
    most = max(value["combined"][0, :, 0, 2:].max().item() for value in attention_maps(models[0], IMAGE[None]).values())
    want = np.asarray(colormaps["inferno"]((row / most).numpy()))[..., :3] * 255
    assert np.abs(pixels(page, tile("blocks.2.attn", "head 0"))[..., :3] - want).max() < 8
    page.click(tile("blocks.2.attn", "head 0"))
    assert shown(page)[2] == [0, pytest.approx(most, abs=page("foveal.about.error") * 1.001)]
    assert page("document.getElementById('scale-said').textContent").startswith("All heads by one largest weight on a patch, ")


def test_the_keyboard_alone(page) -> None:
    page("document.querySelector('#asked-picture [tabindex=\"0\"]').focus()")
    page.press("ArrowRight", 2)
    page.press("ArrowDown")
    assert page("document.getElementById('asked-name').textContent") == "patch in row 2, column 3"
    page.press("ArrowUp", 3)
    page.press("ArrowLeft", 5)
    assert page("document.activeElement.getAttribute('aria-label')") == "patch in row 1, column 1"
    # what is kept stays when the focus goes on, and every stop of Tab has a name
    seen = []
    for _ in range(30):
        page.press("Tab")
        name = "e === document.body ? '' : e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.[0]?.textContent || ''"
        seen.append(page(f"(e => [e.tagName, {name}])(document.activeElement)"))
        if seen[-1] in (["BODY", ""], seen[0]) and len(seen) > 1:
            break
    assert page("document.getElementById('asked-name').textContent") == "patch in row 1, column 1"
    assert all(name for tag, name in seen if tag != "BODY")
    assert sum("blocks." in name for _, name in seen) == 1, "the maps are one stop"
    page("document.querySelector('.tiles [tabindex=\"0\"]').focus()")
    page.press("ArrowDown", 2)
    page.press("ArrowRight")
    assert page("document.activeElement.getAttribute('aria-label')") == "blocks.2.attn, head 0"
    page.press("Enter")
    assert page("document.getElementById('close-name').textContent") == "blocks.2.attn, head 0"
    page.until("document.getElementById('said').textContent.startsWith('patch in row 1, column 1 looks. blocks.2.attn, head 0: most at row')")


def test_roles_for_readers_of_screens(page) -> None:
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node.get("ignored")]
    roles = [role for role, _ in named]
    assert roles.count("grid") == 3
    assert sum(role == "gridcell" and name.startswith("patch in row") for role, name in named) == ROWS * COLUMNS
    assert sum(role == "gridcell" and name.startswith("blocks.") for role, name in named) == 3 * 3
    assert all(name for role, name in named if role in ("grid", "button", "radio", "slider", "checkbox", "combobox"))


def test_answers_and_what_storing_costs(page, models) -> None:
    chance = models[0](IMAGE[None]).softmax(-1)[0]
    got = page("[...document.querySelectorAll('.answers li')].map(e => [e.children[1].textContent, Number(e.querySelector('data').value)])")
    order = chance.argsort(descending=True).tolist()
    assert [name.removeprefix("✓ ") for name, _ in got] == [LABELS[n] for n in order[:5]]
    assert [share for _, share in got] == pytest.approx(chance[order[:5]].tolist())
    assert page("document.querySelector('.truth').textContent").startswith("True class: kind 3, ")
    assert "in 255 steps" in page("document.querySelector('footer').textContent")
    assert page("document.title") == "one <model>"


def test_names_of_other_people_are_shown_letter_by_letter(browser, models, tmp_path) -> None:
    """And the class that is marked as the true one is that class, though another one has its name."""
    odd = "</script><img src=x onerror='document.title=1'>\"&amp;${1}"
    second = models[0](IMAGE[None])[0].argsort(descending=True)[1].item()
    browser.view(1440)
    browser.events.clear()
    browser.open(show(models[0], IMAGE, names=[odd], title=odd, labels=[odd] * 7, truth=second).save(tmp_path / "odd.html"))
    assert browser("[document.title, document.querySelector('h1').textContent, document.querySelector('.model h2').textContent]") == [odd] * 3
    assert browser("document.querySelectorAll('img').length") == 0
    assert browser("[...document.querySelectorAll('.answers li')].map(e => e.className)") == ["", "right", "", "", ""]
    assert browser("document.querySelector('.truth').textContent").startswith(f"True class: {odd}, answer number 2, ")
    assert not browser.complaints()


def test_signed_maps_slots_and_two_models(browser, pages, models) -> None:
    browser.view(1440)
    browser.open(pages["two"])
    plain, changed = (attention_maps(model, IMAGE[None]) for model in models)
    browser.click(patch(3, 2))
    query = 2 + 3 * COLUMNS + 2
    browser.click(tile("blocks.0.attn", "head 1"))
    assert browser("document.getElementById('close-name').textContent") == "blocks.0.attn, head 1"
    for kind in ("positive", "negative", "combined"):
        browser.click(f"[name=kind][value={kind}]")
        # the query is one, and a plain layer is the same under all
        check_numbers(browser, plain["blocks.0.attn"]["combined"][0, 1, query], 2, 0)
        check_numbers(browser, changed["blocks.0.attn"][kind][0, 1, query], 2, 1)
        assert shown(browser, 1)[0]["λ"] == pytest.approx(0.7, abs=1e-5)
        check = browser("document.querySelectorAll('.closeup')[1].querySelectorAll('.legend data')[0].value")
        assert (float(check) < 0) == (kind == "combined")
    browser.click("[name=kind][value=slots]")
    # a layer without slots shows no photograph, as if it looked nowhere, and slots of different layers have no mean
    drawn = "(e => [e.classList.contains('absent'), getComputedStyle(e).backgroundImage])"
    seen = [browser(f"{drawn}(document.querySelectorAll('.model')[1].querySelector({tile(f'blocks.{layer}.attn', 'head 0')!r}))") for layer in (0, 2)]
    assert [absent for absent, _ in seen] == [True, False]
    assert seen[0][1] == "none"
    assert browser("[...document.querySelectorAll('.through figure')].filter(e => !e.hidden).map(e => e.textContent)") == ["rollout", "rollout"]
    browser("document.querySelectorAll('.model')[1].querySelector(\"[aria-label='blocks.2.attn, head 0']\").click()")
    slots = changed["blocks.2.attn"]["slots"][0, 0]
    _, most, _ = shown(browser, 1)
    error = browser("foveal.about.error") * 1.001
    assert [value for _, value in most] == pytest.approx(slots[query].sort(descending=True).values[:5].tolist(), abs=error)
    assert int(most[0][0].removeprefix("slot ")) == slots[query].argmax()
    assert browser("document.querySelectorAll('.closeup')[0].classList.contains('without')")
    # ten slots stand in rows of four, and who has how much of one is shown over the image
    browser("document.querySelectorAll('.closeup')[1].querySelector(\"[data-row='2'][data-column='1']\").focus()")
    used = browser("(e => [e.hidden, e.querySelector('canvas').width, Number(e.querySelector('data').value)])(document.querySelectorAll('.used')[1])")
    assert used == [False, COLUMNS, pytest.approx(slots[2:, 9].max().item(), abs=error)]
    assert browser("document.querySelectorAll('.line')[1].textContent").startswith("slot 9: ")
    assert not browser.complaints()


@pytest.mark.parametrize("kind", ["joint_space_time", "divided_space_time"])
def test_a_video_with_a_slider(browser, tmp_path, kind) -> None:
    torch.manual_seed(0)
    sizes = {"num_frames": 3, "img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 5}
    model = TimeSformer(attention_type=kind, **sizes).eval()
    clip = torch.randn(1, 3, 3, 32, 32)
    browser.view(1440)
    browser.events.clear()
    browser.open(show(model, clip).save(tmp_path / "video.html"))
    maps = {name: value["combined"] for name, value in attention_maps(model, clip).items()}

    def frame(number: int) -> None:
        browser(f"(e => (e.value = {number}, e.dispatchEvent(new Event('input', {{bubbles: true}}))))(document.querySelector('[name=frame]'))")

    frame(1)
    browser.click(patch(1, 0))
    assert browser("document.getElementById('asked-name').textContent") == "patch in row 2, column 1, frame 2"
    error = browser("foveal.about.error") * 4.01 + 1e-6
    browser("document.querySelector(\"[aria-label='blocks.0.attn, head 2']\").click()")
    for number in range(3):
        frame(number)
        named, most, _ = shown(browser)
        if kind == "joint_space_time":
            row = maps["blocks.0.attn"][0, 2, 1 + 4 + 2]
            assert named["on patches of this frame"] == pytest.approx(row[1 + 4 * number :][:4].sum().item(), abs=error)
            assert named["on patches of other frames"] == pytest.approx((row[1:].sum() - row[1 + 4 * number :][:4].sum()).item(), abs=2 * error)
        elif number == 1:
            assert named["on patches of this frame"] == pytest.approx(maps["blocks.0.attn"][1, 2, 3, 1:].sum().item(), abs=error)
        else:
            assert named == {}, "within a frame nothing of another is seen"
    if kind == "divided_space_time":
        browser("document.querySelector(\"[aria-label='blocks.0.temporal_attn, head 2']\").click()")
        _, most, _ = shown(browser)
        row = maps["blocks.0.temporal_attn"][2, 2, 1]
        assert dict(most) == {f"frame {n + 1}": pytest.approx(row[n].item(), abs=error) for n in range(3)}
    assert not browser.complaints()


def test_saved_as_a_picture(browser, pages) -> None:
    browser.view(1440)
    for name in pages:
        browser.open(pages[name])
        browser.click(patch(0, 0))
        uri = browser("foveal.drawSheet().then(canvas => canvas.toDataURL())")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)
        assert min(image.shape[:2]) > 300
        # who looks is above, maps are below, those of a second model to the right
        high, wide = image.shape[0] // 2, image.shape[1] // 2
        assert image[:high, :wide].std() > 10
        assert all(image[high:, x : x + wide].std() > 10 for x in (0, wide))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 820, 390])
def test_three_widths_and_both_modes(browser, pages, width, dark) -> None:
    for name, path in pages.items():
        browser.events.clear()
        browser.view(width, dark=dark)
        browser.open(path)
        browser.point(patch(1, 1))
        assert browser("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
        assert browser("document.getElementById('asked-name').textContent") == "patch in row 2, column 2"
        pictures = "[...document.querySelectorAll('.tile, #asked-picture, .closeup .picture')].filter(e => e.offsetParent)"
        narrow = browser(f"{pictures}.filter(e => e.getBoundingClientRect().width < 30).length")
        assert narrow == 0
        light = browser("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3")
        assert (light < 60) if dark else (light > 200)
        assert not browser.complaints()
        assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
