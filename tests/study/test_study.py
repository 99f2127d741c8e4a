"""The registration is whole and hashed into what it makes; runs stop and go on; pages are made of the JSON alone."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import foveal.lab.study
from foveal import InputError
from foveal.cli import main
from foveal.lab.study import collect, list_studies, load_registration, run_study, write_page
from foveal.lab.study.images import image_recipe
from foveal.lab.study.registration import read_registration
from foveal.lab.study.run import chosen_rates, units
from foveal.lab.study.unit import read_unit
from foveal.lab.training import write_json
from foveal.models import ViT

STUDY = load_registration("denoising")
FILE = Path(foveal.lab.study.__file__).with_name("denoising.toml")


def test_what_is_registered() -> None:
    assert list_studies() == ["denoising"]
    assert STUDY.digest == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert [(one.id, one.part) for one in STUDY.hypotheses if one.primary] == [("S0", "S0"), ("S1", "S1"), ("S2", "S2")]
    assert len(STUDY.arms) == 8
    seen_before = {*range(16), *range(990, 995)}
    for part in STUDY.parts.values():
        seeds = [*part.seeds, *part.tuning_seeds]
        assert not seen_before & set(seeds)
        assert len(set(seeds)) == len(seeds)
        assert len(part.seeds) >= (12 if part.kind == "images" else 8)
    # where arms are told by name, they are the ones of the comparison
    assert set(STUDY.arms) <= set(ViT(global_pool="avg").arms())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds = [100, 101, 102, 103, 104, 105, 106, 107]", "seeds = [90, 101]", "seed 90 of part S1 is tuned on and judged"),
        ('"denoising-shared", is = "greater", against = "softmax-wide"', '"denoising-shard", is = "greater", against = "softmax"', "denoising-shared"),
        ('at = "rank 28"', 'at = "rank 27"', "setting of hypothesis S1 'rank 27'"),
        ('is = "greater", against', 'is = "larger", against', "relation of hypothesis"),
        ('is = "at limit"', 'is = "at limit", against = "softmax"', "one of the two"),
        ("alpha = 0.05", "alfa = 0.05", "did you mean alpha"),
        ("margin = 0.01\n", "", "part S0 is not whole"),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(old, new, says) -> None:
    text = FILE.read_text(encoding="utf8")
    assert old in text
    with pytest.raises(InputError, match=says):
        read_registration(text.replace(old, new, 1).encode())


def small(*names: str, ranks: tuple[int, ...] | None = None):
    """Two arms, as fast as can be, and yet judged."""
    study = STUDY.of(names).rehearsal()
    arms = {name: study.arms[name] for name in ("softmax", "softmax-wide", "denoising-shared", "softmax-centered")}
    parts = {name: replace(part, ranks=ranks or part.ranks) for name, part in study.parts.items()}
    return replace(study, arms=arms, parts=parts, smoke=False, hypotheses=tuple(one for one in study.hypotheses if one.id in ("S0", "S1", "S2", "S2a")))


def test_a_study_stops_and_goes_on_and_is_judged(tmp_path, monkeypatch) -> None:
    study, made = small("S1", "S2"), []
    real = foveal.lab.study.run._run

    def stops(unit, folder):
        if len(made) == 40:
            raise KeyboardInterrupt
        made.append(unit)
        return real(unit, folder)

    monkeypatch.setattr(foveal.lab.study.run, "_run", stops)
    with pytest.raises(foveal.lab.training.Interrupted):
        run_study(study, tmp_path, jobs=1, quiet=True)
    with pytest.raises(InputError, match="does not exist"):
        collect(study, tmp_path)
    made.append(None)
    run_study(study, tmp_path, jobs=1, quiet=True)
    done = [unit for unit in made if unit is not None]
    assert len(done) == len(set(map(str, done))) == 4 * (3 + 1) * (2 + 2), "every run once: arms × settings × (rates × tuning seeds + seeds)"
    results = collect(study, tmp_path)
    assert results["registration"] == STUDY.digest
    outcomes = {one["id"]: one for one in results["hypotheses"]}
    assert outcomes["S0"]["outcome"] == "not judged"
    assert outcomes["S0"]["why"] == "this part was not run"
    for name in ("S1", "S2", "S2a"):
        assert outcomes[name]["outcome"] in ("held", "refuted", "not settled")
        assert outcomes[name]["p"] == max(claim["p"] for claim in outcomes[name]["claims"])
    # Holm over the three primaries that are registered, although one of them was not run
    first, second = sorted((outcomes["S1"], outcomes["S2"]), key=lambda one: one["p"])
    assert first["corrected"] == pytest.approx(min(1, 3 * first["p"]))
    assert second["corrected"] == pytest.approx(max(first["corrected"], min(1, 2 * second["p"])))
    assert json.loads(json.dumps(results)) == results

    # differences are those of the files, by seed
    claim = outcomes["S1"]["claims"][0]
    rates = chosen_rates(study, study.parts["S1"], tmp_path)
    of = {(unit.arm, unit.seed): read_unit(unit, tmp_path)["values"]["error"] for unit in units(study, study.parts["S1"], rates) if unit.setting == "rank 28"}
    differences = [of["softmax-wide", seed] - of["denoising-shared", seed] for seed in study.parts["S1"].seeds]
    assert claim["mean"] == pytest.approx(sum(differences) / len(differences))

    write_page([results], tmp_path / "page.md", tmp_path / "report.html")
    page, report = (tmp_path / "page.md").read_text(encoding="utf8"), (tmp_path / "report.html").read_text(encoding="utf8")
    assert STUDY.digest[:16] in page
    assert "```{figure} page-1.svg" in page
    assert (tmp_path / "page-1.svg").read_text(encoding="utf8").startswith("<svg")
    for one in study.hypotheses:
        assert one.says in page
    assert report.count("<table>") == len(re.findall(r"^\| ---", page, re.MULTILINE))

    again = foveal.lab.study.results.collect(study, tmp_path)
    assert {**again, "created": ""} == {**results, "created": ""}


def test_a_folder_is_of_one_registration(tmp_path) -> None:
    write_json(tmp_path / "study.json", {"study": "denoising", "registration": "0" * 64, "smoke": False})
    with pytest.raises(InputError, match="as registered under 000000000000, and its runs are no part of this one"):
        run_study(STUDY, tmp_path, jobs=1, quiet=True)
    write_json(tmp_path / "study.json", {"study": "denoising", "registration": STUDY.digest, "smoke": True})
    with pytest.raises(InputError, match="holds a rehearsal"):
        run_study(STUDY, tmp_path, jobs=1, quiet=True)


def test_a_run_that_diverged_is_told_and_not_averaged(tmp_path) -> None:
    study = small("S2")
    part = study.parts["S2"]
    for unit in units(study, part, None):
        write_json(tmp_path / unit.place.with_suffix(".json"), {"values": {"error at 12": unit.rate}, "seconds": 1.0})
    rates = chosen_rates(study, part, tmp_path)
    assert set(rates.values()) == {0.003}
    for unit in units(study, part, rates):
        values = {} if (unit.arm, unit.seed) == ("softmax-centered", 101) else {f"error at {tokens}": 0.1 for tokens in (12, 24, 48)}
        write_json(tmp_path / unit.place.with_suffix(".json"), {"values": values, "seconds": 1.0})
    results = collect(study, tmp_path)
    outcomes = {one["id"]: one for one in results["hypotheses"]}
    assert outcomes["S2"]["why"] == outcomes["S2a"]["why"] == "a run diverged, so it cannot be judged"
    write_page([results], tmp_path / "page.md")
    assert "| softmax-centered | 4,228 | 0.003 | diverged | 0.100 diverged |" in (tmp_path / "page.md").read_text(encoding="utf8")


def test_images_are_the_default_job_read_off_the_mean(tmp_path) -> None:
    """What differs between arms is the attention alone, and between seeds the data too."""
    part = STUDY.parts["S0"]
    shared, wide, other = (image_recipe(part, arm, 0.004, seed) for arm, seed in (("denoising-shared", 100), ("softmax-wide", 100), ("softmax-wide", 101)))
    assert replace(shared, model=wide.model) == wide
    assert replace(wide, seed=101, data=replace(wide.data, seed=101)) == other
    assert shared.share_initial_weights
    assert (shared.model.global_pool, shared.steps, shared.batch_size, shared.optim.lr) == ("avg", 500, 64, 0.004)
    assert (shared.data.test_scenes, shared.data.train_scenes) == (10000, 10000)


def test_the_rehearsal_on_the_command_line(tmp_path, capsys, monkeypatch) -> None:
    tiny = replace(small("S0"), smoke=True)
    none = replace(load_registration("denoising-second").of(()), smoke=True)
    monkeypatch.setattr(foveal.lab.study.registration.Registration, "rehearsal", lambda self: none if self.follows else tiny)
    words = ["study", "denoising", "--smoke", "--only", "S0", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"{4 * (2 + 2)} of {4 * (2 + 2)} after" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf8"))
    assert results["smoke"]
    assert {one["why"] for one in results["hypotheses"]} == {"a rehearsal judges nothing"}
    assert all(0 <= value <= 1 for row in results["parts"]["S0"]["rows"] for value in row["values"]["accuracy"])
    assert "its numbers mean nothing" in (tmp_path / "out" / "page.md").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["denoisin"], "unknown study 'denoisin'; did you mean denoising"),
        (["denoising", "--only", "S9"], "unknown part of the study denoising 'S9'"),
        (["denoising", "--only", "S1", "S1"], "each part can be given once"),
        (["denoising", "--smoke", "--page", "page.md"], "leave one of the two out"),
        (["denoising", "--only", "S1", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["denoising", "--only", "S3", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["denoising-second"], "unknown study 'denoising-second'"),
        (["denoising", "--no-run"], "no part of the study is done in"),
        (["denoising", "--no-run", "--only", "S1"], "leave one of the two out"),
    ],
)
def test_what_cannot_be_run_is_one_line(words, says, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", *words]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
