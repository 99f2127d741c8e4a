"""``foveal info``."""

from ._base import Nothing, parse

__all__ = ["info"]


_PACKAGES: tuple[str, ...] = ("foveal", "torch", "einops", "timm", "torchvision", "transformers", "accelerate", "peft", "safetensors", "matplotlib")
_PACKAGES += ("huggingface_hub", "onnx", "onnxscript", "onnxruntime")


def info(words: list[str]) -> None:
    """Versions and devices, for bug reports."""
    parse(Nothing, "info", words)
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
