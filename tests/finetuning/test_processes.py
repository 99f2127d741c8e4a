"""Fine-tuning by several processes, as ``torchrun`` and ``accelerate launch`` start them."""

import subprocess
import sys
from pathlib import Path

import pytest

from foveal.cli import main
from foveal.lab.training import read_json
from foveal.lab.training.reading import read_history

WORDS = [
    "train",
    "fine-tune",
    "--model",
    "test_vit",
    "--weights",
    "random",
    "--img-size",
    "160",
    "--batch-size",
    "4",
    "--epochs",
    "1",
    "--attention",
    "external",
]
OPTIONS = ("num_processes=2", "num_machines=1", "mixed_precision=no", "dynamo_backend=no")
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
    "accelerate": ["accelerate.commands.launch", "--cpu", *(f"--{option}" for option in OPTIONS), "-m"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_the_run_of_one(launcher: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, "--data", str(photographs)]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "foveal.cli", *words, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("device      cpu", "run.html", "next:"):
        assert done.stdout.count(said) == 1, "one of them speaks"
    one, two = (read_history(tmp_path / run / "history.jsonl") for run in ("one", "two"))
    assert [entry["step"] for entry in two] == [entry["step"] for entry in one]
    assert [entry["train_loss"] for entry in two] == pytest.approx([entry["train_loss"] for entry in one], rel=1e-3)
    assert read_json(tmp_path / "two/metrics.json")["loss"] == pytest.approx(read_json(tmp_path / "one/metrics.json")["loss"], rel=1e-2)
    assert (tmp_path / "two/run.html").exists()


def test_several_processes_name_their_folder(photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*WORDS, "--data", str(photographs)]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
