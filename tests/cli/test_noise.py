"""What a machine without CUDA, or with few cores, need not be told; and what it is told once."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from foveal._machine import cores, workers_note
from foveal.cli import main

NOISE = "No CUDA runtime is found"


def errors_of(code: str, home: Path) -> str:
    env = os.environ | {"CUDA_HOME": str(home), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return done.stderr


@pytest.mark.case("N6")
@pytest.mark.parametrize("module", ["foveal.lab.compare", "foveal.bench"])
def test_no_runtime_of_cuda_is_missed(module, tmp_path) -> None:
    """torch says so wherever it compiles beside an installed compiler of CUDA, which is what ``CUDA_HOME`` says."""
    if torch.cuda.is_available():
        pytest.skip("there is a runtime of CUDA here, and nothing to say")
    said = "import torch.utils.cpp_extension"
    if NOISE not in errors_of(said, tmp_path):
        pytest.skip("this torch does not say it")
    assert NOISE not in errors_of(f"import {module}\n{said}", tmp_path)


@pytest.mark.case("N6")
def test_workers_beyond_the_cores_are_said_once() -> None:
    with warnings.catch_warnings():
        assert workers_note(cores()) == ""
        note = workers_note(cores() + 6)
        assert f"{cores() + 6} workers read data on {cores()} cores" in note
        warnings.filterwarnings("error", append=True)
        # torch says it of every loader that is made; the note has said it
        torch.utils.data.DataLoader([1], num_workers=cores() + 6)


@pytest.mark.case("N6")
def test_training_says_it_once(tmp_path, capsys) -> None:
    lengths = ["--steps", "2", "--eval-every", "2", "--checkpoint-every", "2"]
    words = ["train", "solids", *lengths, "--data.train-clouds", "32", "--data.val-clouds", "4", "--data.test-clouds", "4", "--model.width", "4"]
    words += ["--workers", str(cores() + 1), "--out", str(tmp_path / "run")]
    with warnings.catch_warnings():
        assert main(words) == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(f"{cores() + 1} workers read data") == 1
