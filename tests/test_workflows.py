"""Continuous integration elsewhere runs what it runs here, on the versions that are promised."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import foveal

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf8")


def steps(path: Path) -> list[str]:
    jobs = yaml.safe_load(path.read_text("utf8"))["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_calls_is_there(path) -> None:
    called = steps(path)
    assert called
    for command in called:
        for target in re.findall(r"\bmake ([a-z]+)", command):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{path.name} calls make {target}, which is none"
        for script in re.findall(r"\bbash (\S+)", command):
            assert (ROOT / script).exists()
        for module in re.findall(r"python -m (tests[\w.]*)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()
    jobs = yaml.safe_load(path.read_text("utf8"))["jobs"]
    # a job that hangs is not to run for six hours, and none may write what it does not name
    assert all("timeout-minutes" in job for job in jobs.values())
    assert yaml.safe_load(path.read_text("utf8"))["permissions"] == {"contents": "read"}


def test_only_publishing_may_ask_for_an_identity() -> None:
    holding = [
        (path.stem, name)
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text("utf8"))["jobs"].items()
        if "id-token" in job.get("permissions", {})
    ]
    assert holding == [("release", "publish")]


def test_the_oldest_versions_are_those_of_the_project() -> None:
    pinned = dict(line.split("==") for line in (ROOT / ".github" / "oldest.txt").read_text("utf8").splitlines() if not line.startswith("#"))
    asked = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]]
    for name, version in pinned.items():
        lowest = {str(one.specifier) for one in asked if one.name == name}
        assert len(lowest) == 1, f"{name} is asked for as {lowest}"
        (specifier,) = lowest
        low = specifier.removeprefix(">=").split(".")
        assert version.split(".")[: len(low)] == low, f"{name}: {version} in oldest.txt, {specifier} in pyproject.toml"


def test_pythons_are_the_same_everywhere() -> None:
    versions = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf8"))["jobs"]["versions"]["strategy"]["matrix"]["include"]
    run = {row["python"] for row in versions}
    named = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert run == named
    assert min(named) == PROJECT["requires-python"].removeprefix(">=")
    table = (ROOT / "docs" / "stability.md").read_text("utf8")
    assert f"| Python | {min(named)} | {max(named)} |" in table


def test_the_version_is_said_alike() -> None:
    assert f"version = {{{foveal.__version__}}}" in (ROOT / "README.md").read_text("utf8")
    assert f"version: {foveal.__version__}" in (ROOT / "CITATION.cff").read_text("utf8")
    assert re.search(rf"^## \[{re.escape(foveal.__version__)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf8"), re.MULTILINE)
