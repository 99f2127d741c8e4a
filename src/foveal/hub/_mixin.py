"""``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` as methods of our own models, in the folders of :mod:`foveal.hub`."""

from pathlib import Path
from typing import Any, Self

from torch import nn

from .._errors import InputError, missing_extra
from ._card import Card
from ._folder import from_pretrained, push_to_hub, save_pretrained

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise missing_extra("huggingface_hub", "timm", "foveal.models") from error

__all__ = ["HubMixin"]


class HubMixin(PyTorchModelHubMixin, library_name="foveal"):
    """The hub's mixin remembers the arguments that a model was made with; the files are ours, and know of conversions."""

    def save_pretrained(self, folder: str | Path, *, card: Card | None = None) -> Path:  # type: ignore[override]
        """See :func:`foveal.save_pretrained`."""
        assert isinstance(self, nn.Module), "mixed into modules"
        return save_pretrained(self, folder, card=card)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """See :func:`foveal.from_pretrained`.

        Raises:
            ValueError: as there; the folder holds a model of another class.
        """
        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise InputError(f"{source} holds a {type(model).__name__}, not a {cls.__name__}; load it with foveal.from_pretrained")
        return model

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """See :func:`foveal.push_to_hub`."""
        assert isinstance(self, nn.Module), "mixed into modules"
        return push_to_hub(self, repo_id, **options)
