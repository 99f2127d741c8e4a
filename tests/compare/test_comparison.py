"""A comparison from plan to report, small: two arms, two seeds, six steps. Done once; the tests look at what it left."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.analysis import attention_maps
from foveal.cli import main
from foveal.cli._comparing import run_and_report
from foveal.lab.compare import (
    Plan,
    check_results,
    collect,
    make_plan,
    render_report,
    run_plan,
    steps_for_minutes,
    write_report,
    write_results,
    write_viewer,
)
from foveal.lab.training import Optim, build_model, load_run, read_json, read_weights, write_json
from foveal.models import ViT
from tests.training.helpers import tiny

PLAN = make_plan(tiny(model=ViT(), optim=Optim(lr=2e-2), steps=6, eval_every=3, checkpoint_every=3), ("denoising",), seeds=2)
RUNS = [(arm.name, seed) for arm in PLAN.arms for seed in PLAN.seeds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "out"
    # a measurement that is there is kept; the other arm's is taken, in a process that costs seconds
    write_json(folder / "softmax" / "memory.json", {"bytes": 12_345_678})
    run_plan(PLAN, folder, jobs=1, quiet=True)
    write_results(folder)
    write_report(read_json(folder / "results.json"), folder / "report.html")
    return folder


@pytest.fixture
def results(folder: Path) -> dict[str, Any]:
    return read_json(folder / "results.json")


def metrics(folder: Path, arm: str, seed: int) -> dict[str, Any]:
    return read_json(folder / arm / f"seed-{seed}" / "metrics.json")


def test_numbers_are_those_of_the_runs(folder, results) -> None:
    softmax, denoising = results["arms"]
    assert (softmax["name"], denoising["name"]) == ("softmax", "denoising")
    for arm in results["arms"]:
        for name in ("accuracy", "class_accuracy", "loss"):
            values = [metrics(folder, arm["name"], seed)[name] for seed in (0, 1)]
            assert arm["metrics"][name]["by_seed"] == values
            assert arm["metrics"][name]["mean"] == pytest.approx(np.mean(values))
            # t of one degree of freedom is 12.706; half the distance of two values is their deviation over √2
            assert arm["metrics"][name]["high"] - arm["metrics"][name]["mean"] == pytest.approx(12.7062 * abs(values[0] - values[1]) / 2, rel=1e-4)
        assert [[entry["step"] for entry in curve] for curve in arm["curves"]] == [[3, 6], [3, 6]]
        assert arm["parameters"] == metrics(folder, arm["name"], 0)["parameters"]
    (found,) = results["comparisons"]
    assert (found["arm"], found["against"]) == ("denoising", "softmax")
    gaps = [a - b for a, b in zip(denoising["metrics"]["accuracy"]["by_seed"], softmax["metrics"]["accuracy"]["by_seed"], strict=True)]
    assert found["difference"]["mean"] == pytest.approx(np.mean(gaps), abs=1e-9)
    assert any(gaps), "or the difference would go untested"
    assert found["difference"]["by_seed"] == gaps
    assert results["verdict"]["lines"][0]["arm"] == "denoising"
    assert found["verdict"] in results["verdict"]["lines"][0]["text"]
    assert softmax["training_bytes"] == 12_345_678
    assert denoising["training_bytes"] > 1_000_000


def test_the_report_leads_to_the_viewer_of_the_deciding_comparison(folder, results, tmp_path) -> None:
    page = write_viewer(results, folder)
    assert page == folder / "attention.html"
    about = json.loads(re.search(r'<script id="about"[^>]*>(.*?)</script>', page.read_text(encoding="utf8"), re.DOTALL)[1])
    assert [model["name"] for model in about["models"]] == ["softmax", "denoising"]
    _, bundle, model = load_run(folder / "denoising" / "seed-0")
    image, label = bundle.test[0]
    assert about["models"][1]["truth"][0] == bundle.classes[label]
    chance = model(image[None]).softmax(-1)[0]
    assert about["models"][1]["truth"][1] == pytest.approx(chance[label].item(), abs=1e-6)
    report = write_report(results, tmp_path / "report.html", viewer=page).read_text()
    assert '<a href="attention.html">' in report
    assert "attention.html" not in write_report(results, tmp_path / "report.html").read_text()
    assert write_viewer(results | {"images": []}, folder) is None


def test_maps_that_no_page_takes_do_not_cost_the_report(folder, tmp_path, monkeypatch, capsys) -> None:
    shutil.copytree(folder, tmp_path / "out")
    for name in ("report.html", "summary.md", "attention.html"):
        (tmp_path / "out" / name).unlink(missing_ok=True)
    monkeypatch.setattr("foveal.analysis.viewer.viewed.LARGEST", 1)
    run_and_report(PLAN, tmp_path / "out", [], jobs=1)
    printed = capsys.readouterr().out
    assert "note: no attention.html: no layer has maps over the whole image" in printed
    assert "more than the 1 that a page takes" in printed
    assert (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "summary.md").exists()


def test_arms_start_from_the_same_weights_and_see_the_same_images(folder) -> None:
    for seed in (0, 1):
        recipes = [json.loads((folder / arm / f"seed-{seed}" / "recipe.json").read_text()) for arm in ("softmax", "denoising")]
        assert {key for key in recipes[0] if recipes[0][key] != recipes[1][key]} == {"model"}
        assert recipes[0]["data"]["seed"] == seed, "each seed has data of its own"
        assert recipes[0]["seed"] == seed
    _, bundle, _ = load_run(folder / "softmax" / "seed-0")
    one, other = (build_model(PLAN.run_recipe(arm, 0), bundle).state_dict() for arm in PLAN.arms)
    shared = [name for name in one if name in other and one[name].shape == other[name].shape]
    assert {"blocks.0.attn.qkv.weight", "blocks.2.mlp.fc1.weight", "patch_embed.proj.weight", "head.weight"} <= set(shared)
    assert all(torch.equal(one[name], other[name]) for name in shared)
    assert {name for name in other if name not in one} == {
        f"blocks.{n}.attn.{name}" for n in range(3) for name in ("lambdas", "q_neg.weight", "q_neg.bias", "v_neg.weight", "v_neg.bias")
    }


def test_attention_on_regions_is_what_it_says(folder, results) -> None:
    """From the run's weights and the scenes' masks, image by image and patch by patch."""
    _, bundle, model = load_run(folder / "denoising" / "seed-1")
    images = torch.stack([bundle.test[n][0] for n in range(len(bundle.test))])
    maps = attention_maps(model, images)
    side = bundle.img_size // 8
    want: dict[tuple[str, str], list[float]] = {}
    for layer in maps.values():
        for name, value in layer.items():
            for n in range(len(images)):
                masks = bundle.test.masks(n)
                touched = {
                    key: [bool(mask[r * side : (r + 1) * side, c * side : (c + 1) * side].any()) for r in range(8) for c in range(8)]
                    for key, mask in masks.items()
                }
                for region in ("target", "distractors"):
                    inside = [touched[region][p] and not (region == "distractors" and touched["target"][p]) for p in range(64)]
                    for row in value[n, :, 0, 1:].tolist():
                        total = sum(abs(entry) for entry in row)
                        want.setdefault((name, region), []).append(sum(entry for entry, here in zip(row, inside, strict=True) if here) / total)
    got = {(entry["map"], entry["region"]): entry["by_seed"][1] for entry in results["arms"][1]["regions"]}
    assert got.keys() == want.keys() == {(name, region) for name in ("positive", "negative", "combined") for region in ("target", "distractors")}
    for key, values in want.items():
        assert got[key] == pytest.approx(np.mean(values), abs=1e-5)


def test_lambdas_angles_and_pictures_are_the_models(folder, results) -> None:
    softmax, denoising = results["arms"]
    assert softmax["angles"] is None
    assert softmax["lambdas"] == [{}, {}]
    for seed in (0, 1):
        saved = read_weights(folder / "denoising" / f"seed-{seed}" / "model.safetensors")
        assert denoising["lambdas"][seed] == {f"blocks.{n}.attn": pytest.approx(saved[f"blocks.{n}.attn.lambdas"].tolist()) for n in range(3)}
    assert len(denoising["angles"]["trained"]) == len(denoising["angles"]["initial"]) == 2 * 3 * 6
    assert (denoising["angles"]["chance"]["dim"], denoising["angles"]["chance"]["space"]) == (8, 48)
    assert len(results["images"]) == len(softmax["pictures"]) == len(denoising["pictures"]) == 6
    _, bundle, model = load_run(folder / "denoising" / "seed-0")
    labels = [bundle.test[n][1] for n in range(30)]
    first = [labels.index(label) for label in dict.fromkeys(labels)][:6]
    assert [image["label"] for image in results["images"]] == [str(labels[n]) for n in first]
    logits = model(torch.stack([bundle.test[n][0] for n in first]))
    assert [picture["predicted"] for picture in denoising["pictures"]] == [str(n) for n in logits.argmax(-1).tolist()]
    last = attention_maps(model, bundle.test[first[0]][0][None])["blocks.2.attn"]
    for name, value in last.items():
        np.testing.assert_allclose(denoising["pictures"][0]["maps"][name], value[0, :, 0, 1:].mean(0).view(8, 8), atol=1e-5)


class Resources(HTMLParser):
    """Everything that a browser would fetch, and the elements there are."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.wanted += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Resources:
    parser = Resources()
    parser.feed(page)
    return parser


def test_the_report_needs_nothing_beside_it(folder, results) -> None:
    page = (folder / "report.html").read_text(encoding="utf8")
    parsed = read(page)
    assert all(wanted.startswith(("data:", "#")) for wanted in parsed.wanted)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    assert not re.search(r"@import|url\((?!['\"]?(#|data:))", page)
    assert parsed.tags.count("svg") == 12, "intervals, accuracy, two of curves, four of gain, two of regions, λ and angles"
    assert sum(wanted.startswith("data:image/png") for wanted in parsed.wanted) == 6 * (1 + 1 + 3) + 2, (
        "images, one map of softmax, three of denoising; legends"
    )
    text = " ".join(" ".join(parsed.text).split())
    assert text.index(results["verdict"]["headline"]) < text.index("The verdict")
    for words in (
        *(line["text"] for line in results["verdict"]["lines"]),
        f"{100 * results['arms'][1]['metrics']['accuracy']['mean']:.1f}",
        "softmax",
        "denoising",
        "guessing would give 10.0 %",
    ):
        assert words in text


def test_the_report_is_made_of_the_json_alone(folder, results, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = render_report(json.loads(json.dumps(results)))

    # ids inside of figures are drawn anew each time
    def blank(text: str) -> str:
        return re.sub(r"(<svg.*?</svg>)", "", text, flags=re.DOTALL)

    assert blank(page) == blank((folder / "report.html").read_text(encoding="utf8"))
    changed = copy.deepcopy(results)
    changed["verdict"]["headline"] = "Another <headline> & more"
    assert "Another &lt;headline&gt; &amp; more" in render_report(changed)


def test_cost_against_resolution_is_in_the_report_where_it_was_measured(folder, results, tmp_path) -> None:
    points = [{"name": "softmax", "side": side, "seconds": side / 1e3, "bytes": side**2, "stopped": ""} for side in (64, 128)]
    points.append({"name": "softmax", "side": 256, "seconds": None, "bytes": None, "stopped": "about 30 s, of 20 allowed"})
    write_json(tmp_path / "resolution.json", points)
    for path in folder.iterdir():
        if path.name != "resolution.json":
            (tmp_path / path.name).symlink_to(path)
    measured = collect(tmp_path)
    assert measured["resolution"] == points
    page = render_report(check_results(measured))
    assert read(page).tags.count("svg") == read(render_report(results)).tags.count("svg") + 1
    assert "Cost against resolution" in page
    assert "Cost against resolution" not in render_report(results)


def test_the_report_can_be_made_of_one_seed_of_softmax_alone(results, tmp_path) -> None:
    """Nothing to compare, no interval, no mask, no angle: the page must still read."""
    alone = copy.deepcopy(results)
    (arm,) = alone["arms"] = alone["arms"][:1]
    for name in ("accuracy", "class_accuracy", "loss"):
        arm["metrics"][name] |= {"by_seed": arm["metrics"][name]["by_seed"][:1], "low": None, "high": None}
    arm |= {"curves": arm["curves"][:1], "regions": [], "lambdas": [{}]}
    alone["plan"]["seeds"] = [0]
    alone["verdict"] = {"headline": "nothing to compare", "lines": [], "resolution": None}
    alone["comparisons"] = []
    alone["statistics"] |= {"deviation": None, "degrees": 0, "members": [], "left_out": [], "ratios": {}, "most": None}
    page = write_report(alone, tmp_path / "report.html").read_text(encoding="utf8")
    assert read(page).tags.count("svg") == 3, "accuracy and two of curves"


BROKEN = [
    ("$", lambda r: r.pop("arms")),
    ("$.format", lambda r: r.update(format=1)),
    ("$", lambda r: r.update(extra=1)),
    ("$.arms", lambda r: r.update(arms=[])),
    (r"$.arms\[1\]", lambda r: r["arms"][1].pop("metrics")),
    (r"$.arms\[1\]", lambda r: r["arms"][1].update(comment="")),
    (r"$.arms\[1\].metrics.accuracy.mean", lambda r: r["arms"][1]["metrics"]["accuracy"].update(mean="high")),
    ("$.metric", lambda r: r["metric"].pop("name")),
    (r"$.comparisons\[0\].verdict", lambda r: r["comparisons"][0].update(verdict="splendid")),
    (r"$.arms\[0\].parameters", lambda r: r["arms"][0].update(parameters=-1)),
    (r"$.arms\[1\].regions\[0\].region", lambda r: r["arms"][1]["regions"][0].update(region="sky")),
    (r"$.arms\[1\].angles", lambda r: r["arms"][1]["angles"].pop("chance")),
    ("$.verdict", lambda r: r["verdict"].pop("headline")),
    (r"$.task.classes\[0\]", lambda r: r["task"].update(classes=[1])),
]


@pytest.mark.parametrize(("place", "damage"), BROKEN, ids=[f"{n}-{place}" for n, (place, _) in enumerate(BROKEN)])
def test_broken_results_are_refused_at_their_place(results, tmp_path, place, damage) -> None:
    check_results(results)
    damage(results)
    with pytest.raises(InputError, match=rf"no results of a comparison: {place.replace('$', '[$]')}: "):
        write_report(results, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_going_on_with_a_finished_comparison_trains_nothing(folder) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json*") if path.name not in ("plan.json", "results.json")}

    before = times()
    assert {f"{arm}/seed-{seed}/look.json" for arm, seed in RUNS} <= {str(path.relative_to(folder)) for path in before}
    run_plan(PLAN, folder, quiet=True)
    assert times() == before
    created = collect(folder)
    want = read_json(folder / "results.json")
    assert {key: value for key, value in created.items() if key != "created"} == {key: value for key, value in want.items() if key != "created"}


@pytest.mark.parametrize(
    "other", [make_plan(PLAN.recipe, ("external",), seeds=2), replace(PLAN, seeds=(0, 1, 2)), replace(PLAN, recipe=replace(PLAN.recipe, steps=7))]
)
def test_another_comparison_in_the_same_folder_is_refused(folder, other) -> None:
    before = (folder / "plan.json").read_bytes()
    with pytest.raises(InputError, match="holds another comparison; choose another folder with --out"):
        run_plan(other, folder, quiet=True)
    assert (folder / "plan.json").read_bytes() == before


def test_two_comparisons_at_once_in_a_folder_are_refused(folder) -> None:
    import fcntl

    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another comparison works in"):
            run_plan(PLAN, folder, quiet=True)


def test_steps_grow_with_the_minutes() -> None:
    few, many = (steps_for_minutes(PLAN.recipe, PLAN, minutes) for minutes in (0.05, 0.5))
    assert few % 10 == many % 10 == 0
    assert few < many
    with pytest.raises(InputError, match="minutes-per-run must be above 0"):
        steps_for_minutes(PLAN.recipe, PLAN, 0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in ("dark", "bright"):
        for n in range(6):
            (tmp_path / "images" / label).mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 120, (20, 24, 3)) + (120 if label == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / label / f"{n}.png")
    return tmp_path / "images"


def test_an_interrupted_comparison_keeps_what_is_done_and_goes_on(images, tmp_path, capsys) -> None:
    """Ctrl-C in a terminal reaches every process of the group. Interrupted in the second run, when the first is done."""
    out = tmp_path / "out"
    for arm in ("softmax", "denoising"):
        write_json(out / arm / "memory.json", {"bytes": 1})
    words = [
        "compare",
        "--data",
        str(images),
        "--img-size",
        "16",
        "--attentions",
        "denoising",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--steps",
        "60",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "foveal.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
    )
    done, going = out / "softmax" / "seed-0" / "look.json", out / "denoising" / "seed-0" / "history.jsonl"
    while process.poll() is None and not (done.exists() and going.exists() and going.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "what is done is kept; re-run the same command to resume: foveal compare" in errors
    assert "Traceback" not in errors
    assert "stopping; the runs are being saved" in printed
    before = done.stat().st_mtime_ns
    checkpoint = max((out / "denoising" / "seed-0" / "checkpoints").iterdir())
    saved = int(checkpoint.name.removeprefix("step-"))
    assert 0 < saved < 60
    assert not (out / "report.html").exists()

    assert main(words) == 0
    assert done.stat().st_mtime_ns == before, "the finished run is not trained again"
    entries = [json.loads(line)["step"] for line in going.read_text().splitlines()]
    assert entries == list(range(6, 61, 6)), "the interrupted run goes on and says nothing twice"
    printed = capsys.readouterr().out
    assert "2 runs of 60 steps (2 attentions × 1 seeds), 1 at a time; 1 are done" in printed
    assert "One seed is not conclusive" in printed
    assert f"report: {out / 'report.html'}" in printed
    assert Plan.from_dict(read_json(out / "plan.json")).recipe.steps == 60
    assert "report.html" in {path.name for path in out.iterdir()}


def test_labels_of_axes_end_within_their_figure(results) -> None:
    """A sentence that is cut off may say the opposite."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from foveal.lab.compare import figures
    from foveal.lab.compare._theme import STYLE
    from foveal.lab.compare.gain import gain_panels
    from foveal.lab.compare.intervals import interval_plot

    results = copy.deepcopy(results)
    results["arms"][0]["name"] = results["comparisons"][0]["against"] = "softmax-wide"
    with matplotlib.rc_context(STYLE):
        drawn = [figures._values(results), interval_plot(results), *figures._curves(results), *gain_panels(results)]
    seen = 0
    for figure in drawn:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for axes in figure.axes:
            box = axes.xaxis.label.get_window_extent(canvas.get_renderer())
            seen += bool(axes.get_xlabel())
            assert figure.bbox.x0 <= box.x0, axes.get_xlabel()
            assert box.x1 <= figure.bbox.x1, axes.get_xlabel()
    assert seen == 8
