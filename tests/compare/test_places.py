"""Attentions at places of a pretrained network: the plan, and what its report says of places, against numbers worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal._errors import InputError
from foveal.cli import main
from foveal.lab.compare import Plan, make_network_plan
from foveal.lab.compare.places import answer, order_words, place_lines, ranked, variants
from foveal.lab.compare.plan import TUNING_SEEDS
from foveal.lab.compare.power import expected_spread, power_lines
from foveal.lab.finetuning import fine_tune
from foveal.lab.networks._sources import SOURCES
from foveal.lab.training import Recipe, build_model, load_data, read_json
from foveal.lab.training.models import build_alike


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for label, columns in (("left", slice(0, 20)), ("right", slice(20, 40))):
        (root / label).mkdir()
        for n in range(6):
            pixels = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8)
            pixels[:, columns] += 150
            Image.fromarray(pixels).save(root / label / f"{n}.png")
    return root


def recipe(folder: Path, model: str = "test_vit", **options: Any) -> Recipe:
    given: dict[str, Any] = {"weights": "random", "img_size": 160, "batch_size": 4, "epochs": 1.0, "patience": None} | options
    return fine_tune(model, folder, **given)


def test_a_plan_has_the_network_as_it_is_and_every_attention_at_every_place_with_its_control(folder: Path) -> None:
    plan, notes = make_network_plan(recipe(folder), ("denoising", "external"), ("all", "last_stage", "blocks.*[13].attn"), seeds=2)
    names = [arm.name for arm in plan.arms]
    assert names[0] == plan.baseline == "own"
    assert names[1:] == [f"{what}@{where}" for where in ("all", "last_stage", "blocks._[13].attn") for what in ("softmax-wide", "denoising", "external")]
    assert not notes
    # denoising has 6C² parameters and so has softmax with half as many heads more; external has fewer
    assert dict(plan.controls) == {f"denoising@{where}": f"softmax-wide@{where}" for where in ("all", "last_stage", "blocks._[13].attn")}
    assert plan.pairs()[0] == ("denoising@all", "softmax-wide@all")
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    bundle = load_data(plan.recipe.data)
    torch.manual_seed(0)
    built = {arm.name: build_model(plan.run_recipe(arm, 1), bundle).eval() for arm in plan.arms}
    images, own = torch.randn(2, 3, 160, 160), built["own"].state_dict()
    for name, model in built.items():
        for weight in ("head.weight", "patch_embed.proj.weight", "blocks.5.mlp.fc1.weight"):
            assert torch.equal(model.state_dict()[weight], own[weight]), f"{name} begins with other weights"
        if name.startswith("softmax-wide"):
            assert torch.allclose(model(images), built["own"](images), atol=1e-4), "the same function"
    sizes = {name: sum(value.numel() for value in model.parameters()) for name, model in built.items()}
    assert sizes["softmax-wide@all"] == pytest.approx(sizes["denoising@all"], rel=1e-3)
    assert len(built["denoising@last_stage"].conversion.swaps) == len(built["external@last_stage"].conversion.swaps) == 2
    assert [swap.name for swap in built["external@blocks._[13].attn"].conversion.swaps] == ["blocks.1.attn", "blocks.3.attn"]
    splits = {tuple(load_data(plan.run_recipe(plan.arms[0], seed).data).val.names) for seed in range(6)}  # type: ignore[attr-defined]
    assert len(splits) > 1, "each seed has its own split"
    assert len({json.dumps(plan.run_recipe(arm, 1).to_dict() | {"model": None}) for arm in plan.arms}) == 1, "budgets are equal"


def test_what_is_pretrained_is_read_once_for_a_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial weights are shared among attentions that begin at random. A pretrained network shares those that it came with, without a second one beside."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    plan, _ = make_network_plan(recipe(folder, weights=tmp_path / "vit.safetensors"), ("external",), ("last_stage",), controls=False)
    (bundle, read), build = (load_data(plan.recipe.data), list[str]()), SOURCES["timm"].build

    def counted(name: str, weights: str, img_size: int | None) -> torch.nn.Module:
        read.append(weights)
        return build(name, weights, img_size)

    monkeypatch.setitem(SOURCES, "timm", replace(SOURCES["timm"], build=counted))
    for arm in plan.arms:
        read.clear()
        build_model(plan.run_recipe(arm, 7), bundle)
        assert read == [str(tmp_path / "vit.safetensors")], arm.name


def test_rates_are_of_pretrained_layers_and_of_what_is_new(folder: Path) -> None:
    """Where all but what is new is frozen, a rate that left the new alone would choose nothing."""
    net = recipe(folder, freeze="all-but-new", lr=1e-4, new_lr=3e-3)
    plan, _ = make_network_plan(net, ("external",), ("last_stage",), looks=(4, 8, 12), tune=True, primary=("external@last_stage",), margin=2.0)
    assert (plan.seeds, plan.looks, plan.margin) == (tuple(range(12)), (4, 8, 12), 2.0)
    assert plan.pairs()[0] == ("external@last_stage", "own")
    assert plan.learning_rates == pytest.approx((5e-5, 1e-4, 2e-4))
    rates = [plan.run_recipe(plan.arms[0], TUNING_SEEDS[0], rate).optim for rate in plan.learning_rates]
    assert [optim.lr for optim in rates] == pytest.approx([5e-5, 1e-4, 2e-4])
    assert [optim.new_lr for optim in rates] == pytest.approx([1.5e-3, 3e-3, 6e-3])
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    with pytest.raises(InputError, match="nothing is not compared"):
        make_network_plan(net, ("external",), ("last_stage",), primary=("nothing",))


def test_few_test_images_are_expected_to_tell_little(folder: Path) -> None:
    plan, _ = make_network_plan(recipe(folder), ("external",), ("last_stage",), seeds=5)
    found = expected_spread(plan)
    assert found is not None
    # two images: their answers differ for one in ten, so a difference has variance 0.1 / 2, half of it each variant's
    assert found[0] == pytest.approx((0.1 / 2 / 2) ** 0.5)
    assert "2 test images" in power_lines(plan)[0]


def test_controls_can_be_left_out(folder: Path) -> None:
    plan, _ = make_network_plan(recipe(folder), ("denoising",), ("all",), controls=False)
    assert [arm.name for arm in plan.arms] == ["own", "denoising@all"]


def test_where_only_attentions_learn_the_own_ones_learn_in_the_same_places(folder: Path) -> None:
    plan, notes = make_network_plan(recipe(folder, freeze="all-but-attention"), ("external",), ("last_stage",))
    assert [arm.name for arm in plan.arms] == ["own", "softmax@last_stage", "external@last_stage"]
    assert plan.controls == (("external@last_stage", "softmax@last_stage"),)
    assert notes == ["no softmax-wide@last_stage: no attention that is put in adds parameters"]
    model = build_alike(plan.run_recipe(plan.arms[1], 0), load_data(plan.recipe.data))
    assert {name.split(".")[1] for name, value in model.named_parameters() if value.requires_grad and name.startswith("blocks.")} == {"4", "5"}


def test_behind_stages_of_a_convolutional_network_convolutions_are_the_control(folder: Path) -> None:
    net = recipe(folder, "test_resnet", img_size=64)
    plan, _ = make_network_plan(net, ("external_2d",), ("layer3", "layer4"))
    assert [arm.name for arm in plan.arms] == ["own", *(f"{what}@{where}" for where in ("layer3", "layer4") for what in ("pointwise", "external_2d"))]
    assert dict(plan.controls) == {"external_2d@layer3": "pointwise@layer3", "external_2d@layer4": "pointwise@layer4"}
    for places, said in (((), "name them with --places, out of .*layer3"), (("last_stage",), "is a place of attentions, and test_resnet has none")):
        with pytest.raises(InputError, match=said):
            make_network_plan(net, (), places)


@pytest.mark.parametrize(
    ("attentions", "places", "said"),
    [
        (("denoisng",), (), "did you mean denoising"),
        (("external_2d",), (), "unknown attention for tokens"),
        (("denoising", "denoising"), (), "each attention can be compared once"),
        (("external",), ("all", "blocks.*.attn"), "are the same 6 places"),
        (("external",), ("nowhere.*",), "nowhere"),
    ],
)
def test_plans_that_are_none(folder: Path, attentions: tuple[str, ...], places: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_network_plan(recipe(folder), attentions, places)


def made(gains: dict[str, list[float]], verdicts: dict[str, str] | None = None, controls: dict[str, tuple[str, str]] | None = None) -> dict[str, Any]:
    """Results as they are kept, as far as places need them."""
    verdicts, controls = verdicts or {}, controls or {}
    seeds = len(next(iter(gains.values())))

    def arm(name: str, size: int) -> dict[str, Any]:
        by_seed = [0.7 + value for value in gains.get(name, [0.0] * seeds)]
        costs = {"parameters": size, "macs": size, "milliseconds_per_image": 1.0}
        return {"name": name, "about": "", **costs, "metrics": {"accuracy": {"mean": sum(by_seed) / seeds, "by_seed": by_seed}}}

    def compared(name: str, other: str, values: list[float], verdict: str) -> dict[str, Any]:
        mean = sum(values) / seeds
        difference = {"mean": mean, "low": None if seeds < 2 else mean - 0.1, "high": None if seeds < 2 else mean + 0.1, "by_seed": values}
        return {"arm": name, "against": other, "difference": difference, "verdict": verdict}

    comparisons = [compared(name, "own", values, verdicts.get(name, "not settled")) for name, values in gains.items()]
    comparisons += [compared(name, other, [0.0] * seeds, verdict) for name, (other, verdict) in controls.items()]
    metric = {"name": "accuracy", "larger_is_better": True, "scale": 100.0, "decimals": 1, "step": "points", "unit": "%", "label": "accuracy", "chance": 0.25}
    arms = [arm("own", 100), *(arm(name, 110) for name in gains)]
    return {
        "task": {"test_images": 10_000},
        "metric": metric,
        "arms": arms,
        "comparisons": comparisons,
        "plan": {"seeds": list(range(seeds)), "recipe": {"model": {"kind": "Pretrained"}}},
    }


GAINS = {
    "softmax-wide@all": [0.5, 0.5, 0.5],
    "denoising@all": [-0.01, -0.02, -0.03],
    "external@all": [-0.03, -0.04, -0.08],
    "denoising@last_stage": [0.01, 0.02, 0.00],
    "external@last_stage": [0.01, 0.00, 0.02],
    # not tried everywhere, so that its place has no gain of it
    "halo@last_stage": [0.9, 0.9, 0.9],
}


def test_places_are_ranked_by_what_was_tried_everywhere() -> None:
    from scipy import stats

    found = ranked(variants(made(GAINS)), 10**12)
    assert [place.name for place in found] == ["last_stage", "all"]
    assert found[0].members == ("denoising", "external")
    rows = {"all": [-0.02, -0.03, -0.055], "last_stage": [0.01, 0.01, 0.01]}
    for place in found:
        values = np.array(rows[place.name])
        # two intervals that hold together: 97.5 % each
        half = stats.t.ppf(1 - 0.025 / 2, 2) * values.std(ddof=1) / 3**0.5
        assert place.gain.mean == pytest.approx(values.mean())
        assert (place.gain.low, place.gain.high) == (pytest.approx(values.mean() - half), pytest.approx(values.mean() + half))
    behind = found[1].behind
    assert behind is not None
    difference = np.array(rows["last_stage"]) - np.array(rows["all"])
    half = stats.t.ppf(0.975, 2) * difference.std(ddof=1) / 3**0.5
    assert (behind.low, behind.high) == (pytest.approx(difference.mean() - half), pytest.approx(difference.mean() + half))
    assert behind.low is not None
    assert (behind.low > 0) == ("is the best of the 2 places" in order_words(found))


def test_the_same_image_more_in_every_seed_is_no_certainty() -> None:
    from scipy import stats

    from foveal.lab.compare.statistics import compare_pairs

    values = {"own": [0.5, 0.75], "a": [0.5 + 1 / 12, 0.75 + 1 / 12], "b": [0.5 - 1 / 12, 0.75]}
    pairs = [("a", "own"), ("b", "own")]
    assert compare_pairs(values, pairs, margin=0.01)[1][0].verdict == "better", "without the grain of twelve images"
    found = compare_pairs(values, pairs, margin=0.01, grain=1 / 12)[1][0]
    assert found.verdict == "not settled"
    assert found.difference.low is not None
    assert found.difference.low < 0
    place = ranked(variants(made({"denoising@all": [1 / 12, 1 / 12], "denoising@last_stage": [0.0, 1 / 12]})), 12)[0]
    half = stats.t.ppf(1 - 0.025 / 2, 1) * (1 / 12) / 6**0.5 / 2**0.5
    assert (place.name, place.gain.low, place.gain.high) == ("all", pytest.approx(1 / 12 - half), pytest.approx(1 / 12 + half))


def test_it_is_said_whether_anything_helped() -> None:
    def say(results: dict[str, Any]) -> str:
        return answer(variants(results), results)

    assert say(made(GAINS)).startswith("Nothing helped: no attention, wherever it was put,")
    worse = say(made(GAINS, {"external@all": "worse", "softmax-wide@all": "better"}))
    assert "Nothing helped" in worse, "a control is no attention that helps"
    assert "external@all was shown to be worse" in worse
    better = {"denoising@all": "better"}
    assert say(made(GAINS, better)).startswith("denoising@all is better than the network as it is. The others, 4,")
    for verdict, said in (("not settled", "but not shown to be better than softmax-wide@all"), ("better", "and better than softmax-wide@all, its control")):
        assert said in say(made(GAINS, better, {"denoising@all": ("softmax-wide@all", verdict)}))
    assert say(made({name: values[:1] for name, values in GAINS.items()})).startswith("One seed is not conclusive")
    guessing = made({"denoising@all": [0.01, 0.0]})
    guessing["metric"]["chance"] = 0.5
    assert "guessing" in say(guessing)
    assert not place_lines(made({"denoising": [0.1, 0.2]})), "a comparison of attentions in one place"
    assert place_lines(made(GAINS))[2] == "| place | mean gain, points (interval) | multiply-adds |"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_goes_from_photographs_to_a_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--model", "test_vit", "--weights", "random", "--data", str(folder), "--img-size", "160", "--attentions", "denoising"]
    words += ["--places", "last_stage", "blocks.0.attn", "--freeze", "all-but-attention", "--seeds", "2", "--steps", "2", "--batch-size", "4", "--jobs", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "frozen      what lies below blocks.4 runs once an image: softmax@last_stage, softmax-wide@last_stage, denoising@last_stage" in said
    results, page = read_json(tmp_path / "out/results.json"), (tmp_path / "out/report.html").read_text()
    assert len(results["arms"]) == 7
    assert "Where to put it" in page
    assert "was fine-tuned as it is and with each attention at each place" in page
    assert not list((tmp_path / "out").rglob("checkpoints/step-*")), "what is never gone on with does not fill the disk"
    # once by cut: below the head, below the last stage, and below the first block
    kept = list((tmp_path / "out/features").glob("*.npy"))
    assert len(kept) == 2 * 3, "random weights differ by seed; pretrained ones would not"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.json")}
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is done is kept"
    assert main([*words[:-1], "2", "--seeds=3"]) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_chooses_rates_and_ends_when_it_is_settled(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether two images settle anything is luck, but for a margin that no difference reaches."""
    words = ["compare", "--model", "test_vit", "--weights", "random", "--data", str(folder), "--img-size", "160", "--attentions", "external"]
    words += ["--places", "blocks.5.attn", "--freeze", "all-but-new", "--controls", "False", "--steps", "2", "--batch-size", "4", "--jobs", "1"]
    words += ["--until", "--tune", "--margin", "1000", "--out", str(tmp_path / "out")]
    assert main([*words, "--seeds", "4"]) == 2
    assert "give --seeds or --until, not both" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    said, out = capsys.readouterr().out, tmp_path / "out"
    order = [
        "with 4 seeds differences below",
        "× 3 learning rates × 2 seeds that are not judged",
        "there is no test split, so rates were chosen",
        "look at 4 seeds",
    ]
    places = [said.index(part) for part in order]
    assert places == sorted(places), "what can be seen is said before anything runs"
    results, page = read_json(out / "results.json"), (out / "report.html").read_text()
    assert [look["seeds"] for look in results["statistics"]["looks"]] == [4]
    assert results["comparisons"][0]["verdict"] == "equal"
    assert len(results["plan"]["seeds"]) == 4, "eight more seeds were not needed"
    rates = results["tuning"]["rates"]
    for name in ("own", "external@blocks.5.attn"):
        table, chosen = results["tuning"]["arms"][name]["values"], results["tuning"]["arms"][name]["chosen"]
        for rate, row in zip(rates, table, strict=True):
            for seed, value in zip(TUNING_SEEDS, row, strict=True):
                run = out / name / f"rate-{rate:g}" / f"seed-{seed}"
                assert value == json.loads((run / "history.jsonl").read_text().splitlines()[-1])["val_accuracy"]
                assert not list(run.rglob("*.safetensors")) or [path.name for path in run.rglob("*.safetensors")] == ["samples.safetensors"]
        best = max(sum(row) / len(row) for row in table)
        assert sum(table[rates.index(chosen)]) / 2 == best
        optim = read_json(out / name / "seed-0/recipe.json")["optim"]
        assert (optim["lr"], optim["new_lr"]) == pytest.approx((chosen, chosen / rates[1] * 1e-3))
    assert any("rates were chosen on validation images" in note for note in results["task"]["notes"])
    assert "same 3 rates" in page
    assert "Results were looked at after 4 seeds" in page
    assert not list(out.glob("*/features")), "runs that choose a rate keep features where all do"
    assert main(words) == 0, "a look that was taken stands"


def test_words_that_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compare", "--model", "test_vit", "--weights", "random", "--data", str(folder), "--out", str(tmp_path / "out")]
    for more, said in (
        (["--steps", "2", "--epochs", "2"], "give --steps or --epochs, not both"),
        (["--seeds", "0", "--img-size", "160"], "seeds must be at least 1"),
        (["--recipe", "vit"], "--recipe"),
    ):
        assert main([*given, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert replace(recipe(folder), steps=3).patience is None
