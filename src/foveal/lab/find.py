"""Which model a word on the command line means: a run, one of its checkpoints, a saved folder, timm's name, or a repository of the hub."""

from pathlib import Path
from typing import Any

from torch import nn

from .._errors import InputError, missing_extra
from ..attention import AttentionConfig, config_from_dict
from ..convert import convert_
from ..hub import from_pretrained

__all__ = ["find_model"]


def find_model(
    what: str,
    *,
    attention: str | None = None,
    where: str = "*",
    img_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """The model in evaluation mode, converted if an attention is named.

    Args:
        what: folder of a finished run, of one of its checkpoints, or of ``foveal.save_pretrained``; a name of ``timm.list_models()``, those of ``foveal.timm``
            among them; or a repository of the hub that ``foveal.push_to_hub`` made, ``"owner/name"``.
        attention: a registered name, or a configuration as JSON, such as ``'{"attention": "halo", "block_size": 7}'``.
        where: a glob on the names of the modules that are converted.
        img_size: side of the images, for timm's models of a fixed size.
        pretrained: fetch timm's weights; at random if not.

    Raises:
        ValueError: nothing of that name; what :func:`foveal.convert_` refuses.
    """
    path = Path(what)
    model = _in_folder(path) if path.exists() else _by_name(what, img_size, pretrained)
    if attention is not None:
        convert_(model, _config(attention), where)
    elif where != "*":
        raise InputError(f"where={where!r} says what is converted, and no attention is named; give --attention as well")
    return model.eval()


def _config(text: str) -> AttentionConfig:
    return AttentionConfig.from_json(text) if text.lstrip().startswith("{") else config_from_dict({"attention": text})


def _in_folder(path: Path) -> nn.Module:
    if (path / "recipe.json").exists():
        from .training import load_run

        return load_run(path)[2]
    if (path / "checkpoint.json").exists():
        return _of_checkpoint(path)
    if (path / "config.json").exists():
        return from_pretrained(path)
    raise InputError(
        f"{path} is no run (recipe.json), no checkpoint of one (checkpoint.json), and no saved model (config.json); "
        "expected one of these folders, or a name of timm's"
    )


def _of_checkpoint(path: Path) -> nn.Module:
    from .training import Recipe, build_model, load_data, read_checkpoint, read_json, restore

    file = path.resolve().parents[1] / "recipe.json"
    recipe = Recipe.from_dict(read_json(file))
    saved = read_checkpoint(path, recipe.to_dict())
    model: nn.Module = build_model(recipe, load_data(recipe.data))
    restore(model, saved["weights"] if saved["ema"] is None else saved["ema"], path)
    return model


def _by_name(what: str, img_size: int | None, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "timm", "a model by name") from error
    from .. import timm as _  # noqa: F401  # our published networks are among the names

    if not timm.is_model(what):
        if what.count("/") == 1 and not what.startswith((".", "/", "~")):
            return from_pretrained(what)
        near = timm.list_models(f"*{what}*")[:3]
        raise InputError(f"{what} is no folder and no model of timm{'; near: ' + ', '.join(near) if near else ''}; timm.list_models() lists the names")
    options: dict[str, Any] = {}
    cfg = timm.models.get_pretrained_cfg(what)
    if img_size is not None and cfg is not None and cfg.fixed_input_size:
        options["img_size"] = img_size
    try:
        return timm.create_model(what, pretrained=pretrained, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"timm does not give {what}{' with its weights' if pretrained else ''}: {error}") from error
