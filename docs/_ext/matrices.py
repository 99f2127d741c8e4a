"""What goes with what: mechanisms into hosts, tried when the site is built, and mechanisms in tasks, read off the recipes. Each returns Markdown."""

import json
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from kept import BUILD, sign
from tables import _markdown, table
from torch import Tensor, nn

import foveal
from foveal.attention import attention_class

# small windows, so that halo attention fits maps of four tokens a side
OPTIONS: dict[str, dict[str, Any]] = {name: {"block_size": 2, "halo_size": 1} for name in ("halo", "halo_2d")}
VERDICTS = ("whole", "whole by name", "changed", "part", "refused", "no softmax", "fault")
UNSEEN = ("no attention", "not built")


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=3, **options)


def _torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 1, 2, 16, 32)


def _transformers() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))


IMAGES, TOKENS = (1, 3, 32, 32), (1, 9, 16)
HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "timm ViT": (lambda: _timm("test_vit", img_size=32, patch_size=8), IMAGES),
    "timm EVA (rotary)": (lambda: _timm("eva02_tiny_patch14_224", img_size=28, patch_size=7, embed_dim=24, depth=1, num_heads=2), (1, 3, 28, 28)),
    "timm Swin": (lambda: _timm("swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 2)), IMAGES),
    "torchvision ViT": (_torchvision, IMAGES),
    "transformers ViT": (_transformers, IMAGES),
    "`nn.TransformerEncoderLayer`": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), TOKENS),
    "timm ResNet, behind a stage": (lambda: _timm("resnet10t"), (1, 3, 64, 64)),
}


def _output(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return out if isinstance(out, Tensor) else out.last_hidden_state


def put(name: str, host: str, warm_start: str | None = None) -> str:
    """What conversion says of a mechanism in a host; the reason where it refuses."""
    cls = attention_class(name)
    build, shape = HOSTS[host]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    with torch.no_grad():
        before = _output(model, x)
    config = cls.Config(**OPTIONS.get(name, {}))
    if cls.form == "2d":
        foveal.insert_(model, config, after="layer2")
        claims = {"identical"}
    else:
        report = foveal.convert_(model, config, **({"warm_start": warm_start} if warm_start else {}))
        claims = {swap.output for swap in report.swaps}
    after = _output(model, x)
    after.square().sum().backward()
    equal = torch.allclose(after, before, atol=1e-4 * max(1.0, before.abs().max().item()))
    said = "same" if claims == {"identical"} else "another"
    assert not (said == "same" and not equal), f"{name} in {host}: the report says identical, and outputs differ"
    return said


def place(name: str, host: str) -> tuple[str, str]:
    """A cell of the table, and the reason of a refusal."""
    cls = attention_class(name)
    if (cls.form == "2d") != host.endswith("stage"):
        return "–", ""
    try:
        said = put(name, host)
    except foveal.InputError as error:
        return "–", str(error).partition("; known")[0]
    if said == "another" and cls.form == "tokens" and cls.takes_warm_start:
        said = "starts same" if put(name, host, "exact") == "same" else said
    return said, ""


def in_hosts() -> dict[str, list[list[str]]]:
    """By mechanism, a cell and the reason of a refusal for each of :data:`HOSTS`."""
    from filelock import FileLock

    path, now = BUILD / "mechanism-hosts.json", sign(Path(__file__))
    BUILD.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists() and (found := json.loads(path.read_text("utf8")))["sign"] == now:
            return found["cells"]
        with warnings.catch_warnings():
            # of hosts that say how they would rather be called
            warnings.simplefilter("ignore")
            cells = {name: [list(place(name, host)) for host in HOSTS] for name in foveal.list_attentions()}
        path.write_text(json.dumps({"sign": now, "cells": cells}), "utf8")
        return cells


@table
def mechanism_hosts() -> str:
    """Every mechanism put into every host, and why not where not."""
    rows, reasons = [], []
    for name, cells in in_hosts().items():
        rows.append((f"`{name}`", *(cell for cell, _ in cells)))
        reasons += [f"- `{name}` in {host}: {reason}" for host, (_, reason) in zip(HOSTS, cells, strict=True) if reason]
    return _markdown(("mechanism", *HOSTS), rows) + ("\n\n" + "\n".join(reasons) if reasons else "")


@table
def host_families() -> str:
    """The page of hosts, counted by library."""
    data = json.loads((Path(__file__).parents[1] / "hosts.json").read_text("utf8"))
    libraries: dict[str, Counter[str]] = {}
    for row in data["rows"]:
        verdict = row.get("verdict", "")
        if verdict == "part" and row.get("by name", {}).get("verdict") == "whole":
            verdict = "whole by name"
        if verdict not in UNSEEN:
            # whatever has no column of its own went wrong, and is not to fall out of the table
            verdict = verdict if verdict in VERDICTS else "fault"
            libraries.setdefault(row["library"], Counter())[verdict] += 1
    rows = [(library, *(str(counts[verdict]) for verdict in VERDICTS)) for library, counts in libraries.items()]
    about = f"`python -m tests.sweep --quick --write`, {data['date']}; {data['versions']}."
    return _markdown(("library", *VERDICTS), rows, numbers=range(1, 1 + len(VERDICTS))) + "\n\n" + about


def _by_default(model: Any) -> set[str]:
    """Mechanisms that a recipe's network has, by their registered names."""
    names = set(foveal.list_attentions())
    if getattr(model, "halo_stages", ()):
        return {"halo_2d"} | {getattr(model, "attention", None)} & names
    if (own := getattr(model, "attention", None)) in names:
        # a language model without probes has none, whatever they would read by
        return {own} if getattr(model, "num_probes", 1) else set()
    if type(model).__name__ != "TimmModel":
        return set()
    import timm

    # the published networks register when it is imported
    import_module("foveal.timm")

    # a published network is asked what it is made of
    built = timm.create_model(model.name, device="meta", **(model.options or {}))
    found = {type(module).name for module in built.modules() if getattr(type(module), "name", None) in names}
    # beside another one softmax is what was left of the host
    return found - {"softmax"} if len(found) > 1 else found


def in_recipes() -> tuple[dict[str, dict[str, list[str]]], dict[str, set[str]]]:
    """By task, in words: recipes by the mechanism that they have, and the mechanisms that a comparison puts there by name."""
    from foveal.lab.recipes import get_recipe, list_recipes

    tasks: dict[str, dict[str, list[str]]] = {}
    takes: dict[str, set[str]] = {}
    for recipe in list_recipes():
        made = get_recipe(recipe)
        task = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(made.task).__name__).strip()
        own = tasks.setdefault(task, {})
        takes.setdefault(task, set()).update(made.model.arms())
        for name in _by_default(made.model):
            own.setdefault(name, []).append(recipe)
    return tasks, takes


@table
def mechanism_tasks() -> str:
    """Which recipes of a task have a mechanism, or take it in a comparison."""
    tasks, takes = in_recipes()
    rows = []
    for task, own in tasks.items():
        default = [f"`{name}`: {_some(own[name])}" for name in foveal.list_attentions() if name in own]
        others = [f"`{name}`" for name in foveal.list_attentions() if name in takes[task] and name not in own]
        rows.append((task, "; ".join(default) or "–", ", ".join(others) or "–"))
    return _markdown(("task", "by default, in recipes", "variants of a comparison"), rows)


def _some(recipes: list[str]) -> str:
    return ", ".join(recipes[:2]) + (f" and {len(recipes) - 2} more" if len(recipes) > 2 else "")
