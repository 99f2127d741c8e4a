"""Comparisons that end when they are settled, and rates that are chosen: with made-up runs, whose numbers are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveal import InputError
from foveal.lab.compare import make_plan, run, run_plan
from foveal.lab.compare.judging import judge, rates_of
from foveal.lab.compare.looks import read_looks, seeds_judged
from foveal.lab.compare.plan import TUNING_SEEDS
from foveal.lab.compare.tuning import chosen_rates, read_tuned
from foveal.lab.training import read_json, write_json
from foveal.models import ViT
from tests.training.helpers import tiny

RECIPE = tiny(model=ViT(), steps=6, eval_every=3)
# the numbers are made up, and as fine as those of so many test scenes: with few, nothing is shown to be equal
RECIPE = replace(RECIPE, data=replace(RECIPE.data, test_scenes=1000))
BASE = 0.8 + np.random.default_rng(0).normal(0, 0.003, (3, 12))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs are written and not trained: by attention what it gains over the first, and which were asked for."""
    world: dict[str, Any] = {"gain": {}, "asked": [], "rate": {}}

    def side_by_side(folder: Path, todo: Any, unmeasured: Any, jobs: int, console: Any) -> None:
        for job in todo:
            name, seed = job.run.relative_to(folder).parts[0], job.recipe.seed
            world["asked"].append((name, seed, job.recipe.optim.lr, job.looked_at))
            value = BASE[["softmax", "denoising", "external"].index(name), seed % 12] + world["gain"].get(name, 0.0)
            value += world["rate"].get((name, job.recipe.optim.lr), 0.0)
            job.run.mkdir(parents=True)
            if np.isnan(value):
                write_json(job.run / "diverged.json", {"message": "the loss became nan"})
                continue
            write_json(job.run / "metrics.json", {"accuracy": value, "loss": 1.0})
            (job.run / "history.jsonl").write_text("".join(json.dumps({"step": step, "val_accuracy": value - 0.1 * (step < 6)}) + "\n" for step in (3, 6)))
            if job.looked_at:
                write_json(job.run / "look.json", {})
        for _, path in unmeasured:
            write_json(path, {"bytes": 1})

    monkeypatch.setattr(run, "_side_by_side", side_by_side)
    monkeypatch.setattr(run, "measure_costs", lambda plan, memory: {})
    return world


@pytest.mark.parametrize(("gain", "verdict", "seeds"), [(0.03, "better", 4), (-0.03, "worse", 4), (0.0, "equal", 4)])
def test_a_comparison_ends_when_it_is_settled(made_up, tmp_path, gain, verdict, seeds) -> None:
    made_up["gain"] = {"denoising": gain}
    plan = make_plan(RECIPE, ("denoising", "external"), looks=(4, 8, 12))
    run_plan(plan, tmp_path / "out", quiet=True)
    (look,) = read_looks(plan, tmp_path / "out")
    assert (look.verdict, look.seeds, seeds_judged(plan, tmp_path / "out")) == (verdict, seeds, seeds)
    assert {seed for _, seed, _, _ in made_up["asked"]} == set(range(4)), "no run is wasted"
    count = len(made_up["asked"])
    run_plan(plan, tmp_path / "out", quiet=True)
    assert len(made_up["asked"]) == count, "a look that was taken stands"


def test_a_comparison_that_is_never_settled_has_all_looks(made_up, tmp_path, capsys) -> None:
    made_up["gain"] = {"denoising": 0.0}
    plan = make_plan(RECIPE, ("denoising", "external"), looks=(2, 3, 5), margin=0.05)
    run_plan(plan, tmp_path / "out")
    looks = read_looks(plan, tmp_path / "out")
    assert [look.seeds for look in looks] == [2, 3, 5]
    assert {look.verdict for look in looks} == {"not settled"}
    printed = capsys.readouterr().out
    assert printed.index("primary comparison: denoising − softmax") < printed.index("runs of 6 steps"), "what it can see is said before anything runs"
    assert "look at 5 seeds: not settled" in printed
    # each look is judged at the bound that all of them have together
    assert rates_of(plan).difference < 0.04
    assert judge(plan, tmp_path / "out", 3).comparisons[0].difference.low == pytest.approx(looks[1].low)
    write_json(tmp_path / "out" / "looks.json", [{"seeds": 7}])
    with pytest.raises(InputError, match=r"looks\.json is damaged"):
        read_looks(plan, tmp_path / "out")


def test_rates_are_chosen_on_validation_by_seeds_that_are_not_judged(made_up, tmp_path) -> None:
    plan = make_plan(RECIPE, ("denoising", "external"), seeds=2, tune=True)
    low, _, high = plan.learning_rates
    made_up["rate"] = {("softmax", high): 0.05, ("denoising", low): 0.05, ("denoising", high): float("nan")}
    run_plan(plan, tmp_path / "out", quiet=True)
    tuned = read_tuned(plan, tmp_path / "out")
    chosen = chosen_rates(plan, tmp_path / "out")
    assert (chosen["softmax"], chosen["denoising"]) == (high, low)
    assert tuned["arms"]["denoising"]["values"][2] == [None, None], "a run that diverged has no value and is not chosen"
    assert tuned["arms"]["softmax"]["values"][0] == [BASE[0, seed % 12] for seed in TUNING_SEEDS]
    tried = {(name, seed, rate) for name, seed, rate, looked_at in made_up["asked"] if not looked_at}
    assert tried == {(arm.name, seed, rate) for arm in plan.arms for seed in TUNING_SEEDS for rate in plan.learning_rates}
    assert {(name, rate) for name, _, rate, looked_at in made_up["asked"] if looked_at} == set(chosen.items())
    assert not set(TUNING_SEEDS) & set(plan.seeds)
    saved = read_json(tmp_path / "out" / "tuned.json")
    write_json(tmp_path / "out" / "tuned.json", saved | {"arms": {}})
    with pytest.raises(InputError, match=r"tuned\.json is damaged"):
        chosen_rates(plan, tmp_path / "out")


def test_an_attention_that_diverges_at_every_rate_is_told(made_up, tmp_path) -> None:
    plan = make_plan(RECIPE, ("denoising",), seeds=2, tune=True)
    made_up["rate"] = {("denoising", rate): float("nan") for rate in plan.learning_rates}
    with pytest.raises(InputError, match="denoising diverged at every rate"):
        run_plan(plan, tmp_path / "out", quiet=True)


def test_a_folder_of_before_goes_on_with_the_same_data(made_up, tmp_path) -> None:
    plan = make_plan(RECIPE, ("denoising",), seeds=2)
    old = {key: value for key, value in plan.to_dict().items() if key in ("recipe", "arms", "seeds")}
    write_json(tmp_path / "plan.json", old)
    run_plan(plan, tmp_path, quiet=True)
    assert read_json(tmp_path / "plan.json") == old
    assert not judge(make_plan(RECIPE, ("denoising",), seeds=2, own_data=False), tmp_path).samplings
