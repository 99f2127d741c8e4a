"""Options: each says what it is in plain words, and a value that cannot be is one line before anything is written."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import foveal
from foveal import InputError
from foveal._ranges import SEED, Range, check_ranges
from foveal.cli import VERBS, main
from foveal.cli._options import help_of, plain_words
from foveal.lab.data import DATA
from foveal.lab.tasks import TASKS
from foveal.lab.training import Optim, Recipe, write_json
from foveal.models import MODELS
from tests.training.helpers import tiny

KINDS = [registry[name] for registry in (DATA, MODELS, TASKS) for name in registry]
MARKUP = re.compile(r"``|:\w+:`|`~|\{None\}|\bSTR\b|~foveal")


def help_text(words: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "400")
    try:
        code = main([*words, "--help"])
    except SystemExit as left:
        code = left.code
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    return printed.out


@pytest.mark.case("N7")
@pytest.mark.parametrize(
    "words", [[verb] for verb in VERBS] + [["data", "list"], ["data", "fetch"], ["data", "show", "digit-scenes"], ["train", "cluttered-digits"]], ids=" ".join
)
def test_every_option_says_what_it_is(words, capsys, monkeypatch) -> None:
    text = help_text(words, capsys, monkeypatch)
    assert not MARKUP.search(text), MARKUP.search(text)
    assert "Example: foveal" in text
    lines = [line.strip("│ ") for line in text.splitlines()]
    for number, line in enumerate(lines):
        if not re.match("--[a-z]", line):
            continue
        # help stands behind the option, or on the line below where the option is long
        said = line.split("  ", 1)[1].strip() if "  " in line else lines[number + 1]
        assert re.match(r"\w", said), f"{words}: {line}"


@pytest.mark.case("N7")
@pytest.mark.parametrize("cls", [*KINDS, Optim, Recipe], ids=lambda cls: cls.__name__)
def test_every_field_of_a_recipe_says_what_it_is(cls) -> None:
    helps = help_of(cls)
    for item in dataclasses.fields(cls):
        assert helps.get(item.name), f"{cls.__name__}.{item.name} has no help"
        assert not MARKUP.search(helps[item.name])


@pytest.mark.case("N7")
def test_markup_is_taken_out() -> None:
    assert plain_words("Weight of :func:`foveal.analysis.value_overlap`, ``sgd`` and\n    :class:`~a.B`.") == "Weight of value_overlap, sgd and B."


@pytest.mark.case("N7")
def test_placeholders_say_what_is_wanted(capsys, monkeypatch) -> None:
    assert "[OPTIONS] RUN|MODEL IMAGE" in help_text(["inspect"], capsys, monkeypatch)
    assert "eval [-h] RUN" in help_text(["eval"], capsys, monkeypatch)
    text = help_text(["compare"], capsys, monkeypatch)
    for option in ("--data DIR", "--out DIR", "--steps INT", "--minutes-per-run FLOAT", "--size {tiny,small,base}"):
        assert option in text


@pytest.mark.case("N7")
@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS if verb != "train")], ids=" ".join)
def test_help_does_not_wait_for_torch(words) -> None:
    code = f"import sys\nfrom foveal.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\nassert not {{'torch', 'numpy'}} & {{*sys.modules}}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.case("N7")
def test_the_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"foveal {foveal.__version__}\n"


REFUSED = [
    (["--optim.lr", "nan"], "lr of Optim must be above 0, got nan"),
    (["--optim.lr", "inf"], "lr of Optim must be above 0, got inf"),
    (["--optim.min-lr", "-1"], "min_lr of Optim must be at least 0"),
    (["--optim.betas", "1.5", "0.9"], "each of betas of Optim must be at least 0 and below 1, got (1.5, 0.9)"),
    (["--optim.betas", "0.9", "1"], "each of betas of Optim must be at least 0 and below 1"),
    (["--optim.momentum", "-0.1"], "momentum of Optim"),
    (["--optim.ema", "1.5"], "ema of Optim must be at least 0 and below 1"),
    (["--optim.clip-grad", "0"], "clip_grad of Optim must be above 0"),
    (["--optim.power", "-2"], "power of Optim must be at least 0"),
    (["--optim.weight-decay", "nan"], "weight_decay of Optim"),
    (["--optim.warmup", "1"], "warmup of Optim"),
    (["--optim.accumulate", "0"], "accumulate of Optim must be at least 1"),
    (["--workers", "-1"], "workers of Recipe must be at least 0"),
    (["--steps", "0"], "steps of Recipe must be at least 1"),
    (["--steps", "-4"], "steps of Recipe must be at least 1"),
    (["--batch-size", "0"], "batch_size of Recipe must be at least 1"),
    (["--repeats", "0"], "repeats of Recipe must be at least 1"),
    (["--seed", str(2**64)], "seed of Recipe must be at least"),
    (["--steps", str(10**30)], "steps of Recipe must be a whole number of at most 63 bits"),
    (["--model.drop-path", "1.5"], "drop_path of ViT must be at least 0 and below 1"),
    (["--model.num-heads", "0"], "num_heads of ViT must be at least 1, got 0"),
    (["--model.patch-size", "0"], "patch_size of ViT must be at least 1, got 0"),
    (["--data.noise", "nan"], "noise of ClutteredDigits must be a finite number"),
    (["--data.train-scenes", "0"], "at least one scene"),
    (["--task.mixup", "nan"], "mixup of Classification must be a finite number"),
    (["--epochs", "0"], "epochs must be above 0"),
    (["--epochs", "nan"], "epochs must be above 0"),
    (["--epochs", "1", "--steps", "3"], "--epochs decides the steps, and so does --steps"),
    (["--steps", "3", "--steps", "4"], "--steps is given twice"),
    (["--eval_every", "3", "--eval-every=4"], "--eval-every is given twice"),
    (["--steps", ""], "is empty"),
    (["--stpes", "3"], "Perhaps you meant: --steps"),
    (["--precision", "fp32"], "invalid choice 'fp32'"),
]


@pytest.mark.case("F35")
@pytest.mark.parametrize(("options", "says"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_what_cannot_be_is_one_line_before_anything_is_written(options, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cluttered-digits", *options, "--out", "new"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("foveal: ")
    assert says in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.case("F35")
@pytest.mark.parametrize(
    "words",
    [["bench", "softmax", "--num-heads", "0"], ["bench", "softmax", "--batch", "0"], ["compare", "--steps", "0"], ["compare", "--minutes-per-run", "nan"]],
    ids=" ".join,
)
def test_other_verbs_too(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", "new"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.case("F35")
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("optim", "lr", math.nan), ("optim", "ema", 2), ("optim", "clip_grad", 0.0), ("model", "num_heads", 0), (None, "workers", -1), (None, "steps", 2**63)],
)
def test_a_recipe_from_disk_is_refused_alike(part, name, value, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    values = tiny().to_dict()
    (values if part is None else values[part])[name] = value
    Path("recipe.json").write_text(json.dumps(values)) if name == "steps" else write_json(Path("recipe.json"), values)
    assert main(["train", "--from", "recipe.json", "--out", "new"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert name in printed
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json"}


def numbers_of(kind: typing.Any) -> set[tuple[type, int]]:
    """The number types a field takes, and how many of them: 0 is one by itself."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(numbers_of, parts))
    if origin is tuple and parts[0] in (int, float):
        return {(parts[0], 1 if parts[-1] is Ellipsis else len(parts))}
    return {(kind, 0)} if kind in (int, float) else set()


@pytest.mark.case("F35")
@pytest.mark.parametrize("cls", [*KINDS, Optim, Recipe], ids=lambda cls: cls.__name__)
def test_no_setting_takes_a_number_that_is_none(cls) -> None:
    """Every kind that is or will be registered, in every field of numbers."""
    if cls is Recipe:
        base = tiny()
    else:
        needed = [item for item in dataclasses.fields(cls) if dataclasses.MISSING is item.default is item.default_factory]
        base = cls(**{item.name: Path("nowhere") if item.type is Path else "timm" if item.name == "library" else "test_vit" for item in needed})
    for item in dataclasses.fields(cls):
        for kind, count in numbers_of(item.type):
            for value in (math.nan, math.inf, -math.inf) if kind is float else (10**30, -(10**30)):
                with pytest.raises(InputError, match=item.name):
                    dataclasses.replace(base, **{item.name: (value,) * count if count else value})


@pytest.mark.case("F35")
def test_a_kind_of_somebody_else_is_checked_too() -> None:
    from foveal._registry import Registry
    from foveal.lab.data import Data

    @Registry("toy").register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Theirs(Data):
        ranges = {"level": Range(above=0, at_most=1)}
        level: float = 1.0
        seed: int = 0

        def __post_init__(self) -> None:
            # forgets to ask its base
            assert self.level <= 1

        def load(self):
            raise NotImplementedError

    Theirs(level=0.5, seed=-3)
    for wrong in ({"level": 0.0}, {"level": math.nan}, {"level": 2.0}, {"seed": 2**64}):
        with pytest.raises(InputError):
            Theirs(**wrong)


@pytest.mark.case("F35")
def test_bounds_as_they_are_said() -> None:
    assert str(Range(at_least=0, below=1)) == "at least 0 and below 1"
    assert [Range(at_least=0, below=1).holds(value) for value in (-0.1, 0, 0.99, 1, math.nan)] == [False, True, True, False, False]
    assert [Range(above=0, at_most=2).holds(value) for value in (0, 1e-9, 2, 2.1)] == [False, True, True, False]
    assert SEED.holds(2**64 - 1)
    check_ranges(Optim())


def test_epochs_become_steps(tmp_path, monkeypatch, capsys) -> None:
    """1,258 digits train; half an epoch in batches of 200 is 3.145 steps."""
    from foveal.lab.training import read_json

    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--data.source", "digits", "--epochs", "0.5", "--batch-size", "200", "--out", "run"]) == 0
    assert "0.5 epochs of 1,258 samples are 3 steps of 200" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "recipe.json")["steps"] == 3


@pytest.mark.case("N7", "F35")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--version", "extra"], "--version takes no options, got extra"),
        (["train", "digits", "--epochs", "1e300"], "epochs must be above 0 and below 1"),
        (["compare", "--minutes-per-run", "nan"], "minutes-per-run must be above 0 and finite, got nan"),
        (["compare", "--minutes-per-run", "inf"], "minutes-per-run must be above 0 and finite, got inf"),
        (["compare", "--resolutions", "64", "32"], r"expected sides that grow, from 1 on, got \[64, 32\]"),
        (["compare", "--resolutions", "0"], "expected sides that grow, from 1 on"),
        (["train", "digits", "--optim.ema", "x"], "could not convert string to float: 'x'"),
        (["compare", "--size", "huge"], r"Expected one of \('base', 'small', 'tiny'\)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line_before_any_work(words, says, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert re.search(says, err), err
    assert err.startswith("foveal: ")
    assert err.count("\n") == 1
    assert not re.search(r"None|<class", err)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train fine-tune", "compare --model x", "compare", "eval"])
def test_the_example_is_of_this_command(command: str, capsys, monkeypatch) -> None:
    example = help_text(command.split(), capsys, monkeypatch).partition("Example: foveal ")[2]
    assert example.startswith(command.removesuffix(" x")), example.splitlines()[0]
