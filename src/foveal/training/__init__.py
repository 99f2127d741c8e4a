"""Training: a recipe in, a run folder out. The loop is short and ours; accelerate does the plumbing."""

from . import _extra  # noqa: F401  # the first: it says which package is missing
from .checkpoint import latest_checkpoint, read_checkpoint, read_weights, restore
from .loop import Interrupted, build_model, evaluate, fit, load_data, load_run, scalars
from .recipe import Data, Optim, Recipe, model_from_dict, model_to_dict, read_json, write_json

__all__ = [
    "Data",
    "Interrupted",
    "Optim",
    "Recipe",
    "build_model",
    "evaluate",
    "fit",
    "latest_checkpoint",
    "load_data",
    "load_run",
    "model_from_dict",
    "model_to_dict",
    "read_checkpoint",
    "read_json",
    "read_weights",
    "restore",
    "scalars",
    "write_json",
]
