"""Models as files that other programs run, ONNX and PyTorch's own, held against the model before they get their name."""

from ._write import FORMATS, Exported, example_images, export_model

__all__ = ["FORMATS", "Exported", "example_images", "export_model"]
