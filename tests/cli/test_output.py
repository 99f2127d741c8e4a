"""The last metre of output: names that nobody chose for us, readers that go away, and disks that are full."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveal._console import console, lasting_output, plain, table
from foveal.cli import main

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}


def foveal(*words: str, **options) -> subprocess.CompletedProcess:
    env = ENV | options.pop("env", {})
    return subprocess.run([sys.executable, "-m", "foveal.cli", *words], capture_output=True, check=False, env=env, **options)


@pytest.mark.case("F28")
@pytest.mark.parametrize("name", ["[/b]bg", "[red]fg", ":dog:", "[bold]", "a[link=x]b[/link]", "\\[x]"])
def test_names_are_printed_letter_by_letter(name) -> None:
    for shown in (name, table(("class", name), [(name, "1.0")], title="by class")):
        written = io.StringIO()
        console(file=written, width=100).print(shown)
        assert written.getvalue().count(name) == (1 if shown is name else 2)


@pytest.mark.case("F28")
def test_names_move_no_cursor_and_break_no_row() -> None:
    assert plain("a\x1b[31mb\nc\rd\x07\x9b") == "a\\x1b[31mb\\x0ac\\x0dd\\x07\\x9b"
    # letters that run from right to left stay; what turns others around does not
    assert plain("שלום \u202egnp.exe\u2066") == "שלום \\u202egnp.exe\\u2066"
    written = io.StringIO()
    console(file=written, width=100).print(table(("class",), [("a\nb\x1b[2J",)]))
    assert "a\\x0ab\\x1b[2J" in written.getvalue()
    assert "\x1b" not in written.getvalue()


@pytest.mark.case("F28")
def test_messages_are_one_line_whatever_was_typed(capsys) -> None:
    for word in ("[/b]", "[red]x", ":dog:", "a\nb"):
        assert main([word]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert word.replace("\n", "\\n") in printed.err


@pytest.mark.case("F27")
@pytest.mark.parametrize(
    ("encoding", "bytes_of_name"),
    [("utf-8:strict", b"caf\\udce9"), ("utf-8:surrogateescape", b"caf\xe9"), ("ascii:strict", b"caf\\udce9"), ("latin-1:strict", b"caf\\udce9")],
)
def test_names_in_other_bytes_are_printed(encoding, bytes_of_name) -> None:
    code = "import os\nfrom foveal._console import *\n"
    code += "with lasting_output(): print(os.fsdecode(b'caf\\xe9'), 'λ'); console().print(table(('n',), [('λ\\udce9',)]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=ENV | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert bytes_of_name in done.stdout
    assert done.stdout.splitlines()[0].startswith(b"caf")


@pytest.mark.case("F27")
def test_a_refusal_about_such_a_name_is_one_line(tmp_path) -> None:
    folder = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    done = foveal("eval", folder, env={"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 2
    assert b"is no run" in done.stderr
    assert b"Traceback" not in done.stderr


HEADED = [[], ["--help"], ["list", "--help"], ["data", "--help"], ["eval", "--help"], ["compare", "--help"], ["inspect", "--help"]]
HEADED += [["bench", "--help"], ["export", "--help"], ["info", "--help"], ["doctor", "--help"], ["--version"], ["typo"]]


@pytest.mark.case("F41")
@pytest.mark.parametrize("words", HEADED, ids=" ".join)
def test_a_reader_that_went_away_makes_no_noise(words) -> None:
    read, write = os.pipe()
    # nobody reads from the first byte on, which no timing can change
    os.close(read)
    with subprocess.Popen([sys.executable, "-m", "foveal.cli", *words], stdout=write, stderr=subprocess.PIPE, env=ENV) as process:
        os.close(write)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == (2 if words == ["typo"] else 0)
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors
    assert b"Exception ignored" not in errors


@pytest.mark.case("F41")
@pytest.mark.parametrize(
    "words", [["list"], ["data", "list"], ["train", "--help"], ["train", "digits", "--help"], ["data", "show", "digits", "--help"]], ids=" ".join
)
def test_neither_do_long_tables(words) -> None:
    code = f"import os, sys\nfrom foveal.cli import main\nread, write = os.pipe(); os.close(read); os.dup2(write, 1)\ncode = main({words!r})\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=ENV)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.case("F41")
def test_training_outlives_the_reader_of_its_lines(tmp_path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ["train", "digits", "--data.source", "digits", "--steps", "2", "--eval-every", "1", "--batch-size", "8", "--out", "run"]
    done = subprocess.run([sys.executable, "-m", "foveal.cli", *words], stdout=write, stderr=subprocess.PIPE, env=ENV, cwd=tmp_path, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.case("F41")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "foveal.cli", "--help"], stdout=full, stderr=subprocess.PIPE, env=ENV, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["foveal: the output could not be written: No space left on device"]


@pytest.mark.case("F41")
def test_a_closed_output_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m foveal.cli --help >&-", shell=True, stderr=subprocess.PIPE, env=ENV, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "20"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_odd_terminals(env) -> None:
    done = foveal("bench", "--help", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b[" not in done.stdout
    assert b"--tokens" in done.stdout


def test_standard_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    with lasting_output() as output:
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
    assert output.failed is None


@pytest.mark.case("F27", "F28")
def test_names_in_errors_move_no_cursor(tmp_path, capsys) -> None:
    (tmp_path / "\x1b[31mred\x07").mkdir()
    (tmp_path / "dog").mkdir()
    assert main(["data", "show", "image-folder", "--root", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "\\x1b[31mred\\x07" in err
    assert err.rstrip("\n").isprintable()


@pytest.mark.case("F27")
def test_a_run_that_tensorboard_cannot_name_is_refused_first(tmp_path, capsys) -> None:
    run = tmp_path / "caf\udce9"
    assert main(["train", "digits", "--steps", "1", "--out", str(run)]) == 2
    assert "bytes that are no UTF-8, which TensorBoard cannot write to" in capsys.readouterr().err
    assert not run.exists()
