"""What runs and comparisons of every task must do. A task inherits these classes and says what is its own: a recipe of seconds, and what pictures show."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from foveal.cli import main
from foveal.lab.compare import make_plan, run_plan, write_report, write_results
from foveal.lab.training import Interrupted, Recipe, fit, loop, read_json, write_json
from tests.training.helpers import assert_same_weights, weights


class RunContract:
    recipe: ClassVar[Recipe]

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Trained from the command line."""
        folder = tmp_path_factory.mktemp("task")
        write_json(folder / "recipe.json", cls.recipe.to_dict())
        assert main(["train", "--from", str(folder / "recipe.json"), "--out", str(folder / "run")]) == 0
        return folder / "run"

    def test_the_recipe_comes_back(self, run) -> None:
        values = read_json(run / "recipe.json")
        for part in ("data", "model", "task"):
            assert values[part]["kind"] == type(getattr(self.recipe, part)).__name__
        assert Recipe.from_dict(values) == self.recipe

    def test_resuming_ends_in_the_same_weights(self, run, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(loop.Stopping, "agreed", lambda self, flag, step, due: True)
        with pytest.raises(Interrupted):
            fit(self.recipe, tmp_path / "run", quiet=True)
        monkeypatch.undo()
        fit(self.recipe, tmp_path / "run", resume=True, quiet=True)
        assert_same_weights(weights(tmp_path / "run"), weights(run))


class DenseContract(RunContract):
    """Of a task whose networks answer all over the image, with one attention of maps or with none."""

    attention: ClassVar[str]
    steps: ClassVar[int] = 1
    seeds: ClassVar[int] = 1
    metric: ClassVar[tuple[str, str]]
    """Name and label of the number that decides."""
    rows: ClassVar[list[str]]
    """Of pictures, of each arm."""
    samples: ClassVar[int] = 6
    """That are shown."""
    per_class: ClassVar[set[str]]

    def test_a_comparison_of_networks_with_and_without_attention(self, tmp_path) -> None:
        plan = make_plan(replace(self.recipe, steps=self.steps, eval_every=1), (self.attention,), seeds=self.seeds)
        for arm in plan.arms:
            write_json(tmp_path / "out" / arm.name / "memory.json", {"bytes": 1})
        run_plan(plan, tmp_path / "out", jobs=1, quiet=True)
        results: dict[str, Any] = read_json(write_results(tmp_path / "out"))
        name, label = self.metric
        assert (results["metric"]["name"], results["metric"]["label"]) == (name, label)
        assert [arm["name"] for arm in results["arms"]] == ["none", self.attention]
        assert [(one["arm"], one["against"]) for one in results["comparisons"]] == [(self.attention, "none")]
        for arm in results["arms"]:
            runs = [tmp_path / "out" / arm["name"] / f"seed-{seed}" for seed in range(self.seeds)]
            assert arm["metrics"][name]["by_seed"] == [read_json(run / "metrics.json")[name] for run in runs]
            assert [row["title"] for row in arm["drawn"]] == self.rows
            assert set(arm["per_class"]) == self.per_class
            assert arm["macs"] > 0
        page = write_report(results, tmp_path / "report.html").read_text()
        assert f"Test {label} of each attention" in page
        # image and truth once, then the rows of both arms
        assert page.count('src="data:image/png') == self.samples * (2 + 2 * len(self.rows))
        self.check_results(results)

    def check_results(self, results: dict[str, Any]) -> None:
        """What else they say of this task."""
