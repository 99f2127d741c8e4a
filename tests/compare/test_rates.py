"""Rates by name in a comparison: a variant without what a pattern names learns without its rate, and this is said; a pattern of nothing anywhere is refused."""

import json
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from accelerate import Accelerator

from foveal import InputError
from foveal.lab.compare import Plan, make_plan, run, run_plan, write_results
from foveal.lab.compare.rates import rate_notes, with_rates_of
from foveal.lab.data.video_language import ClipConversations
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import VideoConversation
from foveal.lab.training import Recipe, build_model, load_data, read_json, write_json
from foveal.lab.training.phases import open_phases, trained_names
from foveal.models import ViT
from foveal.models.video_language import VideoLlama
from tests.training.helpers import tiny


def rates_of(plan: Plan, name: str, lr: float | None = None) -> dict[str, float]:
    """Of each parameter of a variant, as its optimizers have it."""
    arm = next(arm for arm in plan.arms if arm.name == name)
    recipe = plan.run_recipe(arm, 0, lr)
    model = build_model(recipe, load_data(recipe.data))
    names, found = {id(value): name for name, value in model.named_parameters()}, {}
    for phase in open_phases(model, recipe, Accelerator(cpu=True)):
        for group in phase.optimizer.param_groups:
            found |= {names[id(value)]: phase.recipe.optim.lr * group.get("lr_scale", 1.0) for value in group["params"]}
    return found


def planned(recipe: Recipe, *names: str) -> Plan:
    plan = make_plan(recipe, names, seeds=1)
    bundle = load_data(recipe.data)
    return with_rates_of(plan, {arm.name: trained_names(build_model(plan.run_recipe(arm, 0), bundle), recipe.task) for arm in plan.arms})


def vit() -> tuple[Recipe, tuple[str, ...], dict[str, set[str]]]:
    rates = {"*.memory_*": 3e-3, "*.lambdas": 5e-3, "head.*": 1e-3}
    absent = {"softmax": {"*.memory_*", "*.lambdas"}, "external": {"*.lambdas"}, "denoising": {"*.memory_*"}}
    recipe = tiny(model=ViT())
    return replace(recipe, optim=replace(recipe.optim, lr_of=rates)), ("external", "denoising"), absent


def adversaries() -> tuple[Recipe, tuple[str, ...], dict[str, set[str]]]:
    """Two phases, of which a pattern may be of one alone, and of none where the networks have no attention."""
    recipe = get_recipe("sagan-digits")
    optim = replace(recipe.optim, lr_of={"*.mixers.*": 3e-5, "G.fc.*": 1e-5})
    return replace(recipe, model=replace(recipe.model, width=8), optim=optim), ("none",), {"sagan": set(), "none": {"*.mixers.*"}}


def probes() -> tuple[Recipe, tuple[str, ...], dict[str, set[str]]]:
    pytest.importorskip("peft")
    recipe = tiny(
        data=ClipConversations(num_probes=2, train_clips=1, test_clips=1), task=VideoConversation(), model=VideoLlama(num_probes=2, train_probes=False)
    )
    published = get_recipe("viscop").optim.lr_of
    return replace(recipe, optim=replace(recipe.optim, lr_of=published)), ("softmax",), {"none": set(published), "softmax": set()}


@pytest.mark.parametrize("case", [vit, adversaries, probes])
def test_a_variant_without_what_a_rate_names_learns_without_it(case) -> None:
    recipe, names, absent = case()
    plan = planned(recipe, *names)
    assert {arm.name: {pattern for name, pattern in plan.unnamed if name == arm.name} for arm in plan.arms} == absent
    said = rate_notes(plan)
    for pattern in recipe.optim.lr_of:
        without = [arm.name for arm in plan.arms if pattern in absent[arm.name]]
        line = [line for line in said if repr(pattern) in line]
        assert len(line) == bool(without)
        assert not without or (line[0].startswith(f"{len(without)} of {len(plan.arms)} variants") and line[0].endswith(", ".join(without)))
    for arm in plan.arms:
        # the first pattern that fits, by hand; of all others the rate of the phase
        others = set()
        for name, rate in rates_of(plan, arm.name).items():
            own = [value for pattern, value in recipe.optim.lr_of.items() if fnmatchcase(name, pattern)]
            if own:
                assert rate == pytest.approx(own[0]), name
            else:
                others.add(round(rate, 12))
        assert others <= {recipe.optim.lr, *(phase.optim.get("lr", recipe.optim.lr) for phase in recipe.task.phases())}
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    # a rate that is tried moves those that are left
    last = plan.arms[-1].name
    twice, once = rates_of(plan, last, 2 * recipe.optim.lr), rates_of(plan, last)
    name = next(name for name in once if fnmatchcase(name, next(iter(set(recipe.optim.lr_of) - absent[last]))))
    assert twice[name] == pytest.approx(2 * once[name])


def test_a_pattern_that_an_earlier_one_hides_in_one_variant_is_left_out_there() -> None:
    recipe = tiny(model=ViT())
    plan = make_plan(replace(recipe, optim=replace(recipe.optim, lr_of={"a.*": 1.0, "*.x": 2.0})), ("external",), seeds=1)
    known = with_rates_of(plan, {"softmax": ["a.x", "a.y"], "external": ["a.x", "b.x"]})
    assert known.unnamed == (("softmax", "*.x"),)
    with pytest.raises(InputError, match=r"'\*\.x', and an earlier pattern fits all that it fits"):
        with_rates_of(plan, {"softmax": ["a.x"], "external": ["a.x", "a.z"]})


def test_a_pattern_that_an_earlier_one_hides_in_one_phase_is_of_the_other() -> None:
    recipe = get_recipe("sagan-digits")
    optim = replace(recipe.optim, lr_of={"G.*": 3e-5, "*": 7e-5})
    plan = make_plan(replace(recipe, model=replace(recipe.model, width=8), optim=optim), ("none",), seeds=1)
    rates = rates_of(plan, "none")
    assert {round(rate, 12) for name, rate in rates.items() if name.startswith("G.")} == {3e-5}
    assert {round(rate, 12) for name, rate in rates.items() if not name.startswith("G.")} == {7e-5}


def test_a_comparison_runs_says_it_and_goes_on(tmp_path, monkeypatch, capsys) -> None:
    # in this process, for others cost seconds to start
    monkeypatch.setattr(run.workers, "open_server", lambda: None)
    monkeypatch.setattr(run, "_work", lambda folder, tasks, crew, console, fresh=False: [task() for task, _ in tasks])
    recipe, _, _ = vit()
    plan = make_plan(replace(recipe, steps=2, eval_every=2, checkpoint_every=2), ("external",), seeds=1)
    with pytest.raises(InputError, match=r"'\*\.lambdas', and no parameter that is trained is named so"):
        run_plan(plan, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists(), "refused before anything is written"
    rates = {"*.memory_*": 3e-3, "head.*": 1e-3}
    plan = replace(plan, recipe=replace(plan.recipe, optim=replace(plan.recipe.optim, lr_of=rates)))
    for arm in plan.arms:
        write_json(tmp_path / "out" / arm.name / "memory.json", {"bytes": 1})
    run_plan(plan, tmp_path / "out", jobs=1)
    note = "1 of 2 variants train nothing whose rate the pattern '*.memory_*' of lr_of decides, and learn without it: softmax"
    assert f"note: {note}" in capsys.readouterr().out
    own = {name: read_json(tmp_path / "out" / name / "seed-0" / "recipe.json")["optim"]["lr_of"] for name in ("softmax", "external")}
    assert own == {"softmax": {"head.*": 1e-3}, "external": rates}
    run_plan(plan, tmp_path / "out", jobs=1)
    assert "2 runs" not in capsys.readouterr().out, "all are done"
    results = read_json(write_results(tmp_path / "out"))
    assert note in results["task"]["notes"]
    assert results["plan"]["unnamed"] == [["softmax", "*.memory_*"]]
