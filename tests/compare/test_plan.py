"""Plans: which arms, in which order, and what is held equal."""

import json
from dataclasses import replace

import pytest
import torch

from foveal import InputError
from foveal.analysis import cost
from foveal.attention import list_attentions
from foveal.lab.compare import DEFAULT_ARMS, Plan, list_arms, make_plan
from foveal.lab.compare.plan import as_begun
from foveal.models import ViT
from tests.training.helpers import tiny

RECIPE = tiny(model=ViT(size="small", patch_size=4, drop_path=0.2))


def test_the_baseline_comes_first_and_is_never_left_out() -> None:
    assert [arm.name for arm in make_plan(RECIPE).arms] == list(DEFAULT_ARMS)
    assert DEFAULT_ARMS == ("softmax", "softmax-wide", "denoising", "denoising-shared", "external")
    assert [arm.name for arm in make_plan(RECIPE, ("external", "denoising")).arms] == ["softmax", "external", "denoising"]
    assert [arm.name for arm in make_plan(RECIPE, ("external", "softmax")).arms] == ["softmax", "external"]


def test_every_attention_on_tokens_can_be_compared() -> None:
    plan = make_plan(RECIPE, tuple(list_arms()))
    cores = {f"denoising-{core}" for core in ("halo", "efficient", "linear")}
    sized = {"softmax-wide", "softmax-many", "softmax-2H", "denoising-equal"}
    assert {arm.name for arm in plan.arms} == {*list_attentions(form="tokens"), "softmax-centered", "denoising-shared"} | cores | sized
    assert all(arm.about for arm in plan.arms)


@pytest.mark.parametrize("name", list_arms())
def test_every_arm_learns_something_from_an_image(name) -> None:
    """Those that need a grid get that of the images, here of 3×3 patches behind a class token."""
    (arm,) = (arm for arm in make_plan(tiny(model=ViT()), (name,)).arms if arm.name == name)
    model = arm.model.build(img_size=18, in_chans=1, num_classes=4)
    model(torch.randn(2, 1, 18, 18)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    counted = cost(model, (1, 18, 18))
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.macs > 0
    if "halo" in name:
        assert model.blocks[0].attn.core.num_prefix_tokens == 1
        with pytest.raises(ValueError, match="square"):
            model.blocks[0].attn(torch.randn(1, 9, 48))


def test_runs_differ_in_attention_and_seed_alone() -> None:
    plan = make_plan(RECIPE, seeds=2)
    assert plan.seeds == (0, 1)
    for arm in plan.arms:
        for seed in plan.seeds:
            run = plan.run_recipe(arm, seed)
            assert run.share_initial_weights
            assert run.seed == seed
            assert (run.model.size, run.model.patch_size, run.model.drop_path) == ("small", 4, 0.2)
            same = replace(run, model=RECIPE.model, seed=RECIPE.seed, share_initial_weights=False)
            assert same == replace(RECIPE, data=replace(RECIPE.data, seed=seed)), "each seed has data of its own, the first the recipe's"
    alike = make_plan(RECIPE, seeds=2, own_data=False)
    assert {alike.run_recipe(arm, seed).data for arm in alike.arms for seed in alike.seeds} == {RECIPE.data}


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_matched_arms_have_equal_parameters(size) -> None:
    plan = make_plan(tiny(model=ViT(size=size)), ("softmax", "softmax-wide", "denoising", "denoising-equal"))
    counts = {arm.name: sum(p.numel() for p in arm.model.build(img_size=16, in_chans=1, num_classes=10).parameters()) for arm in plan.arms}
    dial = {"tiny": (48, 3, 6), "small": (192, 6, 6), "base": (384, 12, 6)}[size]
    # what the pairs differ in are λ, and the biases of the projections
    for baseline, other in (("softmax", "denoising-equal"), ("softmax-wide", "denoising")):
        assert abs(counts[other] - counts[baseline]) < 0.005 * counts[baseline]
    assert counts["denoising"] - counts["softmax"] > 1.9 * dial[0] ** 2 * dial[1]


def test_plans_go_to_json_and_back() -> None:
    plan = make_plan(RECIPE, seeds=2)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    declared = make_plan(RECIPE, primary=("external",), margin=0.5, looks=(4, 8), tune=True)
    assert declared.learning_rates == (0.5 * RECIPE.optim.lr, RECIPE.optim.lr, 2 * RECIPE.optim.lr)
    assert declared.seeds == tuple(range(8))
    assert Plan.from_dict(json.loads(json.dumps(declared.to_dict()))) == declared
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) != make_plan(RECIPE, seeds=3)


@pytest.mark.parametrize(
    ("attentions", "seeds", "says"),
    [
        (("denoising",), 0, "seeds must be at least 1"),
        (("denoisign",), 1, "unknown attention to compare 'denoisign'; did you mean denoising"),
        (("denoising", "external", "denoising"), 1, "compared once"),
        (("efficient2d",), 1, "unknown attention to compare"),
    ],
)
def test_plans_that_make_no_sense_are_refused(attentions, seeds, says) -> None:
    with pytest.raises(InputError, match=says):
        make_plan(RECIPE, attentions, seeds=seeds)


def test_plans_of_before_seeds_had_data_of_their_own_keep_the_same_data(tmp_path) -> None:
    plan = make_plan(RECIPE, seeds=2)
    old = {key: value for key, value in plan.to_dict().items() if key in ("recipe", "arms", "seeds")}
    (tmp_path / "plan.json").write_text(json.dumps(old))
    assert as_begun(plan, tmp_path) == Plan.from_dict(old) == make_plan(RECIPE, seeds=2, own_data=False)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    assert as_begun(plan, tmp_path) == plan


def test_rates_by_name_move_with_a_rate_that_is_tried() -> None:
    plan = make_plan(replace(RECIPE, optim=replace(RECIPE.optim, lr=1e-3, lr_of={"head.*": 4e-4})), ("external",))
    tried = plan.run_recipe(plan.arms[1], 0, 2e-3).optim
    assert tried.lr == 2e-3
    assert tried.lr_of == {"head.*": pytest.approx(8e-4)}
