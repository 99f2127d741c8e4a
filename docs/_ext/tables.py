"""Tables that the pages show, computed from the library when the site is built. Each returns Markdown."""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

import foveal
import foveal.attention

TABLES: dict[str, Callable[..., str]] = {}
PAGES = Path(__file__).parents[1] / "mechanisms"
# a ViT-B/16 at 224 pixels, and maps of 32, 64 and 128 patches a side, each with a class token
TOKENS = (197, 1025, 4097, 16385)
DIM, HEADS = 768, 12


def table(function: Callable[..., str]) -> Callable[..., str]:
    TABLES[function.__name__] = function
    return function


def page_of(name: str) -> str:
    """The page of a registered attention: that of its file."""
    return foveal.attention.attention_class(name).__module__.rpartition(".")[2].removesuffix("_2d")


@table
def attentions() -> str:
    """Every registered attention, by family."""
    rows = []
    for family, meeting in foveal.attention.FAMILIES.items():
        for place, name in enumerate(foveal.list_attentions(family=family)):
            cls, page = foveal.attention.attention_class(name), page_of(name)
            shown = f"[`{name}`](/mechanisms/{page}.md)" if (PAGES / f"{page}.md").exists() else f"`{name}`"
            # a family is named on its first line alone
            rows.append(("" if place else f"**{family}**: {meeting}", shown, cls.form, _first_sentence(cls)))
    return _markdown(("how tokens meet", "name", "on", "what it is"), rows)


@table
def head(module: str) -> str:
    """Paper, official code and status, out of the head of a mechanism's file; family, form and names out of the registry."""
    fields = read_head(module)
    page = module.rpartition(".")[2]
    names = [name for name in foveal.list_attentions() if page_of(name) == page]
    lines = [("Names", "; ".join(f"`{name}` ({foveal.attention.attention_class(name).form})" for name in names))]
    if names:
        family = foveal.attention.attention_class(names[0]).family
        lines.append(("Family", f"{family}, where {foveal.attention.FAMILIES[family]}"))
    lines.append(("Paper", re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", fields["Paper"])))
    lines.append(("Official code", re.sub(r"[\w.-]+/[\w.-]+", r"[\g<0>](https://github.com/\g<0>)", fields["Official"])))
    lines.append(("Status", fields["Status"]))
    return "\n".join(f"- **{name}**: {text}" for name, text in lines if text)


@table
def differs(module: str) -> str:
    """The head's own list of what differs from the paper and from the official code."""
    return read_head(module)["Differs"]


@table
def notes(module: str) -> str:
    """The head's notes."""
    return read_head(module)["Note"]


@table
def cost(*names: str) -> str:
    """Parameters and multiply-adds of one layer by number of tokens, with softmax attention for comparison."""
    rows = []
    for name in dict.fromkeys(("softmax", *names)):
        module = foveal.create_attention(name, dim=DIM, num_heads=HEADS)
        costs = [module.cost(tokens) for tokens in TOKENS]
        rows.append((f"`{name}`", f"{costs[0].parameters / 1e6:.2f} M", *(_macs(cost.macs) for cost in costs)))
    return _cost_table("attention", rows, f"`foveal.create_attention(name, dim={DIM}, num_heads={HEADS}).cost(tokens)`")


@table
def core_costs() -> str:
    """Multiply-adds of denoising over each core, and of softmax attention."""
    rows = []
    for core in ("softmax", "halo", "efficient", "linear"):
        module = foveal.DenoisingAttention(DIM, HEADS, core=core)
        costs = [module.cost(tokens) for tokens in TOKENS]
        rows.append((f"denoising, `core={core!r}`", f"{costs[0].parameters / 1e6:.2f} M", *(_macs(cost.macs) for cost in costs)))
    plain = foveal.SoftmaxAttention(DIM, HEADS)
    rows.append(("softmax", f"{plain.cost(1).parameters / 1e6:.2f} M", *(_macs(plain.cost(tokens).macs) for tokens in TOKENS)))
    return _cost_table("attention", rows, f"`foveal.DenoisingAttention({DIM}, {HEADS}, core=core).cost(tokens)`")


@table
def map_cost(*names: str) -> str:
    """Parameters and multiply-adds of attentions on maps."""
    sides = (16, 64, 256)
    rows = []
    for name in names:
        module = foveal.create_attention(name, 256)
        costs = [module.cost(side, side) for side in sides]
        rows.append((f"`{name}`", f"{costs[0].parameters:,}", *(_macs(cost.macs) for cost in costs)))
    header = ("attention on maps", "parameters", *(f"{side}×{side}" for side in sides))
    return _markdown(header, rows, numbers=range(1, len(header))) + "\n\n`foveal.create_attention(name, 256).cost(height, width)`, when this page was built."


@table
def measured(name: str) -> str:
    """What the page of proofs says of a mechanism; nothing where there is no such page yet, or no such line."""
    page, found = PAGES.parent / "proofs.md", []
    for section in page.read_text(encoding="utf8").split("\n## ")[1:] if page.exists() else []:
        title = section.partition("\n")[0]
        figure = re.search(r"^Figure: (.+)\.$", section, re.MULTILINE)
        task = f"[{title}](/proofs.md#{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')})" + (f": {figure[1]}" if figure else "")
        lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in section.splitlines() if line.startswith("| ")]
        for row in (dict(zip(lines[0], line, strict=False)) for line in lines[1:]):
            if re.match(rf"{name}\b", row["mechanism"]):
                found.append((task, row["mechanism"], f"{row['mean']} ({row['lowest – highest']})", row["reading"]))
                # a task is named on its first line alone
                task = ""
    if not found:
        return ""
    return "Measured; the linked page says how, when and on what:\n\n" + _markdown(("task", "what", "mean over seeds (lowest – highest)", "reading"), found)


@table
def compared(name: str) -> str:
    """What the page of the comparison says of a mechanism, in its own words."""
    lines = (PAGES.parent / "comparison.md").read_text(encoding="utf8").splitlines()
    found = [line for line in lines if re.match(rf"- (?:\S )?{name}(?![\w-])", line)]
    return "\n".join(["From [the default comparison](/comparison.md), which says how it was made:", "", *found]) if found else ""


@table
def studied(what: str) -> str:
    """Out of the data beside the page of the study of denoising: ``primary``, what became of its primary hypotheses, or ``angles``, the sentence on angles."""
    from foveal.lab.study.page import angle_sentence

    data = PAGES.parent / "study-denoising.json"
    if not data.exists():
        return "The registered study has no page here yet; `foveal study denoising --page docs/study-denoising.md` runs what is left of it and writes one."
    registrations = json.loads(data.read_text("utf8"))["registrations"]
    if what == "angles":
        parts = {name: part for one in registrations for name, part in one["parts"].items() if "angles" in part}
        return f"{angle_sentence(parts)} [Figure and numbers](/study-denoising.md#principal-angles)." if parts else "Parts A1 and A2 were not run to their end."
    primary = [one for registration in registrations for one in registration["hypotheses"] if one["primary"]]
    rows = [(one["id"], one["says"], f"**{one['outcome']}**" if one["outcome"] != "not judged" else f"not judged: {one['why']}") for one in primary]
    return _markdown(("primary hypothesis", "said before", "outcome"), rows) + "\n\nNumbers, power, and all other hypotheses: [the page](/study-denoising.md)."


@table
def official_kinds() -> str:
    """Kinds of checkpoints that can be loaded."""
    return "Kinds: " + ", ".join(f"`{name}`" for name in foveal.official.list_kinds()) + "."


@table
def published_models() -> str:
    """Every network registered with timm, counted, beside what its paper says."""
    # here: timm takes longer to import than all that the other tables need
    from foveal.timm._table import HEADER, rows

    table = _markdown(HEADER, rows(), numbers=(1, 3))
    return table + "\n\n`python -m foveal.timm`, when this page was built; multiply-adds are of one sample at the size of the default configuration."


@table
def public_names(module: str) -> str:
    """The public names of a module, each a link to where it is documented."""
    loaded = importlib.import_module(module)
    rows = []
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if inspect.ismodule(value) or name.startswith("_"):
            continue
        role = "class" if inspect.isclass(value) else "func" if callable(value) else "data"
        about = _first_sentence(value) if role != "data" else ""
        rows.append((f"{{py:{role}}}`{name} <{documented_as(module, name)}>`", about))
    return _markdown(("name", "what it is"), rows)


@table
def imagenet_recipes() -> str:
    """Every recipe on ImageNet: its network, its training, and what is published of the network."""
    from foveal.lab.data import ImageNet
    from foveal.lab.recipes import get_recipe, list_recipes
    from foveal.lab.recipes.imagenet import IMAGES
    from foveal.timm import PUBLISHED, TimmModel

    rows = []
    for name in list_recipes():
        recipe = get_recipe(name)
        if not (isinstance(recipe.data, ImageNet) and isinstance(recipe.model, TimmModel)):
            continue
        with torch.device("meta"):
            network = recipe.model.build(img_size=recipe.data.img_size, in_chans=3, num_classes=1000)
        optim, published = recipe.optim, PUBLISHED.get(recipe.model.name)
        rows.append(
            (
                f"`{name}`",
                f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M",
                str(recipe.data.img_size),
                str(recipe.steps // (IMAGES // recipe.batch_size)),
                f"{recipe.batch_size:,}" + (f", each image {recipe.repeats} times" if recipe.repeats > 1 else ""),
                f"{optim.optimizer}, {optim.lr:g}, {optim.weight_decay:g}",
                (published.result if published else "") or "none known",
            )
        )
    return _markdown(("recipe", "parameters", "pixels", "epochs", "batch", "optimizer, learning rate, decay", "a source says"), rows, numbers=(1, 2, 3))


@table
def gallery_tasks() -> str:
    """The pictures that ``python -m benchmarks.gallery`` made, each with its command and how long it was trained."""
    from benchmarks.gallery import LEFT_OUT, TASKS, command

    folder = PAGES.parent / "gallery"
    runs = json.loads((folder / "runs.json").read_text("utf8")) if (folder / "runs.json").exists() else {}
    parts = []
    for name, shown in TASKS.items():
        if name not in runs:
            continue
        run = runs[name]
        title = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
        made = f"Trained for {run['cpu_seconds']} CPU seconds on one core, {run['date']}: {run['metric']} {run['value']}. {shown.about}"
        parts.append(f"### {title.capitalize()}\n\n`{command(shown)}`\n\n```{{figure}} /gallery/{name}.webp\n:alt: {shown.about}\n\n{made}\n```")
    waiting = [f"`{name}`" for name in TASKS if name not in runs]
    if waiting:
        parts.append(f"Not drawn yet: {', '.join(waiting)}; `python -m benchmarks.gallery TASK` does.")
    parts.append("Without a picture: " + "; ".join(f"`{name}`, which {why}" for name, why in LEFT_OUT.items()) + ".")
    return "\n\n".join([*parts, "Written by `python -m benchmarks.gallery`."])


def documented_as(module: str, name: str) -> str:
    """Where the site documents a public name: the library's own modules export some of ``foveal.attention``'s names again."""
    return f"foveal.{name}" if name in foveal.__all__ else f"{module}.{name}"


def read_head(module: str) -> dict[str, str]:
    """The fields at the head of a mechanism's file: a name in the first column, text in the second, which goes on below."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        if start := re.match(r"([A-Z][a-z]+) {2,}(\S.*)", line):
            name = start[1]
            found[name] = [start[2]]
        elif name is not None and line.startswith("  "):
            found[name].append(line.strip())
        else:
            name = None
    return {name: " ".join(lines) for name, lines in found.items()}


def _first_sentence(value: object) -> str:
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    first = paragraph.split(". ")[0].rstrip(".") + "."
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", first).replace("|", r"\|")


def _macs(count: int) -> str:
    return f"{count / 1e9:,.2f} G" if count >= 1e8 else f"{count / 1e6:,.2f} M"


def _cost_table(what: str, rows: Sequence[Sequence[str]], made_by: str) -> str:
    header = (what, "parameters", *(f"{tokens:,} tokens" for tokens in TOKENS))
    return _markdown(header, rows, numbers=range(1, len(header))) + f"\n\nMultiply-adds of one sample: {made_by}, when this page was built."


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)
    rule = ["--:" if column in right else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
