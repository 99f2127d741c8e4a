"""``foveal doctor``: it says what is here, and is alarmed by what computes another thing."""

import importlib.metadata
import re

import pytest
import torch

import foveal
from foveal.cli import _doctor_checks, main
from foveal.functional import denoising_attention


def sections(printed: str) -> dict[str, list[str]]:
    """Lines below each title, which stands in the first column."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if line and not line.startswith(" "):
            found[line] = here = []
        elif line:
            here.append(line.strip())
    return found


def test_it_says_what_a_bug_report_needs(capsys, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["doctor"]) == 0
    found = sections(capsys.readouterr().out)
    assert list(found)[:5] == ["Environment", "Packages", "Extras", "Devices", "Checks"]
    environment = dict(re.split(r"  +", line, maxsplit=1) for line in found["Environment"])
    assert environment["foveal"].startswith(foveal.__version__)
    assert environment["OMP_NUM_THREADS"] == "1"
    packages = dict(re.split(r"  +", line, maxsplit=1) for line in found["Packages"])
    assert packages["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert packages["timm"] == importlib.metadata.version("timm")
    assert found["Devices"][0].startswith("cpu ")
    assert len(found["Checks"]) == len(_doctor_checks.CHECKS)
    assert all(": ok: " in line or "  ok: " in line for line in found["Checks"]), found["Checks"]
    assert list(found)[-1].startswith("All 5 checks passed")


def stub(requires: list[str], versions: dict[str, str], monkeypatch) -> None:
    class Package:
        def __init__(self) -> None:
            self.requires = requires

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("foveal.cli._doctor.distribution", lambda name: Package())
    monkeypatch.setattr("foveal.cli._doctor.version", version)


def test_an_extra_is_complete_with_all_it_names_in_the_versions_that_it_asks(monkeypatch) -> None:
    from foveal.cli._doctor import _extras

    requires = ["torch>=2.8", "timm>=1.0.23; extra == 'timm'", 'timm>=1.0.23 ; extra == "train"', "tyro>=1.0; extra == 'train'"]
    requires += ["foveal[train]; extra == 'compare'", "scipy>=1.14; extra == 'compare'", "weights==0.1.1; extra == 'fixed'", "x>=1; extra == 'dev'"]
    stub(requires, {"torch": "2.8.0+cpu", "timm": "1.0.9", "tyro": "1.0", "scipy": "1.14.1", "weights": "0.1.2"}, monkeypatch)
    assert dict(_extras()) == {
        # 1.0.9 is older than 1.0.23, as text it is not
        "timm": 'timm 1.0.9 is not >= 1.0.23; pip install "foveal[timm]"',
        "train": 'timm 1.0.9 is not >= 1.0.23; pip install "foveal[train]"',
        "compare": 'timm 1.0.9 is not >= 1.0.23; pip install "foveal[compare]"',
        "fixed": 'weights 0.1.2 is not == 0.1.1; pip install "foveal[fixed]"',
    }
    stub(requires, {"torch": "2.8.0", "timm": "1.1+git", "scipy": "1.14", "weights": "0.1.1"}, monkeypatch)
    assert dict(_extras()) == {
        "timm": "complete",
        "train": 'tyro is missing; pip install "foveal[train]"',
        "compare": 'tyro is missing; pip install "foveal[compare]"',
        "fixed": "complete",
    }


def test_outside_of_an_installation_it_says_so(monkeypatch) -> None:
    from foveal.cli import _doctor

    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_doctor, "distribution", none)
    ((name, says),) = _doctor._extras()
    assert (name, "not installed as a package" in says) == ("unknown", True)


def wrong_sign(q, k, v, *, lambdas, **options):
    return denoising_attention(q, k, v, lambdas=-lambdas, **options)


def wrong_gradient(q, k, v, *, lambdas, **options):
    return denoising_attention(q, k, v, lambdas=lambdas.detach() + 0.0 * lambdas, **options)


def crash(*args, **options):
    raise RuntimeError("no kernel\nfor this device")


@pytest.mark.parametrize(
    ("name", "broken", "says"),
    [
        ("denoising_attention", wrong_sign, "denoising.* WRONG: denoising attention in float64 and its reference differ by"),
        ("denoising_attention", wrong_gradient, "denoising.* WRONG: denoising attention in float64 and its reference differ by"),
        ("denoising_attention", crash, r"denoising.* FAILED: RuntimeError: no kernel\\x0afor this device"),
        ("convert_", lambda layer, config: layer.linear1.weight.data.zero_(), "conversion.* WRONG: outputs before and after"),
        ("_numbers", lambda *shape, seed: torch.full(shape, torch.nan, dtype=torch.float64), "matrix products.* WRONG: .* differ by nan"),
    ],
    ids=["sign", "gradient", "crash", "conversion", "NaN"],
)
def test_what_computes_another_thing_is_alarming(name, broken, says, capsys, monkeypatch) -> None:
    monkeypatch.setattr(_doctor_checks, name, broken)
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    printed = capsys.readouterr().out
    assert left.value.code == 1
    assert re.search(says, printed)
    assert "cannot be trusted" in printed.splitlines()[-1]


def test_it_takes_no_options(capsys) -> None:
    assert main(["doctor", "--fast"]) == 2
    assert "takes no options" in capsys.readouterr().err
