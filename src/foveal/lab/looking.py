"""Any model and one image: where it looks. What ``foveal inspect`` does for models that are no runs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from .._weights import read_saved
from ..analysis import attention_maps, chance_angles, lambdas, look_from, rollout, token_layout, value_angles
from ..analysis.maps import between_tokens
from ..analysis.pictures import write_map_sheet, write_rollout
from ..attention import DenoisingAttention, attention_class
from ..convert import Where, convert_

__all__ = ["Opened", "inspect_model", "open_model"]


@dataclass
class Opened:
    """A model to look into, and how an image is made ready for it."""

    name: str
    model: nn.Module
    prepare: Callable[[Any], Tensor]
    """From a PIL image to the model's input, ``(C, H, W)``."""
    labels: dict[int, str] = field(default_factory=dict)
    trained: bool = True
    notes: list[str] = field(default_factory=list)
    """What a reader of the maps should know."""


def open_model(what: str, *, model: str | None = None, random_weights: bool = False) -> Opened:
    """A model by name, folder or file. Weights are the pretrained ones, or random where that is asked for; never random because others are missing.

    Args:
        what: a name that timm knows, with or without ``timm:`` in front; ``hf:NAME``, or a folder with a ``config.json``, for transformers; a
            ``.safetensors`` file, or one of ``torch.save``, which is read without executing what may be in it.
        model: timm's name of the model that a file of weights is for.
        random_weights: build the model and load nothing.

    Raises:
        ValueError: no such model; weights that are not there, do not fit, or leave a part of the model without.
    """
    path = Path(what)
    if path.is_file():
        if model is None:
            raise InputError(f"{what} holds weights and not what they are for; name the model, as in --model vit_small_patch16_224")
        if random_weights:
            raise InputError(f"weights of {what} or random ones: give the file or --weights random, not both")
        return _from_file(path, model)
    if model is not None:
        raise InputError(f"--model says what a file of weights is for, and {what} is no file")
    if what.startswith("hf:") or (path / "config.json").is_file():
        return _of_transformers(what.removeprefix("hf:"), random_weights)
    return _of_timm(what.removeprefix("timm:"), what, random_weights)


def inspect_model(
    opened: Opened, image: Any, folder: Path, *, attention: str | None = None, where: Where = "*", title: str | None = None
) -> tuple[list[str], list[Path]]:
    """Draw the maps of all layers and heads, and their rollout.

    Args:
        opened: the model.
        image: a PIL image.
        folder: for ``maps.png``, ``maps.html`` and ``rollout.png``.
        attention: convert the model to this one first, with its default options.
        where: what is converted, or if nothing is, what is looked at.
        title: of the page; the model's name if None.

    Returns:
        What is to be said, in lines, and the files.

    Raises:
        ValueError: the model has no attention over the whole image.
    """
    model, inputs = opened.model.eval(), opened.prepare(image)[None]
    notes = list(opened.notes)
    if attention is not None:
        report = convert_(model, attention_class(attention).Config(), where)
        outputs = sorted({swap.output for swap in report.swaps})
        notes.append(f"{len(report.swaps)} attentions converted to {attention}, untrained: the output is {' or '.join(outputs)}")
    size = (inputs.shape[-2], inputs.shape[-1])
    refused: dict[str, InputError] = {}
    looks: dict[str, str] = {}

    def reduce(layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        combined = maps["combined"]
        try:
            if len(combined) != 1:
                raise InputError(f"{layer} attends in {len(combined)} windows, and not over the image")
            layout = token_layout(model, combined.shape[-1], size)
        except InputError as error:
            refused[layer] = error
            return {}
        looks[layer] = "the query of the pooling head" if combined.shape[-2] == 1 else layout.looks
        # copied, for a view would keep the whole map
        return {name: look_from(value, layout)[0].clone() for name, value in between_tokens(maps).items()}

    with warnings.catch_warnings():
        # the notes below say it
        warnings.filterwarnings("ignore", message=r"the maps of \d+ attentions that ran are missing")
        maps = attention_maps(model, inputs, where="*" if attention is not None else where, reduce=reduce)
    drawn = {layer: named for layer, named in maps.items() if named}
    if not drawn:
        raise InputError(f"no layer has maps over the whole image: {next(iter(refused.values()))}")
    caption = f"where {_of_most(looks)} looks"
    if refused:
        notes.append(f"not drawn: {', '.join(refused)}")
    notes += [f"no map of {name}: {reason}" for name, reason in maps.missing.items()]
    about = [opened.name + ("" if opened.trained else ", weights drawn at random: nothing was learned"), *_prediction(opened, inputs), caption, *notes]
    title = title or opened.name
    write_map_sheet(inputs[0], drawn, folder, title=title, about="; ".join(line for line in about if line is not caption), caption=caption)
    files = [folder / "maps.png", folder / "maps.html"]
    try:
        rolled = rollout(model, inputs, where="*" if attention is not None else where)
        layout = token_layout(model, rolled.shape[-1], size)
        picture = look_from(rolled, layout)[0]
    except InputError as error:
        about.append(f"no rollout: {error}")
    else:
        files.append(write_rollout(inputs[0], picture, folder, caption=f"where {layout.looks} looks, through all layers"))
    return about + _denoising(model), files


def _of_most(looks: dict[str, str]) -> str:
    """Who looks in the pictures; layers in which others do, by name."""
    kinds = list(looks.values())
    most = max(dict.fromkeys(kinds), key=kinds.count)
    others = [f"in {layer} {who}" for layer, who in looks.items() if who != most]
    return most + (f" ({', '.join(others)})" if others else "")


@torch.no_grad()
def _prediction(opened: Opened, inputs: Tensor) -> list[str]:
    output = opened.model(inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not opened.trained or logits is None or logits.ndim != 2 or not opened.labels:
        return []
    chance = logits.softmax(-1)[0]
    best = int(chance.argmax())
    return [f"predicted {opened.labels.get(best, f'class {best}')} with probability {chance[best]:.0%}"]


def _denoising(model: nn.Module) -> list[str]:
    """λ and the principal angles of V⁺ and V⁻, a line a layer, beside what chance shows."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DenoisingAttention)}
    strengths, angles = lambdas(model), value_angles(model)
    if not strengths:
        return []
    lines = ["", f"layer: λ of its heads (mean, least, most){'; angles of V⁺ and V⁻ in degrees (smallest, mean over heads)' if angles else ''}"]
    for name, own in strengths.items():
        line = f"  {name}: λ {sum(own) / len(own):.3f} ({min(own):.3f} to {max(own):.3f})"
        heads = [head for head in angles if head.layer == name]
        if heads:
            line += f"; {min(head.smallest for head in heads):.1f}°, {sum(head.mean for head in heads) / len(heads):.1f}°"
        lines.append(line)
    for dim, width in sorted({(module.dim, module.head_dim) for module in layers.values() if module.v_neg is not None}):
        smallest, mean = chance_angles(dim, width, samples=8)
        lines.append(f"  by chance, {width} of {dim} dimensions: {smallest:.1f}°, {mean:.1f}°")
    return lines


# -- where models come from -----------------------------------------------------------------------------------------------------------------------


def _of_timm(name: str, given: str, random_weights: bool) -> Opened:
    timm = _timm()
    if not timm.is_model(name):
        known = timm.list_models()
        if Path(given).exists() or "/" in given or given.startswith("."):
            raise InputError(f"{given} is no run, no folder with a config.json and no file of weights")
        error = unknown("model of timm", name, [word for word in known if word[:3] == name[:3]])
        raise InputError(f"{given} is no run, no folder with a config.json and no file of weights; {error}; others: timm.list_models()")
    try:
        model = timm.create_model(name, pretrained=not random_weights)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(_no_weights(name, error)) from error
    return _prepared_by_timm(name, model, not random_weights)


def _from_file(path: Path, name: str) -> Opened:
    timm = _timm()
    if not timm.is_model(name):
        raise unknown("model of timm", name, [word for word in timm.list_models() if word[:3] == name[:3]])
    weights = _read(path)
    empty = timm.create_model(name, pretrained=False)
    head = empty.pretrained_cfg.get("classifier")
    own = weights.get(f"{head}.weight") if isinstance(head, str) else None
    classes = empty.num_classes if not isinstance(head, str) else 0 if own is None else len(own)
    model = timm.create_model(name, pretrained=False, num_classes=classes) if classes != empty.num_classes else empty
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = [key for key, value in weights.items() if key in wanted and wanted[key].shape != value.shape]
    if missing or extra or other:
        said = [f"{what} {len(keys)}, as {keys[0]}" for what, keys in (("missing", missing), ("not of it", extra), ("of another shape", other)) if keys]
        raise InputError(f"{path} does not hold the weights of {name}: {'; '.join(said)}")
    model.load_state_dict(weights)
    return _prepared_by_timm(f"{name}, weights of {path.name}", model, True)


def _read(path: Path) -> dict[str, Tensor]:
    found = read_saved(path)
    for key in ("state_dict", "model"):
        found = found[key] if isinstance(found, dict) and isinstance(found.get(key), dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no weights by name; expected a state dict, alone or as 'state_dict' or 'model'")
    return found


def _prepared_by_timm(name: str, model: Any, trained: bool) -> Opened:
    from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

    settings = resolve_model_data_config(model)
    transform = create_transform(**settings, is_training=False)
    mode = "L" if settings["input_size"][0] == 1 else "RGB"
    labels: dict[int, str] = {}
    if getattr(model, "num_classes", 0) == 1000:
        info = ImageNetInfo()
        labels = {index: info.index_to_description(index) for index in range(1000)}
    return Opened(name, model, lambda image: transform(image.convert(mode)), labels, trained)


def _of_transformers(name: str, random_weights: bool) -> Opened:
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "hf", "a model of transformers") from error
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kinds = [getattr(transformers, kind) for kind in config.architectures or [] if hasattr(transformers, kind)]
        kind = kinds[0] if kinds else transformers.AutoModel
        if random_weights:
            model = kind(config) if kinds else kind.from_config(config)
            missing: Any = []
        else:
            model, info = kind.from_pretrained(name, output_loading_info=True)
            missing = sorted(info["missing_keys"])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(_no_weights(name, error)) from error
    if missing:
        raise InputError(f"{name} lacks {len(missing)} weights of a {type(model).__name__}, as {missing[0]}, which would be random")
    tower: Any = getattr(model, "vision_model", model)
    notes = [] if tower is model else ["the vision tower alone"]
    prepare = _processor(transformers, name, getattr(config, "vision_config", config), notes)
    labels = config.id2label if hasattr(model, "classifier") else {}
    return Opened(name, tower, prepare, dict(labels or {}), not random_weights, notes)


def _processor(transformers: Any, name: str, config: Any, notes: list[str]) -> Callable[[Any], Tensor]:
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        side = getattr(config, "image_size", None)
        if not isinstance(side, int):
            raise InputError(f"{name} has no preprocessor_config.json, and its configuration no image_size: how images are made ready is not known") from None
        notes.append(f"no preprocessor_config.json: the image was brought to {side}×{side}, and from −1 to 1")
        return lambda image: _plain(image, side)
    return lambda image: processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]


def _plain(image: Any, side: int) -> Tensor:
    small = image.convert("RGB").resize((side, side))
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(side, side, 3)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def _no_weights(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"cannot load {name}: {reason[0]}; give a local folder or file, or --weights random to look at an untrained model"


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "timm", "a model by timm's name") from error
    return timm
