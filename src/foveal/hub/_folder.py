"""A model in a folder: config.json says how it is built and what was converted, model.safetensors holds every weight, README.md is its card.

The weights' fingerprint stands in config.json, so that one cannot be read with the other of another model.
"""

import importlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra
from .._files import check_folder, flush, flush_folder, parse_json
from ..convert._digest import digests, fingerprint
from ..convert._record import is_converted, layout_of, record_of
from ..convert._steps import check_steps, replay_, steps_of
from ._base import Base, base_of, build_base, read_base
from ._card import Card, write_card
from ._same import differences

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]

_FORMAT = "foveal-model-1"
_CONFIG, _WEIGHTS, _README = "config.json", "model.safetensors", "README.md"
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar"}
_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    base: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    card: Card | None = None,
) -> Path:
    """Write a model, converted or not, so that :func:`from_pretrained` gives it back to the last bit.

    What was written is read again and held against the model before it is put in place.

    Args:
        model: converted by ``foveal.convert_``, of ``foveal.models``, or as its library built it.
        folder: made if it is not there. Files of the same names in it are replaced.
        base: how the model was built before conversion, ``"library:name"``: ``"torchvision:vit_b_16"``, ``"timm:VisionTransformer"``. Models of transformers
            and of ``foveal.models``, and those of ``timm.create_model``, say it themselves. Of any other, loading needs ``build=``.
        kwargs: arguments that it was built with, as JSON can hold them; for timm, those besides ``num_classes``, ``in_chans`` and ``img_size``.
        card: data, command and metrics for the card.

    Returns:
        The folder.

    Raises:
        ValueError: base and arguments do not build this model; the folder cannot be written to.
    """
    folder = Path(folder)
    check_folder(folder)
    if kwargs is not None and base is None:
        said = base_of(model)
        if not said.library:
            raise InputError(f"kwargs say how a base is built; name it, such as base='torchvision:vit_b_16' (the model is a {said.name})")
        base = f"{said.library}:{said.name}"
        kwargs = said.kwargs | dict(kwargs)
    what = base_of(model) if base is None else read_base(base, kwargs)
    state = model.state_dict()
    if meta := [name for name, value in state.items() if value.is_meta]:
        raise InputError(f"{meta[0]} has no memory (it is on the meta device), so there is nothing to save; load the weights first")
    about = {
        "format": _FORMAT,
        "base": {"library": what.library, "name": what.name, "kwargs": what.kwargs},
        "conversion": _conversion(model),
        "weights": {"file": _WEIGHTS, "fingerprint": fingerprint(digests(state))},
        "versions": _versions(what),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_weights(partial / _WEIGHTS, state)
        flush(partial / _CONFIG, (json.dumps(about, indent=1) + "\n").encode())
        flush(partial / _README, write_card(card or Card(), about, sum(p.numel() for p in model.parameters())).encode())
        if what.library:
            _check(model, partial, what)
        folder.mkdir(exist_ok=True)
        # a config beside the weights of another model, after a crash between the two, is found out by the fingerprint
        for name in (_WEIGHTS, _README, _CONFIG):
            (partial / name).replace(folder / name)
        flush_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def from_pretrained(
    source: str | Path,
    *,
    build: Callable[[], nn.Module] | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> nn.Module:
    """The model that :func:`save_pretrained` wrote, in evaluation mode.

    Args:
        source: a folder, or a repository of the hub, ``"owner/name"``, of which only the configuration, the safetensors and the card are fetched.
        build: a function without arguments that returns the model as it was before conversion, its weights do not matter; for models of no library that is
            known. Given, it goes before what the folder says.
        revision: of the repository: a branch, a tag or a commit.
        cache_dir: where repositories are kept; the hub's own if None.
        token: for private repositories; the one that is logged in if None.

    Raises:
        ValueError: the folder is of another format, is damaged, or holds pickled code; its model cannot be built; the hub does not give it.
    """
    folder = _local(source, revision, cache_dir, token)
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED):
        raise InputError(
            f"{folder} holds {', '.join(pickled)}: pickled files run whatever code their author put in when they are read, and are never read here; "
            "ask for safetensors, or convert them where you trust them, with safetensors.torch.save_file(torch.load(…, weights_only=True), …), and remove them"
        )
    about = _read_config(folder / _CONFIG)
    what = Base(**about["base"])
    saved = _read_weights(folder / about["weights"]["file"])
    if (got := fingerprint(digests(saved))) != about["weights"]["fingerprint"]:
        raise InputError(
            f"{folder / about['weights']['file']} is damaged or belongs to another model: "
            f"{_CONFIG} promises weights {about['weights']['fingerprint']}, got {got}"
        )
    if build is None and not what.library:
        raise InputError(
            f"{folder} holds a {what.name}, which no library that is known builds; give from_pretrained(…, build=f), where f() returns the model as it was "
            "before conversion"
        )
    model = _structure(about, build)
    _fill(model, saved, folder)
    _remember(model, about)
    return model.eval()


def structure_of(folder: str | Path) -> nn.Module:
    """The model that a folder's config.json describes, with weights that do not matter; no other file of the folder is read.

    Raises:
        ValueError: as :func:`from_pretrained`.
    """
    about = _read_config(Path(folder) / _CONFIG)
    if not about["base"]["library"]:
        raise InputError(f"{folder} holds a {about['base']['name']}, which no library that is known builds")
    model = _structure(about, None)
    _remember(model, about)
    return model


def base_in(folder: str | Path) -> Base:
    """What the model in a folder was before it was converted."""
    return Base(**_read_config(Path(folder) / _CONFIG)["base"])


def _structure(about: dict[str, Any], build: Callable[[], nn.Module] | None) -> nn.Module:
    # a model that is loaded draws no random numbers that the user would miss
    with torch.random.fork_rng(devices=[]):
        model = build_base(Base(**about["base"])) if build is None else build()
        if about["conversion"] is not None:
            replay_(model, about["conversion"]["steps"])
    return model


def _remember(model: nn.Module, about: dict[str, Any]) -> None:
    if about["conversion"] is not None:
        record = record_of(model)
        record.base, record.start, record.new = about["conversion"]["base"], about["conversion"]["start"], set(about["conversion"]["new"])
        record.layout, record.whole = layout_of(model.state_dict()), False


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    base: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    card: Card | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    message: str = "Upload model",
) -> str:
    """:func:`save_pretrained` into a repository of the hub, which is made if it is not there; its address.

    Raises:
        ValueError: as :func:`save_pretrained`; the hub refuses.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(model, Path(place) / repo_id.rpartition("/")[2], base=base, kwargs=kwargs, card=card)
        try:
            api = hub.HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, revision=branch))
        except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
            raise InputError(f"the hub did not take {repo_id}: {error}") from error


def _conversion(model: nn.Module) -> dict[str, Any] | None:
    if not is_converted(model):
        return None
    record = record_of(model)
    return {"base": record.base, "steps": steps_of(model), "new": sorted(record.new), "start": record.start}


def _versions(base: Base) -> dict[str, str]:
    packages = {"torch": "torch", "timm": "timm", "transformers": "transformers", "torchvision": "torchvision", "smp": "segmentation_models_pytorch"}
    out = {"foveal": importlib.import_module("foveal").__version__, "torch": str(torch.__version__)}
    if base.library in packages:
        # one that is not installed is named when the base is built
        with suppress(PackageNotFoundError):
            out[packages[base.library]] = version(packages[base.library])
    return out


def _check(model: nn.Module, folder: Path, base: Base) -> None:
    different = differences(model, from_pretrained(folder))
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise InputError(
            f"{base.library}:{base.name} with {base.kwargs} does not build this model: {'; '.join(different[:3])}{more}; give the kwargs that it was built "
            "with; of a model that was changed by hand, save the state dict, or wrap it into a module of your own and load that with build="
        )


def _fill(model: nn.Module, saved: dict[str, Tensor], folder: Path) -> None:
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in saved] + [f"{name} has no place in the model" for name in saved if name not in own]
    common = [(name, tuple(value.shape), tuple(own[name].shape)) for name, value in saved.items() if name in own]
    wrong += [f"{name} is {got}, wanted {wanted}" for name, got, wanted in common if got != wanted]
    if wrong:
        raise InputError(f"the weights in {folder} are not of the model that was built: {'; '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}")
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in saved.items():
        # the dtype is the saved one; the tensor object stays, as it may be shared
        tensors[name].data = tensors[name].data.to(value.dtype)
    model.load_state_dict(saved)


def _local(source: str | Path, revision: str | None, cache_dir: str | Path | None, token: str | bool | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or Path(source).exists() or not _REPO.fullmatch(source):
        raise InputError(f"{source} is no folder; expected one that foveal.save_pretrained wrote, or a repository of the hub as 'owner/name'")
    hub = _hub()
    try:
        return Path(hub.snapshot_download(source, revision=revision, cache_dir=cache_dir, token=token, allow_patterns=[_CONFIG, _WEIGHTS, _README]))
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{source} is no folder here, and the hub did not give a repository of that name: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        about = parse_json(path.read_text(encoding="utf8"), "its text")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; expected a folder that foveal.save_pretrained wrote") from None
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: it holds no JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        raise InputError(
            f"{path} was not written by foveal.save_pretrained: expected the format {_FORMAT!r}, got {got!r}; "
            "load the model with its own library, then convert it"
        )
    try:
        base, weights, conversion = about["base"], about["weights"], about["conversion"]
        whole = base.keys() == {"library", "name", "kwargs"} and weights.keys() == {"file", "fingerprint"} and weights["file"] == _WEIGHTS
        if not whole or (conversion is not None and conversion.keys() != {"base", "steps", "new", "start"}):
            raise ValueError("fields are missing or foreign")
        if conversion is not None:
            check_steps(conversion["steps"], path)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from error
    return about


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise missing_extra("safetensors", "hf", "loading a model") from error
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, SafetensorError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # besides its own error the reader raises what it comes upon, such as a type of numbers that PyTorch has not
        raise InputError(f"{path} is damaged, or no safetensors file: {error}") from error


def _write_weights(path: Path, state: dict[str, Tensor]) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise missing_extra("safetensors", "hf", "saving a model") from error
    # a tensor that is stored under two names is written once a name: the file has no notion of sharing
    seen: set[int] = set()
    tensors = {}
    for name, value in state.items():
        tensors[name] = value.detach().cpu().contiguous()
        if tensors[name].data_ptr() in seen or tensors[name].untyped_storage().nbytes() != tensors[name].nbytes:
            tensors[name] = tensors[name].clone()
        seen.add(tensors[name].data_ptr())
    save_file(tensors, path, metadata={"format": "pt"})


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hf", "the hub") from error
    return huggingface_hub
