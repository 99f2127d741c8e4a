"""Training: a recipe in, a run folder out. The loop is short and ours; accelerate does the plumbing."""

from . import _extra  # noqa: F401  # the first: it says which package is missing
from .checkpoint import latest_checkpoint, read_checkpoint, read_weights, restore
from .fitting import fit
from .judging import Diverged, evaluate, scalars
from .loop import Interrupted
from .models import build_model, load_data, load_run
from .reading import read_json, write_json
from .recipe import Data, Optim, Recipe, model_from_dict, model_to_dict
from .reference import reference_partition

__all__ = [
    "Data",
    "Diverged",
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
    "reference_partition",
    "restore",
    "scalars",
    "write_json",
]
