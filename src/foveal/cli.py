"""The command line: ``foveal list | data | train | eval | compare | inspect | bench | export | info``.

Input that cannot be used ends with a message and exit code 2, an interruption with how to go on and exit code 130; everything else keeps its traceback.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from ._errors import InputError, missing_extra, unknown

try:
    import tyro
    from rich.console import Console
    from rich.table import Table
except ImportError as error:
    raise missing_extra(error.name or "tyro", "train", "the command line") from error

__all__ = ["main"]

_VERBS: dict[str, Callable[[list[str]], None]] = {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    try:
        if words[0] not in _VERBS:
            raise unknown("command", words[0], _VERBS)
        _VERBS[words[0]](words[1:])
    except InputError as error:
        print(f"foveal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except _Stopped as stopped:
        print(f"foveal: {stopped}", file=sys.stderr)
        return 130
    return 0


class _Stopped(Exception):
    """Work was interrupted and saved; the message says how to go on."""


def _verb(function: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    _VERBS[function.__name__.strip("_")] = function
    return function


def _usage() -> str:
    lines = ["usage: foveal COMMAND …", "", *(f"  {name:<10}{(function.__doc__ or '').splitlines()[0]}" for name, function in _VERBS.items())]
    return "\n".join([*lines, "", "foveal COMMAND --help says more."])


def _parse(kind: Any, verb: str, words: list[str], **options: Any) -> Any:
    return tyro.cli(kind, args=words, prog=f"foveal {verb}", config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands), **options)


# -- list -----------------------------------------------------------------------------------------------------------------------------------------


@_verb
def _list(words: list[str]) -> None:
    """Attentions, recipes, and kinds of official checkpoints."""
    _parse(_Nothing, "list", words)
    from .attention import FAMILIES, attention_class, list_attentions
    from .official import list_kinds
    from .recipes import list_recipes

    console = Console()
    table = Table("attention", "on", "family", "how tokens meet", title="Attentions: foveal.create_attention(NAME, …)", title_justify="left")
    for name in list_attentions():
        cls = attention_class(name)
        table.add_row(name, cls.form, cls.family, FAMILIES[cls.family])
    console.print(table)
    table = Table("recipe", "what it trains", title="Recipes: foveal train NAME", title_justify="left")
    for name, about in list_recipes().items():
        table.add_row(name, about)
    console.print(table)
    console.print("Official checkpoints, foveal.official.load(KIND, …): " + ", ".join(list_kinds()))


@dataclass(frozen=True)
class _Nothing:
    """No options."""


# -- data -----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    what: Annotated[Literal["list", "fetch", "show"], tyro.conf.Positional] = "list"
    """list: every kind of data, and every package that can be fetched. fetch NAME: bring a package. show NAME: a sheet of a kind's samples with their truth."""


@dataclass(frozen=True)
class _Fetch:
    name: Annotated[str, tyro.conf.Positional]
    """A package out of `foveal data list`."""


@_verb
def _data(words: list[str]) -> None:
    """What data there are, and what they look like: data list | fetch NAME | show NAME"""
    parts = {"list": _data_list, "fetch": _data_fetch, "show": _data_show}
    if words and words[0] in parts:
        parts[words[0]](words[1:])
    elif words and not words[0].startswith("-"):
        raise unknown("word after data", words[0], parts)
    else:
        _parse(_Data, "data", words)
        _data_list([])


def _data_list(words: list[str]) -> None:
    _parse(_Nothing, "data list", words)
    from .catalogue import list_kinds, list_packages

    console = Console()
    table = Table("kind", "targets", "from", "here", "what it is", title="Kinds of data: foveal data show NAME", title_justify="left")
    for kind in list_kinds():
        table.add_row(kind.name, kind.targets, kind.comes_from, {True: "yes", False: "no", None: "–"}[kind.here], kind.about)
    console.print(table)
    table = Table("package", "by", "MB", "here", "licence", "what it is", title="Packages: foveal data fetch NAME", title_justify="left")
    for line in list_packages():
        table.add_row(line.name, line.client, f"{line.megabytes:g}", "yes" if line.here else "no", line.licence, line.about)
    console.print(table)


def _data_fetch(words: list[str]) -> None:
    from .data import fetch

    print(fetch(_parse(_Fetch, "data fetch", words).name))


def _data_show(words: list[str]) -> None:
    from dataclasses import field, make_dataclass

    from .catalogue import kind_named, write_samples

    if not words or words[0].startswith("-"):
        raise InputError("data show needs the name of a kind of data, such as digit-scenes; foveal data list names them")
    cls = kind_named(words[0])
    options: list[Any] = [
        ("data", Annotated[cls, tyro.conf.arg(name="")]),
        ("out", Path, field(default=Path("."))),
        ("split", Literal["train", "val", "test"], field(default="train")),
        ("count", int, field(default=6)),
    ]
    chosen = _parse(make_dataclass("Show", options, kw_only=True), f"data show {words[0]}", words[1:])
    print("\n".join(map(str, write_samples(chosen.data, chosen.out, split=chosen.split, count=chosen.count))))


# -- train ----------------------------------------------------------------------------------------------------------------------------------------


@_verb
def _train(words: list[str]) -> None:
    """Train a recipe, go on with a run, or repeat one: train RECIPE | --resume RUN | --from recipe.json"""
    from .recipes import get_recipe, list_recipes
    from .training import Recipe, read_json

    if not words or words[0] in ("-h", "--help"):
        recipes = "\n".join(f"  {name:<18}{about}" for name, about in list_recipes().items())
        print(f"usage: foveal train RECIPE [OPTIONS]\n       foveal train --resume RUN\n       foveal train --from recipe.json [OPTIONS]\n\n{recipes}")
        print("\nfoveal train RECIPE --help shows every option with its default.")
        return
    if words[0] == "--resume":
        run = _parse(_Resume, "train", words).resume
        _fit(Recipe.from_dict(read_json(run / "recipe.json")), run, resume=True)
        return
    if words[0] == "--from":
        if len(words) < 2:
            raise InputError("--from needs a file: the recipe.json of a run")
        name, recipe, rest = f"--from {words[1]}", Recipe.from_dict(read_json(Path(words[1]))), words[2:]
    else:
        name, recipe, rest = words[0], get_recipe(words[0]), words[1:]
    chosen = _parse(_Train, f"train {name}", rest, default=_Train(recipe))
    out = chosen.out or Path("runs") / f"{words[0].strip('-')}-{datetime.now():%Y%m%d-%H%M%S}"
    _fit(chosen.recipe, out, resume=False)


@dataclass(frozen=True)
class _Resume:
    resume: Path
    """Folder of a run."""


@dataclass(frozen=True)
class _Train:
    recipe: Annotated[Any, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder for the run; runs/RECIPE-TIME if not given."""


def _fit(recipe: Any, run: Path, *, resume: bool) -> None:
    from .training import Interrupted, fit

    try:
        metrics = fit(recipe, run, resume=resume)
    except Interrupted as stopped:
        raise _Stopped(str(stopped)) from stopped
    # every process of torchrun comes here
    if os.environ.get("RANK", "0") == "0":
        headline = recipe.task.headline
        loss = f", loss {metrics['loss']:.3f}" if "loss" in metrics else ""
        print(f"{metrics['split']}: {headline.label} {headline.show(metrics[headline.name])}{loss}\n{run}")


# -- eval -----------------------------------------------------------------------------------------------------------------------------------------


@_verb
def _eval(words: list[str]) -> None:
    """Print and write the metrics of a finished run: eval RUN"""
    run = _parse(_Eval, "eval", words).run
    from .training import evaluate, load_run, scalars, write_json

    recipe, bundle, model = load_run(run)
    splits, files = {}, [run / "eval.json"]
    for name, split in (("val", bundle.val), ("test", bundle.test)):
        results: list[Any] = []
        splits[name] = evaluate(model, split, recipe, bundle, results=results)
        if results:
            files.append(run / f"results-{name}.json")
            write_json(files[-1], results)
    write_json(run / "eval.json", splits)
    columns = {number: None for metrics in splits.values() for number in scalars(metrics)}
    table = Table("split", *columns)
    for name, metrics in splits.items():
        table.add_row(name, *("–" if metrics[number] is None else f"{metrics[number]:.4f}" for number in columns))
    Console().print(table)
    classes = splits["test"].get("per_class")
    if classes:
        table = Table("class", *next(iter(classes.values())), title="test, by class", title_justify="left")
        for name, numbers in classes.items():
            table.add_row(name, *("–" if value is None else f"{value:.4f}" for value in numbers.values()))
        Console().print(table)
    print("\n".join(map(str, files)))


@dataclass(frozen=True)
class _Eval:
    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""


# -- compare --------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Compare:
    """Train several attentions on equal budgets and write an honest report."""

    recipe: str | None = None
    """A recipe out of `foveal list`, of any task; the attentions take turns in its model. cluttered-digits if not given, image-folder with --data."""
    data: Path | None = None
    """Where the recipe's data lies. Without --recipe an image folder (train/CLASS, val/CLASS, or CLASS to be split)."""
    attentions: tuple[str, ...] = ()
    """Names out of `foveal list`, softmax-wide, denoising-equal, and denoising-halo, -efficient and -linear; five by default. The baseline is always among
    them: softmax in a vision transformer, none in a convolutional network."""
    seeds: int = 3
    """Runs of each attention. Intervals need at least 2; 3 is little."""
    steps: int | None = None
    """Training steps of every run; the recipe's if not given."""
    minutes_per_run: float | None = None
    """Instead of steps: about how long the dearest attention may take on one thread. All get the steps that this makes."""
    size: Literal["tiny", "small", "base"] | None = None
    """Of the vision transformer; the recipe's if not given."""
    img_size: int | None = None
    """Side that images of a folder are brought to; 64, or the recipe's, if not given."""
    resolutions: tuple[int, ...] = ()
    """Sides of maps, growing, at which the report also shows time and memory of each attention as a block of 64 channels."""
    jobs: int | None = None
    """Runs at a time, one thread each; one per core if not given."""
    out: Path = Path("runs/compare")
    """Where the comparison lives. The same command goes on where it stopped."""


@_verb
def _compare(words: list[str]) -> None:
    """Train several attentions on equal budgets and write a report."""
    chosen: _Compare = _parse(_Compare, "compare", words)
    from .compare import Plan, make_plan, measure_resolution, run_plan, steps_for_minutes, write_report, write_results, write_summary
    from .recipes import get_recipe
    from .training import Interrupted, read_json

    if chosen.steps is not None and chosen.minutes_per_run is not None:
        raise InputError("give --steps or --minutes-per-run, not both")
    recipe = get_recipe(chosen.recipe or ("cluttered-digits" if chosen.data is None else "image-folder"))
    data = {"root": chosen.data, "img_size": chosen.img_size if chosen.data is None or chosen.recipe or chosen.img_size else 64}
    recipe = replace(recipe, data=_with(recipe.data, data), model=_with(recipe.model, {"size": chosen.size}))
    if chosen.steps is not None:
        recipe = replace(recipe, steps=chosen.steps, eval_every=max(1, chosen.steps // 10))
    plan = make_plan(recipe, chosen.attentions or None, seeds=chosen.seeds)
    if chosen.minutes_per_run is not None:
        # measured once: a comparison that goes on keeps the steps it began with
        old = Plan.from_dict(read_json(chosen.out / "plan.json")) if (chosen.out / "plan.json").exists() else None
        steps = old.recipe.steps if old else steps_for_minutes(recipe, plan, chosen.minutes_per_run)
        plan = replace(plan, recipe=replace(recipe, steps=steps, eval_every=max(1, steps // 10)))
    try:
        run_plan(plan, chosen.out, jobs=chosen.jobs)
    except Interrupted as stopped:
        raise _Stopped(f"stopped; what is done is kept, and the same command goes on: foveal compare {' '.join(words)}".rstrip()) from stopped
    if chosen.resolutions:
        measure_resolution([arm.name for arm in plan.arms], chosen.resolutions, chosen.out)
    results = read_json(write_results(chosen.out))
    report = write_report(results, chosen.out / "report.html")
    write_summary(results, chosen.out / "summary.md")
    print("\n".join(["", results["verdict"]["headline"], *(f"  {line['text']}" for line in results["verdict"]["lines"])]))
    print(f"\nreport: {report.resolve()}\ndata:   {(chosen.out / 'results.json').resolve()}")


def _with(part: Any, changes: dict[str, Any]) -> Any:
    """A part of a recipe with those options that were given, which it must have."""
    given = {name: value for name, value in changes.items() if value is not None}
    for name in given:
        if not hasattr(part, name):
            raise InputError(f"--{'data' if name == 'root' else name.replace('_', '-')} means nothing here: {type(part).__name__} has no {name}; leave it out")
    return replace(part, **given)


# -- inspect --------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inspect:
    """Draw where a model looks in one image."""

    what: Annotated[str, tyro.conf.Positional]
    """Folder of a finished run; a model by timm's name; hf:NAME, or a folder with config.json, of transformers; a file of weights, with --model."""
    image: Annotated[Path, tyro.conf.Positional]
    """An image file."""
    right: Path | None = None
    """The right image, where the run matches stereo pairs; IMAGE is the left one."""
    out: Path | None = None
    """Folder for what is drawn; RUN/inspect-IMAGE, or inspect-MODEL-IMAGE, if not given."""
    model: str | None = None
    """timm's name of the model that a file of weights is for."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """random builds the model and loads nothing; otherwise weights that cannot be loaded are an error."""
    attention: str | None = None
    """Convert the model to this attention first, one out of `foveal list`."""
    where: str = "*"
    """Which attentions are converted, or without --attention are looked at; a glob on their names."""


@_verb
def _inspect(words: list[str]) -> None:
    """Draw where a run or any model looks in one image: inspect RUN|MODEL IMAGE"""
    chosen: _Inspect = _parse(_Inspect, "inspect", words)
    from .training.checkpoint import check_folder

    run = Path(chosen.what)
    if (run / "recipe.json").exists():
        from .compare.inspect import inspect_image
        from .training import load_run

        if chosen.model or chosen.weights == "random" or chosen.attention or chosen.where != "*":
            raise InputError(f"{run} is a run, whose model and weights are its own; leave out --model, --weights, --attention and --where")
        out = chosen.out or run / f"inspect-{chosen.image.stem}"
        check_folder(out)
        recipe, bundle, model = load_run(run)
        image = _open(chosen.image)
        if chosen.right is not None:
            if recipe.task.targets != "disparity":
                raise InputError(f"{run} takes single images; leave out --right, which is for stereo")
            image = [image, _open(chosen.right)]
        about, files = inspect_image(recipe, bundle, model, image, out, title=f"{run.name}: {chosen.image.name}")
        print("\n".join([about, *map(str, files)]))
        return
    from .looking import inspect_model, open_model

    if chosen.right is not None:
        raise InputError("--right is for runs that match stereo pairs, and this is no run of Foveal; leave it out")
    out = chosen.out or Path(f"inspect-{run.stem.replace(':', '-')}-{chosen.image.stem}")
    check_folder(out)
    image = _open(chosen.image)
    opened = open_model(chosen.what, model=chosen.model, random_weights=chosen.weights == "random")
    lines, files = inspect_model(opened, image, out, attention=chosen.attention, where=chosen.where)
    print("\n".join([*lines, *map(str, files)]))


def _open(path: Path) -> Any:
    from PIL import Image

    try:
        image = Image.open(path)
        image.load()
        return image
    except OSError as error:
        raise InputError(f"cannot read the image {path}: {error}") from error


# -- bench ----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Measure what attentions and models cost on this machine; what does not compute what it should is refused."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Attentions out of `foveal list`, or models out of timm, those of Foveal among them."""
    tokens: tuple[int, ...] = (196, 1024, 4096)
    """Sizes for attentions; square numbers where there is a grid."""
    pixels: tuple[int, ...] = (224,)
    """Sizes for models: the side of an image."""
    dim: int = 384
    """Width of tokens, or channels of maps."""
    num_heads: int = 6
    batch: int = 1
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    training: bool = False
    """A training step in place of the forward pass."""
    memory: bool = True
    """Peak memory too; on the CPU a process for every row."""
    rounds: int = 5
    threads: int | None = None
    """As torch says if not given."""
    out: Path = Path("runs/bench")
    """Folder for bench.json and cost.svg."""


@_verb
def _bench(words: list[str]) -> None:
    """Measure time, memory and multiply-adds of attentions and models: bench NAME …"""
    chosen: _Bench = _parse(_Bench, "bench", words)
    import torch

    from .bench import Row, Settings, run_bench, table, write_bench
    from .training.checkpoint import check_folder

    if chosen.threads is not None:
        if chosen.threads < 1:
            raise InputError(f"threads must be at least 1, got {chosen.threads}")
        torch.set_num_threads(chosen.threads)
    options = {name: value for name, value in vars(chosen).items() if name not in ("threads", "out")}
    settings = Settings(**options)
    check_folder(chosen.out)

    def tell(row: Row) -> None:
        took = f"refused: {row.refused}" if row.median is None else f"{1e3 * row.median:.2f} ms"
        print(f"{row.name}, {row.size} {row.unit}, {row.precision}, {row.mode}: {took}", file=sys.stderr)

    bench = run_bench(settings, each=tell)
    head, *lines = table(bench)
    shown = Table(box=None, pad_edge=False)
    for place, title in enumerate(head):
        shown.add_column(title, no_wrap=True, justify="left" if place < 2 else "right")
    for line in lines:
        shown.add_row(*line)
    Console(width=max(100, Console().width)).print(shown)
    ceilings = ", ".join(f"{name} {rate / 1e9:.0f} GMAC/s" for name, rate in bench.ceilings.items())
    print(f"{bench.machine['device']}, {bench.machine['threads']} threads, torch {bench.machine['torch']}; ceiling: {ceilings}; batch {bench.batch}")
    print("\n".join(str(path) for path in write_bench(bench, chosen.out)))


# -- export ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Export:
    """Write a model as one file that other programs run. The file is run and compared with the model before it gets its name."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a run, of a checkpoint or of a saved model; a name of timm's; a repository of the hub."""
    to: Literal["onnx", "pt2"] = "onnx"
    """ONNX, or PyTorch's exported program."""
    out: Path | None = None
    """The file; MODEL.onnx or MODEL.pt2 here, or model.onnx in the folder, if not given."""
    img_size: int | None = None
    """Side of the images; the model's own if not given. Their number is free."""
    attention: str | None = None
    """Convert to this first: a name out of `foveal list`, or a configuration as JSON."""
    where: str = "*"
    """Which modules are converted: a glob on their names."""
    pretrained: bool = False
    """Fetch the weights of timm's model; they are random if not."""


@_verb
def _export(words: list[str]) -> None:
    """Write a model as ONNX or as a PyTorch program, checked: export RUN|MODEL"""
    chosen: _Export = _parse(_Export, "export", words)
    from .export import example_images, export_model, find_model

    model = find_model(chosen.model, attention=chosen.attention, where=chosen.where, img_size=chosen.img_size, pretrained=chosen.pretrained)
    folder = Path(chosen.model)
    out = chosen.out or (folder / f"model.{chosen.to}" if folder.is_dir() else Path(f"{chosen.model.rpartition('/')[2]}.{chosen.to}"))
    done = export_model(model, out, example_images(model, chosen.img_size), to=chosen.to)
    print(f"{done.format}: images (any number, {', '.join(map(str, done.shape))}); differs from the model by at most {done.error:.1e}\n{done.path}")


# -- info -----------------------------------------------------------------------------------------------------------------------------------------


_PACKAGES: tuple[str, ...] = ("foveal", "torch", "einops", "timm", "torchvision", "transformers", "accelerate", "peft", "safetensors", "matplotlib")
_PACKAGES += ("huggingface_hub", "onnx", "onnxscript", "onnxruntime")


@_verb
def _info(words: list[str]) -> None:
    """Versions and devices, for bug reports."""
    _parse(_Nothing, "info", words)
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    print(f"python           {platform.python_version()} on {platform.platform(terse=True)}")
    for package in _PACKAGES:
        try:
            print(f"{package:<17}{version(package)}")
        except PackageNotFoundError:
            print(f"{package:<17}not installed")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    print(f"device           {device}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    sys.exit(main())
