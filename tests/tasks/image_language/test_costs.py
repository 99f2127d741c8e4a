"""What captions and answers cost, of all that is compared."""

import pytest

from foveal.lab.compare import make_plan
from foveal.lab.compare.costs import measure_costs
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.training import build_model, load_data


@pytest.mark.parametrize("name", ["scene-captions", "scene-questions"])
def test_every_arm_of_a_comparison_has_its_cost(name) -> None:
    """Those too whose dictionaries are clusters, which training fits."""
    recipe = smoke(get_recipe(name), steps=4, batch_size=8)
    bundle, plan = load_data(recipe.data), make_plan(recipe)
    found = measure_costs(plan, {arm.name: 1 for arm in plan.arms})
    assert all(found[arm.name]["parameters"] == sum(p.numel() for p in build_model(plan.run_recipe(arm, 0), bundle).parameters()) for arm in plan.arms)
    macs = {name: cost["macs"] for name, cost in found.items() if name != "question-only"}
    assert all(count > macs["none"] for name, count in macs.items() if name != "none"), "a second stream computes something"
    assert macs["dictionary"] == macs["dictionary-kmeans"] == macs["dictionary-frozen"], "what a dictionary holds costs nothing"
