"""Numbers of drawn images in a report: every arm's beside those of real images."""

import json
import re
import statistics
from dataclasses import replace

import pytest

from foveal.lab.compare import make_plan, render_report, run_plan, write_results, write_summary
from foveal.lab.compare.drawn_quality import quality_lines, quality_table
from tests.tasks.test_adversarial import RECIPE


def arm(name: str, **values: list[float]) -> dict:
    return {"name": name, "metrics": {key: {"by_seed": list(row)} for key, row in values.items()}}


def test_real_images_stand_below_the_arms() -> None:
    common = {"kernel_floor": [0.01, 0.03], "recall_real": [0.75, 0.75], "hinge": [1.0, 1.0]}
    results = {
        "arms": [arm("sagan", kernel=[0.5, 0.7], recall=[0.25, 0.5], **common), arm("none", kernel=[-0.02, 0.04], recall=[0.5, 0.5], frechet=[2, 2], **common)]
    }
    table = quality_table(results)
    assert [head.split(":")[0] for head in table["head"]] == ["kernel distance", "recall"], "neither what one arm alone has, nor the hinge"
    assert table["rows"] == [
        ("sagan", ["0.6 (0.5 to 0.7)", "0.375 (0.25 to 0.5)"]),
        ("none", ["0.01 (−0.02 to 0.04)", "0.5"]),
        ("real images", ["0.02 (0.01 to 0.03)", "0.75"]),
    ]
    lines = list(quality_lines(results))
    assert "| real images | 0.02 (0.01 to 0.03) | 0.75 |" in lines
    assert quality_table({"arms": [arm("softmax", accuracy=[0.5])]}) is None
    assert list(quality_lines({"arms": [arm("softmax", accuracy=[0.5])]})) == []


@pytest.mark.slow
def test_a_comparison_of_what_is_drawn_says_the_floor(tmp_path) -> None:
    run_plan(make_plan(replace(RECIPE, steps=2, eval_every=2, checkpoint_every=2), ("external", "none"), seeds=2), tmp_path)
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*/seed-*/metrics.json")]
    assert len(found) == 6
    results = json.loads(write_results(tmp_path).read_text())
    html, summary = render_report(results), write_summary(results, tmp_path / "summary.md").read_text()
    floor = f"{statistics.mean(metrics['kernel_floor'] for metrics in found):.3g}".replace("-", "−")
    row = re.search(r"<tr><td><b>real images</b></td>(.*?)</tr>", html, re.DOTALL)
    assert f"<td>{floor} (" in row[1]
    assert f"| real images | {floor} (" in summary
