"""A model and an image: which model a word means, how it is loaded, what its attention maps are, and how they are drawn."""

from typing import TYPE_CHECKING, Any

from ..._renamed import moved_member
from . import _extra  # noqa: F401  # the first: it says which package is missing
from .conversion import convert_named_
from .drawn import inspect_drawn
from .images import open_image, open_pair
from .loaded import Inspection, LoadedModel
from .loading import LOADERS, load_model
from .maps import class_token_maps, maps_over_image
from .model_page import inspect_model
from .probes_page import inspect_probes, takes_probes
from .reference import SOURCES, ModelReference, resolve_model
from .run_page import inspect_run
from .video import inspect_video, open_video, sample_of_test

__all__ = [
    "LOADERS",
    "SOURCES",
    "Inspection",
    "LoadedModel",
    "ModelReference",
    "class_token_maps",
    "convert_named_",
    "inspect_drawn",
    "inspect_model",
    "inspect_probes",
    "inspect_run",
    "inspect_video",
    "load_model",
    "maps_over_image",
    "open_image",
    "open_pair",
    "open_video",
    "resolve_model",
    "sample_of_test",
    "takes_probes",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from ._old_names import OLD

        return moved_member(__name__, name, {old: new for old, (new, _) in OLD.items()}, dict(OLD.values()))
