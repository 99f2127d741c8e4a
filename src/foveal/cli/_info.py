"""``foveal info``."""

from .._errors import InputError
from ._verbs import VERBS

__all__ = ["info"]


_PACKAGES: tuple[str, ...] = ("foveal", "torch", "einops", "timm", "torchvision", "transformers", "accelerate", "peft", "safetensors", "matplotlib")
_PACKAGES += ("huggingface_hub", "onnx", "onnxscript", "onnxruntime")


def info(words: list[str]) -> None:
    """Versions and devices, for bug reports."""
    # read by hand: it has to answer where nothing but torch is installed
    if words in (["-h"], ["--help"]):
        print(f"usage: foveal info\n\n{VERBS['info'].about}\n\nExample: {VERBS['info'].example}")
        return
    if words:
        raise InputError(f"foveal info takes no options, got {' '.join(words)}")
    import platform
    import warnings
    from importlib.metadata import PackageNotFoundError, version

    # torch says that NumPy is not there, which is as it should be where nothing but torch is installed
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch

    print(f"python           {platform.python_version()} on {platform.platform(terse=True)}")
    for package in _PACKAGES:
        try:
            print(f"{package:<17}{version(package)}")
        except PackageNotFoundError:
            print(f"{package:<17}not installed")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    print(f"device           {device}, {torch.get_num_threads()} threads")
